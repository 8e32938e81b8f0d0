"""How a prediction agrees with its target, voxel by voxel inside a mask.

Volumes are (z, y, x) in file units (CT: HU).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from gdmnet.geometry import Shape, Spacing
from gdmnet.report.encode import reduce

N_BINS = 128
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
    ends = _ends(volumes.values(), mask)
    values = {name: np.clip(volume[mask != 0], *ends) for name, volume in volumes.items()}
    return {name: np.histogram(v, N_BINS, ends)[0] for name, v in values.items()}, ends


def agreement(
    prediction: NDArray, target: NDArray, mask: NDArray, edges: tuple[float, ...]
) -> Agreement:
    """Counts and errors of one case; `edges` are the target values that part the bands."""
    low, high = _ends((prediction, target), mask)
    guess, truth = prediction[mask != 0], target[mask != 0]
    error = guess - truth
    limit = percentiles(np.abs(error), np.ones_like(error), (99.5,))[0] or 1.0
    differences, _, _ = np.histogram2d(
        np.clip((guess + truth) / 2, low, high),
        np.clip(error, -limit, limit),
        N_BINS,
        ((low, high), (-limit, limit)),
    )
    limits = (None, *edges, None)
    band = np.digitize(truth, edges)
    bands = (_band(*ends, error[band == i]) for i, ends in enumerate(pairwise(limits)))
    return Agreement(low, high, limit, differences, _band(None, None, error), tuple(bands))


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


def _band(low: float | None, high: float | None, errors: NDArray) -> Band:
    if errors.size == 0:
        return Band(low, high, 0, None, None, None)
    errors = errors.astype(np.float64)
    found = errors.mean(), errors.std(), np.abs(errors).mean()
    return Band(low, high, errors.size, *map(float, found))
