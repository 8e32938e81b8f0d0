"""SSIM and masked MS-SSIM of one case, plane by plane: a volume costs little more than its pyramid.

Both are means of one map. With s = p + r and d = p - r, window means <.>, the sample variances
var(s) and var(d), C1 = (0.01 R)^2 and C2 = (0.03 R)^2, SSIM (Wang et al. 2004, eq. 13) is

    <s>^2 - <d>^2 + 2 C1   var(s) - var(d) + 2 C2
    -------------------- x ----------------------
    <s>^2 + <d>^2 + 2 C1   var(s) + var(d) + 2 C2

so that four box filters do instead of five. Luminance x contrast x structure is the same number,
because the product of the last two has no standard deviations left in it.

Arrays are (z, y, x) on one grid; masks are non-zero inside; windows are uniform, 7 x 7 x 7.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gdmnet.metrics.conventions import DataRange
from gdmnet.metrics.image import cut_out

WINDOW = 7
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al. 2003, section 3.2
SMALLEST = 97  # voxels an axis: the fifth scale then still has one whole window
_HALF = WINDOW // 2
_SIZE = WINDOW**3


@dataclass(frozen=True)
class _Level:
    """One scale of a pair of images, prediction and reference, and their mask, bool (z, y, x)."""

    planes: Callable[[int, slice, slice], NDArray]  # of z, rows, columns: float64 (2, y, x)
    mask: NDArray


def ssim(prediction: NDArray, reference: NDArray, mask: NDArray, span: DataRange) -> float | None:
    """Structural similarity: mean of the full map inside the mask.

    Sample covariances as in scikit-image; values count from the low end of the range and are not
    clipped. Outside the mask the prediction is taken to be right, so that only what is inside is
    judged. The volume is mirrored at its borders; axes shorter than the window (single slices) are
    first continued by their edge.

    Returns:
        None where the range is 0.
    """
    if span.width <= 0:
        return None
    guess, truth, inside = cut_out(prediction, reference, mask, _HALF)  # enough for a window
    inside, guess, truth = _widened(WINDOW, inside, guess, truth, mask_mode="constant")
    guess, truth = (np.pad(image, _HALF, mode="symmetric") for image in (guess, truth))
    level = _finest(guess, truth, np.pad(inside, _HALF), span, masked=False)
    return _mean(level, span.width, None)


def masked_ssim(
    prediction: NDArray, reference: NDArray, mask: NDArray, span: DataRange
) -> float | None:
    """The SSIM of SynthRAD2023: mean of the map inside the mask, over whole windows only.

    Both images are clipped to the range and set to its low end outside the mask.

    Returns:
        None where the range is 0, or no voxel of the mask has its whole window in the volume.
    """
    if span.width <= 0:
        return None
    level = _finest(prediction, reference, mask != 0, span, masked=True)
    return _mean(level, span.width, None)


def ms_ssim(
    prediction: NDArray, reference: NDArray, mask: NDArray, span: DataRange
) -> float | None:
    """The masked multi-scale SSIM of SynthRAD2025, to the digit.

    Clipped to the range and set to its low end outside the mask, then every axis is continued by
    its edge to at least 97 voxels (the mask too). At each of five scales the value is the mean,
    inside the mask and over whole windows, of the map max(SSIM, 0)^w; the result is the product of
    the five, each clipped to [0, 1]. Between scales, images are averaged over 2 x 2 x 2 voxels and
    every second one is kept; of the mask every second voxel is kept.

    Three traits of the challenge's figure differ from Wang et al. 2003, and belong to it:
    (a) luminance counts at every scale, not only at the coarsest; (b) the exponent is applied to
    the map, before the mean; (c) the average of voxel i is over i - 1 and i, with zeros (the low
    end of the range) before the first, and shifts the grid by half a voxel.

    Returns:
        None where the range is 0, or the mask has no whole window at one of the scales.
    """
    if span.width <= 0:
        return None
    inside, guess, truth = _widened(SMALLEST, mask != 0, prediction, reference, mask_mode="edge")
    level = _finest(guess, truth, inside, span, masked=True)
    product = 1.0
    for scale, weight in enumerate(SCALE_WEIGHTS, start=1):
        value = _mean(level, span.width, weight)
        if value is None:
            return None
        product *= min(value, 1.0)
        if scale < len(SCALE_WEIGHTS):
            level = _halved(level)
    return product


def _widened(
    size: int, mask: NDArray, *images: NDArray, mask_mode: Literal["constant", "edge"]
) -> tuple[NDArray, ...]:
    """Mask and images, each axis continued on both sides to `size` voxels; images by their edge."""
    missing = [max(0, size - n) for n in mask.shape]
    pads = [(n // 2, n - n // 2) for n in missing]
    if not any(missing):
        return mask, *images
    return np.pad(mask, pads, mode=mask_mode), *(np.pad(i, pads, mode="edge") for i in images)


def _finest(
    prediction: NDArray, reference: NDArray, mask: NDArray, span: DataRange, *, masked: bool
) -> _Level:
    """The images as they are stored, counted from the low end; masked: clipped, and 0 outside."""

    def planes(z: int, ys: slice, xs: slice) -> NDArray:
        pair = np.stack([prediction[z, ys, xs], reference[z, ys, xs]]).astype(np.float64)
        pair -= span.low
        if masked:
            np.clip(pair, 0, span.width, out=pair)
            pair *= mask[z, ys, xs]
        return pair

    return _Level(planes, mask)


def _halved(level: _Level) -> _Level:
    """The next scale; voxel k is the mean of the voxels 2k - 1 and 2k along each axis."""
    n_planes, n_rows, n_columns = level.mask.shape
    every = slice(0, n_rows), slice(0, n_columns)
    half = np.zeros((2, -(-n_planes // 2), -(-n_rows // 2), -(-n_columns // 2)))
    for z in range(n_planes if n_planes % 2 else n_planes - 1):  # no pair has an even last one
        half[:, (z + 1) // 2] += _paired(_paired(level.planes(z, *every), 1), 2)
    half /= 8

    return _Level(lambda z, ys, xs: half[:, z, ys, xs], level.mask[::2, ::2, ::2])


def _paired(pair: NDArray, axis: int) -> NDArray:
    """Sums of the voxels 2k - 1 and 2k along an axis of (2, y, x); zero before the first."""
    moved = np.moveaxis(pair, axis, 0)
    sums = moved[::2].copy()
    sums[1:] += moved[1::2][: len(sums) - 1]
    return np.moveaxis(sums, 0, axis)


def _mean(level: _Level, width: float, exponent: float | None) -> float | None:
    """Mean of SSIM, or of max(SSIM, 0)^exponent, over the mask's voxels with a whole window."""
    centres = [_centres(level, axis) for axis in range(3)]
    if any(len(found) == 0 for found in centres):
        return None
    firsts, lasts = zip(*((int(found[0]), int(found[-1])) for found in centres), strict=True)
    ys, xs = (slice(firsts[axis], lasts[axis] + 1) for axis in (1, 2))
    wide = [slice(s.start - _HALF, s.stop + _HALF) for s in (ys, xs)]
    window: deque[NDArray] = deque()
    sums, total, count = np.zeros(1), 0.0, 0
    for z in range(firsts[0] - _HALF, lasts[0] + _HALF + 1):
        window.append(_box_sums(level.planes(z, *wide)))
        sums = sums + window[-1]
        if len(window) < WINDOW:
            continue
        chosen = level.mask[z - _HALF, ys, xs]
        values = _similarity([one[chosen] for one in sums], width)
        if exponent is not None:
            values = np.maximum(values, 0) ** exponent
        total += float(values.sum())
        count += values.size
        sums -= window.popleft()
    return total / count if count else None


