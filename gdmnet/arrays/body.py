"""Which voxels belong to the patient, found from the sources alone, and where targets count."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import cc3d
import numpy as np
from acvl_utils.morphology.morphology_helper import cc3d_label_with_component_sizes
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu

from gdmnet.arrays.resample import resample, resampled_shape, resampled_slabs
from gdmnet.geometry import Shape, Spacing
from gdmnet.plan import Region

NON_ZERO, CT, OTSU, WHOLE = "non-zero", "above -500 HU", "otsu", "whole volume"
"""The rules; their names are written beside every mask that they made."""

_BETWEEN_AIR_AND_TISSUE = -500.0  # HU; lung is below, and comes back when holes are filled
_FINE = 2.0  # mm: what a mask is found on; its rim is finer
_COUCH = 5.0  # mm: opening by this much parts the shell of a couch from the back on it
_HOLDER = 8.0  # mm: and by this much the solid block of a head holder from the shoulder at it
_BLOCK = 0.025  # of the body: smaller than an arm
_SKIN = 3.0  # mm: Otsu cuts through the dark rim of the skin
_GAPS = 6.0  # mm: sinuses, cortical bone and metal leave gaps of this size
_BIAS = 40.0  # mm: the bias field of a coil varies more slowly than anatomy
_COARSE = 8.0  # mm: grid on which the bias field is found
_BEYOND = 0.1  # of the range of values: what lies further below its end counts as lying there
_FAR_BELOW = 0.2  # of the range of values: padding lies so far below its end
_RIM = 6.0  # mm: fluid around a brain is dark, and no noise
_DARK = 0.45  # of the root of the body's median: 0.2 of the intensity
_MOST_NOISE = 0.1  # of what is not 0


def body_mask(sources: NDArray, spacing: Spacing, is_ct: Sequence[bool]) -> tuple[NDArray, str]:
    """The patient's voxels, by the first rule that the kinds of the channels allow.

    1. "non-zero": channels other than CT of which all air is exactly zero (brain-extracted or
       masked scans): any of these channels is not 0.
    2. "above -500 HU": the CT channels.
    3. "otsu": a threshold after a rough bias correction, of the first channel.

    Padding is outside. Each is freed of small islands and filled slice by slice, because fluid is
    0 in some T1 scans and lungs are open at the end of the volume. Every hole that is closed in 3D
    is closed in each axial slice as well, so that filling the slices is enough.

    Grids that are finer are looked at in steps of up to 2 mm; the rim is then decided voxel by
    voxel.

    The sources are (c, z, y, x) in file units, LPS, and the spacing mm (z, y, x); `is_ct` says of
    each channel whether it is in HU. The mask is uint8 (z, y, x) and never empty.
    """
    sides = zip(spacing, sources.shape[1:], strict=True)
    steps = [max(1, min(n, int(_FINE / side))) for side, n in sides]
    every = (slice(None), *(slice(step // 2, None, step) for step in steps))
    z, y, x = (side * step for side, step in zip(spacing, steps, strict=True))
    look, coarse = sources[every], (z, y, x)
    rule, chosen = _rule_for(look, coarse, is_ct)
    tissue_of = _tissue_by(rule, look[chosen[0]], coarse)
    mask = _BODIES[rule](tissue_of([look[i] for i in chosen]), coarse)
    if max(steps) > 1:
        mask = _refined(mask, steps, tissue_of([sources[i] for i in chosen]))
    if rule == OTSU:
        mask = _grown(mask, _reach(spacing, _SKIN))
    if not any(is_ct):
        mask &= ~np.logical_and.reduce([padding(channel) for channel in sources])
    if not mask.any():
        return np.ones(mask.shape, dtype=np.uint8), WHOLE
    return mask.astype(np.uint8), rule


def _rule_for(sources: NDArray, spacing: Spacing, is_ct: Sequence[bool]) -> tuple[str, list[int]]:
    """The rule for these channels, and which of them it looks at."""
    zeroed = [i for i, ct in enumerate(is_ct) if not ct and is_masked(sources[i], spacing)]
    if zeroed:
        return NON_ZERO, zeroed
    scans = [i for i, ct in enumerate(is_ct) if ct]
    return (CT, scans) if scans else (OTSU, [0])


def _tissue_by(
    rule: str, image: NDArray, spacing: Spacing
) -> Callable[[Sequence[NDArray]], NDArray]:
    """What finds where any of the channels (z, y, x) is no air, bool (z, y, x), on any grid."""
    if rule == OTSU:
        bias = _bias_of(image, spacing)
        threshold = threshold_otsu(np.concatenate([*_flat_slabs(image, bias)]))
        return lambda images: np.concatenate(
            [flat > threshold for flat in _flat_slabs(images[0], bias)]
        )
    is_tissue = {NON_ZERO: lambda one: one != 0, CT: lambda one: one > _BETWEEN_AIR_AND_TISSUE}
    return lambda images: np.logical_or.reduce([is_tissue[rule](one) for one in images])


def _refined(coarse: NDArray, steps: Sequence[int], tissue: NDArray) -> NDArray:
    """A mask of every `step`-th voxel on the full grid of `tissue`, which decides its rim."""
    core, rim = ~_grown(~coarse, (1, 1, 1)), _grown(coarse, (1, 1, 1))
    for axis, (step, n) in enumerate(zip(steps, tissue.shape, strict=True)):
        nearest = np.minimum(np.arange(n) // step, coarse.shape[axis] - 1)
        core, rim = core.take(nearest, axis), rim.take(nearest, axis)
    return filled_slices(core | (rim & tissue))


def padding(image: NDArray) -> NDArray:
    """Voxels (z, y, x) that a resampling filled: one value below 0, far below all others, outside.

    They are joined to the border of the volume, and lie lower than the rest by at least a fifth of
    its range (percentiles 1 to 99).
    """
    lowest = image.min()
    if lowest < 0:
        low, high, _ = _range(image)
        if low - lowest >= _FAR_BELOW * (high - low):
            return joined_to_border(image == lowest)
    return np.zeros(image.shape, dtype=bool)


def is_masked(image: NDArray, spacing: Spacing) -> bool:
    """Whether all air of an image (z, y, x) is 0, and not only corners or a frame of it.

    What is not 0 may then be more than what a threshold finds, but not by much that is dark and
    joined to the outside: that is noise.
    """
    if not has_zero_background(image):
        return False
    steps = [max(1, int(_COARSE / 2 / side)) for side in spacing]  # a look is enough
    image = image[tuple(slice(None, None, step) for step in steps)]
    z, y, x = (side * step for side, step in zip(spacing, steps, strict=True))
    spacing, inside = (z, y, x), image != 0
    flat = np.concatenate([*_flat_slabs(image, _bias_of(image, spacing))])
    body = _otsu_body(flat > threshold_otsu(flat), spacing)
    bright = _grown(body, _reach(spacing, _SKIN))
    if not bright.any():
        return True
    far = ~_grown(bright, _reach(spacing, _RIM))
    dark = inside & far & (flat < _DARK * np.median(flat[bright]))
    noise = joined_to_border(dark | ~inside) & dark
    return bool(noise.sum() <= _MOST_NOISE * inside.sum())


def has_zero_background(image: NDArray) -> bool:
    """Whether air is exactly 0 in an image (z, y, x): masked by somebody, or zero-padded.

    At least 2 % of the volume are zeros that are joined to its border, and where zeros prevail
    nine in ten voxels are zero. Noise that is rounded to 0 here and there is no such background:
    its zeros are scattered among other values.
    """
    zero = image == 0
    outside = joined_to_border(zero)
    if outside.mean() < 0.02:
        return False
    prevails = ndimage.uniform_filter(outside.astype(np.float32), 5, mode="nearest") > 0.5
    return bool(zero[prevails].sum() > 0.9 * prevails.sum())


def region_of(name: Region, body: NDArray, spacing: Spacing) -> NDArray:
    """The voxels where the target counts, uint8 (z, y, x) as the body.

    "body" gives the body back; "circle" is the inscribed circle of the axial slices, what a CT
    reconstructs, and the body where an image that was cropped goes beyond it; "everything" is all
    of the volume.
    """
    if name == "body":
        return body
    if name == "circle":
        return np.maximum(inscribed_circle(body.shape, spacing), body)
    return np.ones(body.shape, dtype=np.uint8)


def inscribed_circle(shape: Shape, spacing: Spacing) -> NDArray:
    """The field of view, uint8 (z, y, x): the largest circle of each slice, in mm, by centres."""
    sides = list(zip(shape, spacing, strict=True))[1:]
    y, x = ((np.arange(n) + 0.5 - n / 2) * mm for n, mm in sides)
    radius = min(n * mm for n, mm in sides) / 2
    circle = y[:, None] ** 2 + x[None, :] ** 2 <= radius**2
    return np.repeat(circle[None].astype(np.uint8), shape[0], axis=0)


def _masked_body(tissue: NDArray, spacing: Spacing) -> NDArray:
    return filled_slices(_without_islands(tissue, 0.01))


def _ct_body(tissue: NDArray, spacing: Spacing) -> NDArray:
    filled = filled_slices(tissue)
    core = _without_islands(_opened(filled, _reach(spacing, _COUCH)), 0.1)
    core &= ~_blocks(filled, spacing)
    # What the opening cut off: ears, noses, chins, and the small end slices of a head or a chin.
    near = _grown(core, _reach(spacing, _COUCH, axial=False))
    return _filled_from_all_sides(_without_islands((tissue & near) | core, 0.1))


def _blocks(tissue: NDArray, spacing: Spacing) -> NDArray:
    """What is thick and small and hangs on the body by a narrow edge, as the blocks of a holder."""
    reach, around = (_reach(spacing, _HOLDER, axial=axial) for axial in (True, False))
    thick = _opened(tissue, reach)
    patient = _without_islands(thick, _BLOCK)
    return _grown(thick & ~patient, around) & ~_grown(patient, around)


def _otsu_body(tissue: NDArray, spacing: Spacing) -> NDArray:
    return _filled_from_all_sides(_without_islands(_closed(tissue, _reach(spacing, _GAPS)), 0.1))


_BODIES = {NON_ZERO: _masked_body, CT: _ct_body, OTSU: _otsu_body}
"""Rule -> tissue (z, y, x) and mm (z, y, x) to the body."""


class _Bias(NamedTuple):
    """What flattens an image: the values that count, and the bias field (1, z, y, x), coarse."""

    limits: tuple[float, float]
    field: NDArray


def _bias_of(image: NDArray, spacing: Spacing) -> _Bias:
    """The bias field of an image (z, y, x) over its lowest value that counts.

    Homomorphic: the field is the smoothed logarithm of the brighter voxels, by normalised
    convolution on a coarse grid, so that air does not pull it down; far from them it levels off.
    """
    low, high, highest = _range(image)
    # Single voxels and padding must not decide what is dark, or how wide the histogram is.
    least = max(low - _BEYOND * (high - low), float(image.min()))
    limits = least, highest + 2 * (highest - low)
    shape = resampled_shape(image.shape, spacing, (_COARSE, _COARSE, _COARSE))
    small = resample(np.clip(image, *limits)[None] - least, shape, order=1)[0]
    bright = small > small.mean()
    if not bright.any():
        return _Bias(limits, np.ones_like(small)[None])
    logarithm = np.log(np.where(bright, small, 1))
    level = logarithm[bright].mean()
    sigma = _BIAS / _COARSE
    weight = ndimage.gaussian_filter(bright.astype(np.float32), sigma, mode="nearest")
    excess = ndimage.gaussian_filter(np.where(bright, logarithm - level, 0), sigma, mode="nearest")
    return _Bias(limits, np.exp(level + excess / (weight + 1e-2))[None])


def _flat_slabs(image: NDArray, bias: _Bias) -> Iterator[NDArray]:
    """The root of an image (z, y, x) over its bias field, some slices at a time.

    The root narrows bright fat towards muscle.
    """
    for rows, field in resampled_slabs(bias.field, image.shape, order=1):
        yield np.sqrt((np.clip(image[rows], *bias.limits) - bias.limits[0]) / field[0])


def _range(image: NDArray) -> tuple[float, float, float]:
    """Percentiles 1, 99 and 99.9 of the values above the lowest, or that value of a constant."""
    values = image[image > image.min()]
    if not values.size:
        values = image[:1]
    low, high, highest = (float(value) for value in np.percentile(values, (1, 99, 99.9)))
    return low, high, highest


def _filled_from_all_sides(mask: NDArray) -> NDArray:
    """Also with the holes of sagittal and coronal slices: a lung that is open in the axial one."""
    return np.logical_or.reduce([filled_slices(mask, axis) for axis in range(3)])


def filled_slices(mask: NDArray, axis: int | None = None) -> NDArray:
    """A mask (z, y, x) with the holes of each slice filled: all that joins no border of its slice.

    Slices lie across the axis; without one they are axial, or the only slice of another kind.
    """
    if axis is None:
        axis = mask.shape.index(1) if 1 in mask.shape else 0
    slices = np.moveaxis(mask, axis, 0)
    if 1 in slices.shape[1:]:  # slices that are lines: every dent would be a hole
        return mask
    filled = np.stack([~joined_to_border(~image) for image in slices])
    return np.moveaxis(filled, 0, axis)


def joined_to_border(mask: NDArray) -> NDArray:
    """The components of a mask of two or three axes that touch the end of an axis.

    An axis of length 1 has no end: all of a single slice would lie on it.
    """
    labels = cc3d.connected_components(mask, connectivity=4 if mask.ndim == 2 else 6)
    touching = np.zeros(labels.max() + 1, dtype=bool)
    for axis, length in enumerate(mask.shape):
        if length > 1:
            touching[labels.take((0, -1), axis)] = True
    return touching[labels] & mask


def _without_islands(mask: NDArray, share: float) -> NDArray:
    """The components with at least this share of the largest one's voxels."""
    labels, sizes = cc3d_label_with_component_sizes(mask)
    least = share * max(sizes.values(), default=0)
    return np.array([False, *(size >= least for size in sizes.values())])[labels]


