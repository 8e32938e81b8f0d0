"""How wide edges are: 10-90 % rise along the reference's gradient, in both images.

Arrays are (z, y, x) on one grid; widths are in mm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from gdmnet.geometry import Spacing

AIR_BELOW, BONE_ABOVE = -200.0, 200.0  # HU at the two ends of an edge between bone and air
HALF_LENGTH = 5  # voxels that a profile goes to either side
SHIFT = 2  # voxels by which the prediction's edge may lie elsewhere: place is not width
STEPS = 4  # samples a voxel
MOST_EDGES = 20_000  # looked at, spread evenly over all candidates
FEWEST_EDGES = 50  # fewer give no number
STRONGEST = 0.01  # share of the voxels that are candidates where no unit says what an edge is
_SLAB = 16  # slices whose gradients are computed at a time
LOST = 0.5  # of the reference's contrast: with less the prediction has no edge there


def gradient_magnitudes(image: NDArray, mask: NDArray, spacing: Spacing) -> NDArray:
    """The image's gradient magnitude at every voxel of the mask: central differences per mm.

    Image and mask (bool) are (z, y, x), the spacing mm. Returns float32 (n,), as `image[mask]`.
    """
    depth = image.shape[0]
    found = []
    for first in range(0, depth, _SLAB):
        stop = min(first + _SLAB, depth)
        low = max(first - 1, 0)
        slab = image[low : stop + 1].astype(np.float32)
        squared = np.zeros(slab.shape, dtype=np.float32)
        for axis, n in enumerate(image.shape):
            if n > 1:
                squared += np.gradient(slab, np.float32(spacing[axis]), axis=axis) ** 2
        found.append(np.sqrt(squared[first - low : stop - low][mask[first:stop]]))
    return np.concatenate(found)


@dataclass(frozen=True)
class _Rise:
    """Each profile's edge: its ends in units of the image, 10-90 % rise and place in voxels."""

    low: NDArray
    high: NDArray
    width: NDArray
    place: NDArray


def edge_width(
    prediction: NDArray, reference: NDArray, mask: NDArray, spacing: Spacing, *, hounsfield: bool
) -> float | None:
    """Median 10-90 % rise of the prediction's edges over that of the reference's; 1 is as sharp.

    Edges are voxels where the reference is steepest along its own gradient: in HU the borders of
    bone and air (from below -200 to above 200 HU within one voxel to either side), else among the
    steepest 1 % of the voxels. A profile leads 5 voxels to either side, linearly interpolated,
    never out of the mask. Each image's edge is its steepest point within 2 voxels and ends at the
    first extremum on either side (Marziliano et al. 2002, made directional); 10 and 90 % refer to
    these ends. With less than half the reference's contrast it counts as wide as the profile.
    A Gaussian blur of sigma mm makes a step 2.563 sigma wide.

    Images and mask (bool) are (z, y, x), the spacing mm. None where the reference has fewer than 50
    such edges.
    """
    voxels, gradients = _candidates(reference, mask, spacing, hounsfield=hounsfield)
    if len(voxels) < FEWEST_EDGES:
        return None
    steps = gradients / np.array(spacing)  # direction u per mm -> voxels per mm
    per_mm = np.linalg.norm(steps, axis=1, keepdims=True)
    offsets = np.arange(-HALF_LENGTH * STEPS, HALF_LENGTH * STEPS + 1) / STEPS
    points = voxels[:, None, :] + offsets[:, None] * (steps / per_mm)[:, None, :]
    inside = _sample(mask.astype(np.float32), points) > 0.999  # all voxels that enter lie in it
    truth = _sample(reference, points)
    found, guess = _rise(truth, inside), _rise(_sample(prediction, points), inside)
    chosen = (np.abs(found.place) <= 0.5) & (found.high > found.low)
    if hounsfield:
        before, after = truth[:, (HALF_LENGTH - 1) * STEPS], truth[:, (HALF_LENGTH + 1) * STEPS]
        chosen &= (before < AIR_BELOW) & (after > BONE_ABOVE)
    if np.count_nonzero(chosen) < FEWEST_EDGES:
        return None
    lost = guess.high - guess.low < LOST * (found.high - found.low)
    widths = np.where(lost, 2.0 * HALF_LENGTH, guess.width)
    mm = 1 / per_mm[chosen, 0]
    return float(np.median(widths[chosen] * mm) / np.median(found.width[chosen] * mm))


