"""How a source lies against its target: rigid registration by mutual information, to measure.

A copy of a dataset can be written in which the sources that lie off are moved onto their targets.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray
from scipy import ndimage

from gdmnet.arrays.body import body_mask
from gdmnet.data.case import CaseFiles, Volume
from gdmnet.data.dicom_objects import registered_geometry
from gdmnet.data.raw import read_description, write_description
from gdmnet.data.regrid import as_image, regrid
from gdmnet.data.volume import read_volume, write_volume
from gdmnet.datasets.conversion import is_whole, own_number
from gdmnet.errors import DatasetError
from gdmnet.files import whole_folder
from gdmnet.geometry import Geometry, lps_frame, to_lps, to_stored
from gdmnet.parallel import map_cases

TRANSFORMS = "transforms"
LARGEST_SHIFT = 2.0  # mm
LARGEST_TURN = 2.0  # degrees
_GAIN = 1.03  # of information, without which a motion is not believed
_MIRRORED = 1.15  # times the information: mirrored sound pairs have 0.14 to 0.73 of it
_COARSE, _FINE = 4.0, 2.0  # mm
_THINNEST = 4  # slices, below which a motion through the plane cannot be seen
RELATED = 0.03  # nats: what images of two patients have in common at most
_HEIGHTS = (0.0, -40.0, 40.0, -80.0, 80.0)  # mm
_LEAST_COVERED = 0.2  # of the fixed image's body
_SMALLEST_STEP = 1e-3  # mm
_N_STEPS = 60
_N_SAMPLES = 30_000
_N_BINS = 32
_SEED = 1

Point = tuple[float, float, float]


@dataclass(frozen=True)
class RigidMotion:
    """A rigid motion in the space of the files (LPS), and what it is worth."""

    translation: Point  # (x, y, z) in mm: by how much the source lies off, at the centre
    angles: Point  # about (x, y, z) in degrees, as ITK's Euler3DTransform composes them
    centre: Point  # (x, y, z) in mm
    information: float  # mutual information in nats once the motion is undone
    information_before: float  # the same as the files lie

    @property
    def distance(self) -> float:
        """Length of the translation in mm."""
        return float(np.linalg.norm(self.translation))

    @property
    def angle(self) -> float:
        """Angle of the whole rotation in degrees."""
        trace = sum(self.transform.GetMatrix()[::4])
        return float(np.degrees(np.arccos(np.clip((trace - 1) / 2, -1, 1))))

    @property
    def transform(self) -> sitk.Euler3DTransform:
        """Maps points of the target to points of the source: what a resampler takes."""
        x, y, z = np.radians(self.angles)
        return sitk.Euler3DTransform(self.centre, x, y, z, self.translation)


@dataclass(frozen=True)
class Alignment:
    """How one source channel lies against the target."""

    motion: RigidMotion
    distance: float  # of the motion, mm
    angle: float  # of the motion, degrees
    mirrored_information: float  # nats, of the channel mirrored left-right and registered again

    @property
    def is_mirrored(self) -> bool:
        """True where the mirrored channel fits clearly better."""
        return self.mirrored_information > _MIRRORED * self.motion.information

    @property
    def is_off(self) -> bool:
        """True where the channel lies further off than pairs may, and undoing it helps."""
        gained = self.motion.information > _GAIN * self.motion.information_before
        return gained and (self.distance > LARGEST_SHIFT or self.angle > LARGEST_TURN)

    @property
    def is_movable(self) -> bool:
        """True where a registered copy moves the channel; a mirrored one is mended by hand."""
        return self.is_off and not self.is_mirrored


def align(
    sources: NDArray, target: NDArray, compared: NDArray, geometry: Geometry
) -> tuple[Alignment, ...]:
    """How every channel of (c, z, y, x) lies against a target (z, y, x) on the same grid, in LPS.

    The images, of any unit, are compared where the bool (z, y, x) says so.

    Returns:
        One a channel; none where the volume is too thin to tell.

    Raises:
        DatasetError: a source and the target do not overlap enough.
    """
    if min(geometry.shape) < _THINNEST or not compared.any():
        return ()
    steady = _windowed(target, compared)
    found = []
    for source in sources:
        image = _windowed(source, compared)
        motion, mirrored = (
            _register(seen, steady, compared, geometry)
            for seen in (image, _mirrored(image, compared))
        )
        found.append(Alignment(motion, motion.distance, motion.angle, mirrored.information))
    return tuple(found)


def register(
    source: NDArray,
    target: NDArray,
    mask: NDArray,
    geometry: Geometry,
    *,
    grain: float,
    start: RigidMotion | None = None,
) -> RigidMotion:
    """How a source lies relative to its target; nothing is changed.

    Mattes' mutual information (IEEE TMI 22, 120, 2003) of random samples inside a mask, climbed in
    regular steps; seeded, so that the same files give the same figures (but for the last digits).

    Args:
        source: (z, y, x) in LPS, any unit.
        target: (z, y, x).
        mask: (z, y, x), non-zero where the images are compared.
        geometry: of all, with at least four voxels along each axis.
        grain: mm to which both are smoothed; coarse grains see farther, fine ones sharper.
        start: the motion to begin with, of a coarser grain; None is no motion.

    Returns:
        The motion about the mask's centre of gravity.

    Raises:
        DatasetError: the images do not overlap enough.
        ValueError: the mask is empty.
    """
    motion = start.transform if start else sitk.Euler3DTransform(_centre(mask, geometry))
    still = sitk.Euler3DTransform(motion.GetCenter())
    fixed, moving = (_smoothed(image, geometry, grain) for image in (target, source))
    share = min(1.0, _N_SAMPLES / (np.mean(mask != 0) * fixed.GetNumberOfPixels()))
    method = _method(sitk.Cast(as_image(mask, geometry), sitk.sitkUInt8), share, grain / 2)
    try:
        method.SetInitialTransform(still, inPlace=True)
        before = -method.MetricEvaluate(fixed, moving)
        method.SetInitialTransform(motion, inPlace=True)
        method.Execute(fixed, moving)
        method.SetInitialTransform(motion, inPlace=True)
        after = -method.MetricEvaluate(fixed, moving)
    except RuntimeError:  # all samples beside the source
        raise DatasetError(
            "source and target do not overlap enough to be registered; look at both"
        ) from None
    x, y, z = np.degrees([motion.GetAngleX(), motion.GetAngleY(), motion.GetAngleZ()]).tolist()
    return RigidMotion(motion.GetTranslation(), (x, y, z), motion.GetCenter(), after, before)


def move(motion: RigidMotion, source: Volume, *, linear: bool = False) -> NDArray:
    """The first channel (z, y, x) of a source on its target's place: the motion undone, same grid.

    Cubic B-splines within the range of the image, or linear. What lay outside continues the image's
    edge: any constant could be taken for a background that somebody masked.
    """
    array = source.array[0]
    image = as_image(array, source.geometry)
    kind = sitk.sitkLinear if linear else sitk.sitkBSpline
    resampled = sitk.Resample(
        image, image, motion.transform, kind, useNearestNeighborExtrapolator=True
    )
    moved = sitk.GetArrayFromImage(resampled)  # a view would dangle
    return np.clip(moved, array.min(), array.max())


def register_apart(moving: Volume, fixed: Volume, *, are_ct: tuple[bool, bool]) -> NDArray:
    """The rigid motion that brings an image of another frame of reference onto a fixed one.

    The bodies' centres are laid on each other, then mutual information is climbed from several
    heights: one scan may show more of the patient than the other. Either may be in HU.

    Returns:
        The matrix (4, 4) of points of the moving image to points of the fixed one, in mm.

    Raises:
        DatasetError: too few slices, or the images have hardly anything in common there.
    """
    if min(fixed.geometry.shape) < _THINNEST:
        raise DatasetError(f"less than {_THINNEST} slices cannot be registered")
    centres = []
    for volume, is_ct in zip((moving, fixed), are_ct, strict=True):
        mask, _ = body_mask(volume.array, volume.geometry.spacing, [is_ct])
        centres.append(_centre(mask, volume.geometry))
    starts = np.tile(np.eye(4), (len(_HEIGHTS), 1, 1))
    starts[:, :3, 3] = np.subtract(centres[1], centres[0])
    starts[:, 2, 3] += _HEIGHTS
    steady = _windowed(fixed.array[0], mask != 0)
    compare = partial(_found, moving, steady, mask, fixed.geometry)
    _, matrix = max((compare(_COARSE, start) for start in starts), key=itemgetter(0))
    information, matrix = compare(_FINE, matrix)
    if information < RELATED:
        raise DatasetError(
            "source and target have hardly anything in common once registered; are they of one"
            " patient?"
        )
    return matrix


def write_registered(
    folder: Path,
    copy: Path,
    cases: Sequence[CaseFiles],
    alignments: Mapping[str, Sequence[Alignment]],
    *,
    n_processes: int = 1,
) -> list[str]:
    """Copy a dataset and undo the motion of every channel that is off by more than it may be.

    Targets are never touched: they keep their sharpness and their units. A moved source is
    interpolated once (cubic); its mask moves with the first channel. Each motion lies in
    transforms/CASE_0000.tfm, to be read by ITK, Slicer and elastix.

    Args:
        folder: the dataset.
        copy: its new folder, from `new_dataset`.
        cases: training and test cases.
        alignments: case -> one a channel.
        n_processes: worker processes.

    Returns:
        The names of the images that were moved: CASE_0000.

    Raises:
        BusyError: another process writes a dataset of this number.
        OutputError: the copy cannot be written.
    """
    description = read_description(folder)
    with own_number(copy), whole_folder(copy) as aside:
        shutil.copytree(folder, aside, dirs_exist_ok=True)
        (aside / TRANSFORMS).mkdir(exist_ok=True)
        move_case = partial(_move_case, alignments=alignments, folder=folder, copy=aside)
        moved = map_cases(move_case, cases, n_processes=n_processes, title="registering")
        names = [name for case in moved for name in case]
        before = description.metadata.get("registered", [])  # gdm_convert's say is an object
        now = [*(before if isinstance(before, list) else [before]), *names]
        metadata = {**description.metadata, "registered": now}
        write_description(aside, replace(description, metadata=metadata))
    return names


def _move_case(
    files: CaseFiles, *, alignments: Mapping[str, Sequence[Alignment]], folder: Path, copy: Path
) -> list[str]:
    moved = []
    own = alignments[files.identifier]
    for channel, (path, alignment) in enumerate(zip(files.sources, own, strict=False)):
        if not alignment.is_movable:
            continue
        volume = read_volume(path)
        image = move(alignment.motion, volume)
        place = copy / path.relative_to(folder)
        write_volume(place, Volume(image[None], volume.geometry), integer=is_whole(volume.array))
        name = f"{files.identifier}_{channel:04d}"
        record = copy / TRANSFORMS / f"{name}.tfm"
        transform: sitk.Transform = alignment.motion.transform
        if record.exists():  # moved once before: the whole way to the first source
            transform = sitk.CompositeTransform([sitk.ReadTransform(str(record)), transform])
            transform.FlattenTransform()
        sitk.WriteTransform(transform, str(record))
        moved.append(name)
        if channel == 0 and files.mask is not None:
            mask = read_volume(files.mask)
            inside = move(alignment.motion, mask, linear=True) >= 0.5
            whole = Volume(inside[None].astype(np.float32), mask.geometry)
            write_volume(copy / files.mask.relative_to(folder), whole, integer=True)
    return moved


def _found(
    moving: Volume, fixed: NDArray, mask: NDArray, geometry: Geometry, grain: float, matrix: NDArray
) -> tuple[float, NDArray]:
    """Information times the body's share that is covered, and the matrix, from a first guess."""
    placed = registered_geometry(moving.geometry, matrix)
    start = Volume(to_lps(to_stored(moving.array[0], moving.geometry), placed)[None], placed)
    image = regrid(start, geometry, fill=float(moving.array.min())).array[0]
    ones = Volume(np.ones_like(start.array), placed)
    covered = (regrid(ones, geometry, fill=0.0).array[0] > 0.5) & (mask != 0)
    share = float(covered.sum() / np.count_nonzero(mask))
    if share < _LEAST_COVERED:
        return 0.0, matrix
    try:
        motion = register(_windowed(image, covered), fixed, covered, geometry, grain=grain)
    except DatasetError:
        return 0.0, matrix
    turn = np.eye(4)
    turn[:3, :3] = np.reshape(motion.transform.GetMatrix(), (3, 3))
    turn[:3, 3] = motion.transform.TransformPoint((0.0, 0.0, 0.0))
    return motion.information * share, np.linalg.inv(turn) @ matrix


