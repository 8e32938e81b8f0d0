"""Is a paired dataset sound? Overlap, misregistration, mirroring, units, contrast, look-alikes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from gdmnet.arrays.body import NON_ZERO, body_mask
from gdmnet.arrays.crop import bounding_box, crop
from gdmnet.arrays.normalise import scheme_of
from gdmnet.arrays.resample import resample
from gdmnet.data.case import CaseFiles
from gdmnet.data.hounsfield import why_not_hounsfield
from gdmnet.data.raw import Description
from gdmnet.data.volume import read_channels, read_volume
from gdmnet.datasets.registration import LARGEST_SHIFT, LARGEST_TURN, RELATED, Alignment, align
from gdmnet.errors import DatasetError
from gdmnet.geometry import Spacing, grid_difference
from gdmnet.metrics.structures import dice
from gdmnet.parallel import map_cases

LEAST_OVERLAP = 0.6  # Dice of the bodies; an MR's body ends some mm inside a CT's
LIMITS = {"mm": LARGEST_SHIFT, "degrees": LARGEST_TURN, "Dice": LEAST_OVERLAP}
_RIM = 6.0  # mm: what a brain extraction cut is the same edge in both images, wherever they lie
_PADDING = -1900.0  # HU; scanners fill corners with -2000, -2048 or -3024
_AIR = (-1100.0, -900.0)
_SOFT = (-140.0, 110.0)  # fat near -100, muscle and brain near 40
_BONE = 200.0  # HU that one voxel in a thousand of any body exceeds
_SHARES = (1, 5, 10, 25, 50, 75, 90, 95, 99)  # per cent
_UNLIKE, _DEVIATIONS = 0.2, 4.0
_SCALE = 20.0  # scanners differ by a factor of ten
_SIDE, _COARSE = 32, 2.0
_ALIKE = 0.9  # different brains reach 0.80, the same one shifted and with noise 0.95


@dataclass(frozen=True)
class CaseFacts:
    """What was measured of one case, and what a person should look at."""

    identifier: str
    body_rules: tuple[str, ...] = ()  # how the bodies of source and target were found
    overlap: float | None = None  # Dice of the two bodies, inside the given mask if there is one
    alignments: tuple[Alignment, ...] = ()  # a source channel; none for volumes too thin to tell
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class DatasetCheck:
    """The contents of check.json."""

    SCHEMA: ClassVar[int] = 1
    schema: int
    dataset: str  # its full name
    limits: dict[str, float]  # mm, degrees and Dice, beyond which a case is flagged
    complaints: tuple[str, ...]  # of the integrity check, which gdm_plan_and_preprocess refuses
    cases: tuple[CaseFacts, ...]  # training cases, then test cases

    @property
    def is_sound(self) -> bool:
        """True if nothing is flagged."""
        return not self.complaints and not any(case.flags for case in self.cases)


@dataclass(frozen=True)
class _Examined:
    """Facts of a case, and what is compared between cases: by image, source channels first."""

    facts: CaseFacts
    medians: tuple[float, ...] = ()
    contrasts: tuple[tuple[float, ...], ...] = ()
    signature: NDArray | None = None


def examine_dataset(
    cases: Sequence[CaseFiles], description: Description, *, n_processes: int = 1
) -> list[CaseFacts]:
    """Measure every case, and hold the cases against each other: facts of each, in their order.

    A file that cannot be read is a flag of its case.

    Raises:
        WorkerDiedError: a worker was killed.
    """
    examine = partial(_examine, description=description)
    examined = map_cases(examine, cases, n_processes=n_processes, title="examining")
    flags = [list(case.facts.flags) for case in examined]
    for number, name in enumerate((*description.channel_names, description.target_name)):
        if scheme_of(name, target=False) == "ct":
            continue  # has a unit, and was held against that
        there = [i for i, case in enumerate(examined) if len(case.medians) > number]
        medians = [examined[i].medians[number] for i in there]
        contrasts = [examined[i].contrasts[number] for i in there]
        for i, oddity in zip(there, outliers(medians, contrasts), strict=True):
            flags[i] += [f"{name}: {oddity}"] if oddity else []
    for i, j, similarity in look_alikes([case.signature for case in examined]):
        flags[j].append(
            f"looks like the same patient as {cases[i].identifier} (similarity {similarity:.2f}"
            " of 1): keep both on one side of every split, or remove one"
        )
    return [
        replace(case.facts, flags=tuple(own)) for case, own in zip(examined, flags, strict=True)
    ]


def _examine(files: CaseFiles, description: Description) -> _Examined:
    try:
        return _measure(files, description)
    except DatasetError as error:
        return _Examined(CaseFacts(files.identifier, flags=(str(error),)))


def _measure(files: CaseFiles, description: Description) -> _Examined:
    if files.target is None or len(files.sources) != len(description.channel_names):
        raise DatasetError("a channel or the target is missing")
    source, target = read_channels(files.sources), read_volume(files.target)
    mask = None if files.mask is None else read_volume(files.mask)
    for volume, what in ((target, "target"), (mask, "mask")):
        difference = volume and grid_difference(source.geometry, volume.geometry)
        if difference:
            raise DatasetError(f"source and {what} lie on different grids: {difference}")
    spacing = source.geometry.spacing
    is_ct = [scheme_of(name, target=False) == "ct" for name in description.channel_names]
    target_is_ct = scheme_of(description.target_name, target=True) == "ct"
    body, rule = body_mask(source.array, spacing, is_ct)
    target_body, target_rule = body_mask(target.array, spacing, [target_is_ct])
    region = True if mask is None else mask.array[0] > 0
    inside, target_inside = (body != 0) & region, (target_body != 0) & region
    flags = []
    if target_is_ct:
        doubt = why_not_plausible(target.array[0], target_body)
        flags += [f"{description.target_name}: {doubt}"] if doubt else []
    overlap = dice(inside, target_inside) if (inside | target_inside).any() else 0.0
    if overlap < LEAST_OVERLAP:
        flags.append(f"the bodies of source and target overlap by {overlap:.2f} only (Dice)")
    zeroed = NON_ZERO in (rule, target_rule)
    compared = _compared(inside, target_inside, spacing, zeroed=zeroed)
    alignments: tuple[Alignment, ...] = ()
    try:
        alignments = align(source.array, target.array[0], compared, source.geometry)
    except DatasetError as problem:
        flags.append(str(problem))
    for name, alignment in zip(description.channel_names, alignments, strict=False):
        flags += _alignment_flags(name, alignment)
    images = [(image, body) for image in source.array] + [(target.array[0], target_body)]
    return _Examined(
        CaseFacts(files.identifier, (rule, target_rule), overlap, alignments, tuple(flags)),
        tuple(float(np.median(image[own != 0])) for image, own in images),
        tuple(contrast(image, own) for image, own in images),
        signature(source.array[0], body),
    )


def _alignment_flags(name: str, alignment: Alignment) -> list[str]:
    if max(alignment.motion.information, alignment.mirrored_information) < RELATED:
        return [f"{name}: has hardly anything in common with the target; are they of one patient?"]
    if alignment.is_mirrored:
        return [f"{name}: mirrored left-right against the target"]
    if alignment.is_off:
        x, y, z = alignment.motion.translation
        return [
            f"{name}: {alignment.distance:.1f} mm (x {x:.1f}, y {y:.1f}, z {z:.1f}) and"
            f" {alignment.angle:.1f} degrees off the target"
        ]
    return []


def _compared(body: NDArray, target_body: NDArray, spacing: Spacing, *, zeroed: bool) -> NDArray:
    """Where the images are compared: both bodies with what is around, or well inside of both."""
    both = body & target_body
    if zeroed:
        deep = ndimage.distance_transform_edt(both, sampling=spacing) > _RIM
        if deep.sum() > 0.2 * both.sum():
            return deep
    return body | target_body


def why_not_plausible(image: NDArray, body: NDArray) -> str | None:
    """Why a CT's values inside and outside the body cannot be Hounsfield units; None if they can.

    Image and body are (z, y, x), the body non-zero inside.
    """
    reason = why_not_hounsfield(image)
    if reason is not None:
        return reason
    outside = image[(body == 0) & (image > _PADDING)]
    if outside.size:
        air = float(np.median(outside))
        if not _AIR[0] <= air <= _AIR[1]:
            return f"not in HU: air outside the body is at {air:.0f}, not near -1000"
    inside = image[body != 0]
    bone = float(np.percentile(inside, 99.9))
    if bone < _BONE:
        return f"no bone: 99.9 % of the body lies below {bone:.0f} HU; was the CT windowed?"
    counts, edges = np.histogram(inside, np.arange(-300, 401, 10))
    smooth = ndimage.gaussian_filter1d(counts.astype(float), 1.5)
    soft = float(edges[int(smooth.argmax())] + 5)
    if not _SOFT[0] <= soft <= _SOFT[1]:
        return f"not in HU: most of the soft tissue is at {soft:.0f}, not between -140 and 110"
    return None


def contrast(image: NDArray, body: NDArray) -> tuple[float, ...]:
    """The shape of an image's histogram inside the body, free of scale and offset.

    Percentiles 1 to 99 less the median, in units of the distance between percentiles 5 and 95.
    """
    values = np.percentile(image[body != 0], _SHARES)
    spread = max(float(values[7] - values[1]), 1e-12)
    return tuple(float(value) for value in (values - values[4]) / spread)


def outliers(medians: Sequence[float], contrasts: Sequence[tuple[float, ...]]) -> list[str | None]:
    """What sets an image apart from its peers of the same channel; None for most.

    Each has its median inside the body and its `contrast`.
    """
    if len(medians) < 3:  # who is the odd one out?
        return [None] * len(medians)
    curves = np.array(contrasts)
    distances = np.abs(curves - np.median(curves, axis=0)).mean(axis=1)
    limit = max(_UNLIKE, _DEVIATIONS * float(np.median(distances)))
    usual = float(np.median(medians))
    found: list[str | None] = []
    for median, distance in zip(medians, distances, strict=True):
        ratio = median / usual if usual else 1.0
        if distance > limit:
            found.append("another contrast than the other cases; is it the right sequence?")
        elif not 1 / _SCALE <= ratio <= _SCALE:
            found.append(f"values {ratio:.3g} times those of the other cases; is the scale right?")
        else:
            found.append(None)
    return found


def signature(image: NDArray, body: NDArray) -> NDArray:
    """A fingerprint of the anatomy: float32 (32768,), of length 1.

    The body's box on 32 x 32 x 32 voxels, without what is smooth: all heads are alike there.
    """
    box = bounding_box(body)
    small = resample(crop(image, box)[None].astype(np.float32), (_SIDE,) * 3, order=1)[0]
    fine = small - ndimage.gaussian_filter(small, _COARSE)
    fine -= fine.mean()
    return (fine / max(float(np.linalg.norm(fine)), 1e-12)).ravel()


def look_alikes(signatures: Sequence[NDArray | None]) -> list[tuple[int, int, float]]:
    """Pairs (earlier, later, similarity up to 1) of images that seem to show one patient.

    The signature of an image that cannot be compared is None.
    """
    known = [(i, signature) for i, signature in enumerate(signatures) if signature is not None]
    if not known:
        return []
    stacked = np.stack([signature for _, signature in known])
    similarity = stacked @ stacked.T
    pairs = np.argwhere(np.triu(similarity > _ALIKE, 1))
    return [(known[i][0], known[j][0], float(similarity[i, j])) for i, j in pairs]