def _candidates(
    reference: NDArray, mask: NDArray, spacing: Spacing, *, hounsfield: bool
) -> tuple[NDArray, NDArray]:
    """Voxels (n, 3) with a steep reference, and its unit gradients (n, 3) in millimetre space."""
    rise = gradient_magnitudes(reference, mask, (1.0, 1.0, 1.0))
    if hounsfield:
        steep = rise >= (BONE_ABOVE - AIR_BELOW) / 2
    else:
        steep = (rise >= np.quantile(rise, 1 - STRONGEST)) & (rise > 0)
    voxels = np.flatnonzero(mask)[steep]
    if len(voxels) > MOST_EDGES:
        voxels = voxels[np.linspace(0, len(voxels) - 1, MOST_EDGES).astype(int)]
    index = np.stack(np.unravel_index(voxels, mask.shape), axis=1)
    gradients = np.zeros(index.shape)
    for axis, n in enumerate(mask.shape):
        after, before = index.copy(), index.copy()
        after[:, axis] = np.minimum(index[:, axis] + 1, n - 1)
        before[:, axis] = np.maximum(index[:, axis] - 1, 0)
        far = np.maximum(after[:, axis] - before[:, axis], 1) * spacing[axis]
        rises = reference[tuple(after.T)].astype(np.float64) - reference[tuple(before.T)]
        gradients[:, axis] = rises / far
    lengths = np.linalg.norm(gradients, axis=1, keepdims=True)
    real = lengths[:, 0] > 0
    return index[real], gradients[real] / lengths[real]


def _sample(image: NDArray, points: NDArray) -> NDArray:
    """The image at points (n, t, 3) in voxels, as float32 (n, t); linear, 0 outside the image."""
    places = np.moveaxis(points, -1, 0)
    return ndimage.map_coordinates(image, places, output=np.float32, order=1, mode="constant")


def _rise(profiles: NDArray, inside: NDArray) -> _Rise:
    """Find each profile's edge within SHIFT voxels of its middle, and measure it."""
    half, middle = STEPS // 2, HALF_LENGTH * STEPS
    there = slice(middle - SHIFT * STEPS, middle + SHIFT * STEPS + 1)
    slopes = profiles[:, 2 * half :] - profiles[:, : -2 * half]  # over one voxel
    slopes = np.where(inside[:, 2 * half :] & inside[:, : -2 * half], slopes, -np.inf)
    slopes = np.pad(slopes, ((0, 0), (half, half)), constant_values=-np.inf)[:, there]
    steepest = there.start + slopes.argmax(axis=1)[:, None]
    stops = (np.diff(profiles, axis=1) <= 0) | ~(inside[:, 1:] & inside[:, :-1])
    places = np.arange(stops.shape[1])
    begin = np.where(stops & (places < steepest), places + 1, 0).max(axis=1)
    end = np.where(stops & (places >= steepest), places, len(places)).min(axis=1)
    low, high = _take(profiles, begin), _take(profiles, end)
    first, last = (
        _crossing(profiles, begin, end, low + share * (high - low)) for share in (0.1, 0.9)
    )
    return _Rise(low, high, last - first, (steepest[:, 0] - middle) / STEPS)


def _take(profiles: NDArray, places: NDArray) -> NDArray:
    return np.take_along_axis(profiles, places[:, None], axis=1)[:, 0]


def _crossing(profiles: NDArray, begin: NDArray, end: NDArray, level: NDArray) -> NDArray:
    """Where the rising part from `begin` to `end` reaches the level, in voxels."""
    places = np.arange(profiles.shape[1])
    rising = (places >= begin[:, None]) & (places < end[:, None])
    below = np.count_nonzero(rising & (profiles < level[:, None]), axis=1)
    before = np.maximum(begin + below - 1, begin)
    after = np.minimum(before + 1, profiles.shape[1] - 1)
    first, second = _take(profiles, before), _take(profiles, after)
    height = np.where(second > first, second - first, 1)
    return (before + np.clip((level - first) / height, 0, 1)) / STEPS