def _centres(level: _Level, axis: int) -> NDArray:
    """Places along an axis where the mask has voxels and a window has room."""
    occupied = np.logical_or.reduce(level.mask, axis=tuple({0, 1, 2} - {axis}))
    return np.flatnonzero(occupied[_HALF : len(occupied) - _HALF]) + _HALF


def _box_sums(pair: NDArray) -> NDArray:
    """The 7 x 7 sums of s, d, s^2 and d^2 in a plane: (2, y, x) -> (4, y - 6, x - 6)."""
    total, difference = pair[0] + pair[1], pair[0] - pair[1]
    maps = (total, difference, total * total, difference * difference)
    return np.stack([_sevens(_sevens(one).T).T for one in maps])


def _sevens(rows: NDArray) -> NDArray:
    """Sums of seven consecutive rows, by doubling: no error accumulates as in a running sum."""
    twos = rows[:-1] + rows[1:]
    sums = twos[:-5] + twos[2:-3]
    sums += twos[4:-1]
    sums += rows[6:]
    return sums


def _similarity(sums: list[NDArray], width: float) -> NDArray:
    """SSIM from the window sums of s, d, s^2 and d^2: the formula at the head of this module."""
    c1, c2 = (0.01 * width) ** 2, (0.03 * width) ** 2
    s, d, ss, dd = (one / _SIZE for one in sums)
    s *= s
    d *= d
    sample = _SIZE / (_SIZE - 1)
    spread_s, spread_d = sample * (ss - s), sample * (dd - d)
    return (
        (s - d + 2 * c1)
        * (spread_s - spread_d + 2 * c2)
        / ((s + d + 2 * c1) * (spread_s + spread_d + 2 * c2))
    )
