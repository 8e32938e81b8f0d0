"""How far a source lies from its target: a rigid registration by mutual information, to measure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray
from scipy import ndimage

from gdmnet.data.regrid import as_image
from gdmnet.errors import DatasetError
from gdmnet.geometry import Geometry, lps_frame

Point = tuple[float, float, float]

THINNEST = 4  # slices, below which a motion through the plane cannot be seen
_SMALLEST_STEP = 1e-3  # mm
_N_STEPS = 60
_N_SAMPLES = 30_000
_N_BINS = 32
_SEED = 1


@dataclass(frozen=True)
class RigidMotion:
    """A rigid motion in the space of the files (LPS, mm), and what it is worth.

    Attributes:
        translation: (x, y, z) in mm: by how much the source lies off, at the centre.
        angles: about the axes (x, y, z) in degrees, as ITK's Euler3DTransform composes them.
        centre: (x, y, z) in mm.
        information: mutual information in nats once the motion is undone.
        information_before: the same as the files lie.
    """

    translation: Point
    angles: Point
    centre: Point
    information: float
    information_before: float

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
        target: (z, y, x) on the same grid.
        mask: (z, y, x), non-zero where the images are compared.
        geometry: of the grid, with at least `THINNEST` voxels along each axis.
        grain: mm to which both are smoothed; coarse grains see farther, fine ones sharper.
        start: the motion to begin with, of a coarser grain; None is no motion.

    Returns:
        The motion about the mask's centre of gravity.

    Raises:
        DatasetError: the images do not overlap enough.
        ValueError: the mask is empty.
    """
    motion = start.transform if start else _still(_centre(mask, geometry))
    fixed, moving = (_smoothed(image, geometry, grain) for image in (target, source))
    share = min(1.0, _N_SAMPLES / (np.mean(mask != 0) * fixed.GetNumberOfPixels()))
    method = _method(sitk.Cast(as_image(mask, geometry), sitk.sitkUInt8), share, grain / 2)
    try:
        before = _information(method, fixed, moving, _still(motion.GetCenter()))
        method.SetInitialTransform(motion, inPlace=True)
        method.Execute(fixed, moving)
        after = _information(method, fixed, moving, motion)
    except RuntimeError:  # all samples beside the source
        raise DatasetError(
            "source and target do not overlap enough to be registered; look at both"
        ) from None
    x, y, z = np.degrees([motion.GetAngleX(), motion.GetAngleY(), motion.GetAngleZ()]).tolist()
    return RigidMotion(motion.GetTranslation(), (x, y, z), motion.GetCenter(), after, before)


def move(
    source: NDArray, motion: RigidMotion, geometry: Geometry, *, linear: bool = False
) -> NDArray:
    """A source (z, y, x) brought onto its target's place: the motion undone, on the same grid.

    Cubic B-splines within the range of the image, or linear. What lay outside continues the image's
    edge: any constant could be taken for a background that somebody masked.
    """
    image = as_image(source, geometry)
    kind = sitk.sitkLinear if linear else sitk.sitkBSpline
    resampled = sitk.Resample(
        image, image, motion.transform, kind, useNearestNeighborExtrapolator=True
    )
    moved = sitk.GetArrayFromImage(resampled)  # a view would dangle
    return np.clip(moved, source.min(), source.max())


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


def _information(
    method: sitk.ImageRegistrationMethod,
    fixed: sitk.Image,
    moving: sitk.Image,
    motion: sitk.Euler3DTransform,
) -> float:
    method.SetInitialTransform(motion, inPlace=True)
    return -float(method.MetricEvaluate(fixed, moving))


def _smoothed(array: NDArray, geometry: Geometry, grain: float) -> sitk.Image:
    """Smoothed as if for a grid of `grain` mm, and thinned out to nearly that."""
    sides = np.array(geometry.spacing)
    smooth = ndimage.gaussian_filter(
        array.astype(np.float32), np.maximum(0, (grain / sides - 1) / 2), mode="nearest"
    )
    z, y, x = np.maximum(1, np.floor(grain / sides + 1e-3)).astype(int).tolist()
    return as_image(smooth, geometry)[::x, ::y, ::z]


def _still(centre: Point) -> sitk.Euler3DTransform:
    motion = sitk.Euler3DTransform()
    motion.SetCenter(centre)
    return motion


def _centre(mask: NDArray, geometry: Geometry) -> Point:
    origin, direction = lps_frame(geometry)
    voxel = np.array(ndimage.center_of_mass(mask != 0)[::-1])
    x, y, z = origin + direction @ (voxel * geometry.spacing[::-1])
    return float(x), float(y), float(z)