def _register(source: NDArray, target: NDArray, mask: NDArray, geometry: Geometry) -> RigidMotion:
    coarse = register(source, target, mask, geometry, grain=_COARSE)
    return register(source, target, mask, geometry, grain=_FINE, start=coarse)


def _windowed(image: NDArray, mask: NDArray) -> NDArray:
    """Without extremes, which would take most of the metric's bins; air stays."""
    low, high = np.percentile(image[mask], (0.5, 99.5))
    return np.clip(image, min(low, float(np.percentile(image, 0.5))), high)


def _mirrored(image: NDArray, mask: NDArray) -> NDArray:
    """Left and right exchanged about the middle of the mask: there the other hemisphere lies."""
    x = np.flatnonzero(mask.any(axis=(0, 1)))
    offset = int(x[0] + x[-1]) - (image.shape[2] - 1)
    return ndimage.shift(image[:, :, ::-1], (0, 0, offset), order=0, cval=float(image.min()))


def _method(inside: sitk.Image, share: float, step: float) -> sitk.ImageRegistrationMethod:
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(_N_BINS)
    method.SetMetricFixedMask(inside)
    method.SetMetricUseFixedImageGradientFilter(False)  # differences where samples lie are enough
    method.SetMetricUseMovingImageGradientFilter(False)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(share, _SEED)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        step, _SMALLEST_STEP, _N_STEPS, relaxationFactor=0.6, gradientMagnitudeTolerance=1e-8
    )
    method.SetOptimizerScalesFromPhysicalShift()
    return method


def _smoothed(array: NDArray, geometry: Geometry, grain: float) -> sitk.Image:
    """Smoothed as if for a grid of `grain` mm, and thinned out to nearly that."""
    sides = np.array(geometry.spacing)
    smooth = ndimage.gaussian_filter(
        array.astype(np.float32), np.maximum(0, (grain / sides - 1) / 2), mode="nearest"
    )
    z, y, x = np.maximum(1, np.floor(grain / sides + 1e-3)).astype(int).tolist()
    return as_image(smooth, geometry)[::x, ::y, ::z]


def _centre(mask: NDArray, geometry: Geometry) -> Point:
    origin, direction = lps_frame(geometry)
    voxel = np.array(ndimage.center_of_mass(mask != 0)[::-1])
    x, y, z = origin + direction @ (voxel * geometry.spacing[::-1])
    return float(x), float(y), float(z)