def _opened(mask: NDArray, reach: Shape) -> NDArray:
    """Without what is thin; but not from the ends of the volume, where the body goes on."""
    return _grown(~_grown(~mask, reach), reach)


def _closed(mask: NDArray, reach: Shape) -> NDArray:
    """Without narrow gaps; padded, or all that is near an end would be joined to it."""
    padded = np.pad(mask, [(n, n) for n in reach])
    shrunk = ~_grown(~_grown(padded, reach), reach)
    return shrunk[tuple(slice(n, n + side) for n, side in zip(reach, mask.shape, strict=True))]


def _grown(mask: NDArray, reach: Shape) -> NDArray:
    """All voxels in the boxes that reach so many voxels (z, y, x) to each side of the mask's."""
    grown = mask.copy()
    for axis, most in enumerate(reach):
        along = np.moveaxis(grown, axis, 0)
        for line in (along, along[::-1]):
            done = 0
            while done < most:
                step = min(done + 1, most - done)
                line[step:] |= line[:-step]
                done += step
    return grown


def _reach(spacing: Spacing, radius: float, *, axial: bool = True) -> Shape:
    """Voxels (z, y, x) of `radius` mm, at least one; an axial reach stays within its slice."""
    z, y, x = (max(1, round(radius / side)) for side in spacing)
    return 0 if axial else z, y, x
