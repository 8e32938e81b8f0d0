"""How a prediction agrees with its target, voxel by voxel inside a mask.

Volumes are (z, y, x) in file units (CT: HU). They are read slab by slab: a large case needs hardly
more memory than its volumes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from gdmnet.geometry import Shape, Spacing
from gdmnet.report.encode import reduce

N_BINS = 128
_SLAB_VOXELS = 4_000_000
_SAMPLE = 500_000  # voxels from which percentiles are taken
CUBE_MM, APART_MM, N_WORST = 10.0, 30.0, 3


@dataclass(frozen=True)
class Band:
    """The voxels whose target lies from `low` to `high` (None: no end), and their errors.

    `bias` is the mean and `sd` the standard deviation of prediction - target, `mae` the mean of
    its magnitude; all None where the band is empty.
    """

    low: float | None
    high: float | None
    n: int
    bias: float | None
    sd: float | None
    mae: float | None


@dataclass(frozen=True)
class Agreement:
    """A prediction against its target.

    Attributes:
        low: of the values counted in `differences`; what lies beyond counts at the end.
        high: the other end.
        error_limit: differences are counted from -error_limit to error_limit.
        differences: voxel counts (mean of both, prediction - target), as Bland and Altman draw it.
        whole: the whole mask as one band.
        bands: by the target's value, in ascending order.
    """

    low: float
    high: float
    error_limit: float
    differences: NDArray
    whole: Band
    bands: tuple[Band, ...]


@dataclass(frozen=True)
class Place:
    """A voxel (z, y, x) of the reduced grid and the mean absolute error in the cube around it."""

    at: Shape
    error: float


def percentiles(volume: NDArray, mask: NDArray, shares: tuple[float, ...]) -> list[float]:
    """Percentiles inside the mask, from every n-th voxel of large ones."""
    inside = volume[mask != 0]
    return [float(v) for v in np.percentile(inside[:: 1 + inside.size // _SAMPLE], shares)]


def histograms(
    volumes: Mapping[str, NDArray], mask: NDArray
) -> tuple[dict[str, NDArray], tuple[float, float]]:
    """Voxel counts (N_BINS,) inside the mask over one range, and that range.

    The range holds percentiles 0.1 to 99.9 of every volume; what lies beyond counts at the ends.
    """
    low, high = _ends(volumes.values(), mask)
    counts = {
        name: np.bincount(_bins(volume[mask != 0], low, high), minlength=N_BINS)
        for name, volume in volumes.items()
    }
    return counts, (low, high)


def agreement(
    prediction: NDArray, target: NDArray, mask: NDArray, edges: tuple[float, ...]
) -> Agreement:
    """Counts and errors of one case; `edges` are the target values that part the bands."""
    low, high = _ends((prediction, target), mask)
    limit = percentiles(np.abs(prediction - target), mask, (99.5,))[0] or 1.0
    differences = np.zeros((N_BINS, N_BINS), np.int64)
    sums = np.zeros((4, len(edges) + 1))
    for guess, truth in _inside(mask, prediction, target):
        error = guess - truth
        flat = N_BINS * _bins((guess + truth) / 2, low, high) + _bins(error, -limit, limit)
        differences += np.bincount(flat, minlength=N_BINS**2).reshape(N_BINS, N_BINS)
        band = np.digitize(truth, edges)
        for total, values in zip(sums, (None, error, error**2, np.abs(error)), strict=True):
            total += np.bincount(band, values, len(edges) + 1)
    limits = (None, *edges, None)
    bands = [
        _band(low_, high_, column)
        for low_, high_, column in zip(limits[:-1], limits[1:], sums.T, strict=True)
    ]
    whole = _band(None, None, sums.sum(axis=1))
    return Agreement(low, high, limit, differences, whole, tuple(bands))


def worst_places(
    error: NDArray, mask: NDArray, factors: Shape, spacing: Spacing
) -> tuple[Place, ...]:
    """Where the mean of |error| over a cube of 1 cm is largest, at places 3 cm apart.

    Args:
        error: |prediction - target|, (z, y, x).
        mask: outside of it errors count as 0.
        factors: of the reduced grid on which places are given.
        spacing: mm (z, y, x) of the reduced grid.
    """
    sides = [max(1, round(CUBE_MM / s)) for s in spacing]
    means = uniform_filter(reduce(np.where(mask != 0, error, 0), factors), sides, mode="constant")
    grid = np.indices(means.shape, dtype=np.float32, sparse=True)
    found = []
    for _ in range(N_WORST):
        z, y, x = (int(i) for i in np.unravel_index(np.argmax(means), means.shape))
        if means[z, y, x] <= 0:
            break
        found.append(Place((z, y, x), float(means[z, y, x])))
        far = sum(((g - i) * s) ** 2 for g, i, s in zip(grid, (z, y, x), spacing, strict=True))
        means = np.where(far < APART_MM**2, 0, means)
    return tuple(found)


def _ends(volumes: Iterable[NDArray], mask: NDArray) -> tuple[float, float]:
    """What holds percentiles 0.1 to 99.9 of every volume; flat images have a histogram, too."""
    ends = [percentiles(volume, mask, (0.1, 99.9)) for volume in volumes]
    low, high = min(end[0] for end in ends), max(end[1] for end in ends)
    return low, high if high > low else low + 1


def _inside(mask: NDArray, *volumes: NDArray) -> Iterator[list[NDArray]]:
    """The voxels inside the mask, float64, of some slices at a time."""
    depth = max(1, _SLAB_VOXELS // max(1, mask[0].size))
    for first in range(0, len(mask), depth):
        slab = slice(first, first + depth)
        inside = mask[slab] != 0
        yield [volume[slab][inside].astype(np.float64) for volume in volumes]


def _bins(values: NDArray, low: float, high: float) -> NDArray:
    share = (values - low) / max(high - low, 1e-12)
    return np.clip((share * N_BINS).astype(np.int64), 0, N_BINS - 1)


def _band(low: float | None, high: float | None, sums: NDArray) -> Band:
    n, error, squared, size = sums
    if n == 0:
        return Band(low, high, 0, None, None, None)
    bias = error / n
    sd = np.sqrt(max(0.0, squared / n - bias**2))
    return Band(low, high, int(n), float(bias), float(sd), float(size / n))
