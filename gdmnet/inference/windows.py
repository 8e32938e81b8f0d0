"""Where the windows of a volume lie and what each counts for; of any engine that computes them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gdmnet.arrays.normalise import background_value
from gdmnet.data.case import Case
from gdmnet.geometry import Shape
from gdmnet.plan import Configuration
from gdmnet.preprocessing import source_normalisations

SIGMA_SHARE = 1 / 8  # of the patch: a window counts for little where it lacks context
WEIGHT_FLOOR = 1e-3  # of the peak: keeps w * p / w well conditioned where one window stands alone
# Windows that come no nearer to the body than this are skipped. Cubic resampling back to the
# source grid weighs a voxel that far away by 0.27 ** 8 = 3e-5.
BODY_MARGIN = 8

Window = tuple[slice, slice, slice]
Spread = Literal["opinions", "mirrored"]
Array = Any  # numpy's or torch's, which have the same operators
_TINY = 1e-30


@dataclass(frozen=True, eq=False)
class Estimate:
    """A predicted volume: float32 (1, z, y, x), network units.

    The deviation is how far folds, mirrored copies and overlapping windows lie apart; 0 where there
    is only one opinion, None if it was not asked for.
    """

    mean: NDArray
    std: NDArray | None = None


@dataclass(frozen=True, eq=False)
class Tiling:
    """How windows cover a volume, and what lies beyond it, in network units."""

    patch_size: Shape  # voxels (z, y, x) of a window
    fill: Sequence[float]  # what surrounds the volume, one number a channel
    body: NDArray | None = None  # (z, y, x); windows that come nowhere near it are skipped
    background: float = 0.0  # of voxels that no window covers

    def windows(self, shape: Shape, step_size: float) -> list[Window]:
        """Those of a padded volume that come near the body; all of them without one."""
        every = windows(shape, self.patch_size, step_size)
        return [window for window in every if self.body is None or _comes_near(self.body, window)]


class Moments:
    """Weighted mean and variance of voxels, group by group, without a stack of volumes.

    Chan, Golub and LeVeque 1979 (updating formulae), with weights: a group of weight w_b, mean m_b
    and variance v_b joins what has w, m and the sum of squares q = w v by

        d = m_b - m,   m += d w_b / (w + w_b),   q += w_b v_b + d^2 w w_b / (w + w_b)

    No large squares are subtracted, so that fp32 holds small variances beside large means. Of
    several series of opinions each has its own mean, and the variances are averaged.
    The means are float32 zeros (n_series, z, y, x), of numpy or torch: what computes here.
    """

    def __init__(self, means: Array) -> None:
        self.means = means
        self.weight, self._squares = means[0] * 0, means[0] * 0  # squares: mean over the series

    def add(
        self, mean: Array, variance: Array, weight: Array, window: Window = (slice(None),) * 3
    ) -> None:
        """A group of opinions joins where it lies; by default it covers all voxels.

        Its mean is (n_series, z, y, x), its variance that of the population, (z, y, x), 0 for a
        single opinion; its weight, above 0, is (z, y, x) or one number.
        """
        before = self.weight[window]  # z, y, x
        share = weight / (before + weight)
        z, y, x = window
        means = self.means[:, z, y, x]  # n_series, z, y, x: a view
        distance = mean - means
        squares = (distance * distance).mean(0)
        self._squares[window] += weight * variance + squares * before * share
        means += distance * share
        self.weight[window] += weight

    def variance(self) -> Array:
        """(z, y, x), of the population; 0 where no or one opinion is."""
        return self._squares / self.weight.clip(_TINY)


def tiling_of(case: Case, configuration: Configuration) -> Tiling:
    """That of a prepared case: skipping what is far from its body."""
    fill = [background_value(channel) for channel in source_normalisations(configuration)]
    background = background_value(configuration.target)
    return Tiling(configuration.patch_size, fill, case.body, background)


def window_starts(size: int, patch: int, step_size: float) -> list[int]:
    """First voxels of evenly spread windows of `patch` voxels that cover an axis of `size` voxels.

    Neighbours lie at most a share `step_size` of the window apart.

    Raises:
        ValueError: a step size outside (0, 1], or a window that is larger than the axis.
    """
    if not 0 < step_size <= 1:
        raise ValueError(f"the step size must lie in (0, 1], not {step_size}")
    if size < patch:
        raise ValueError(f"an axis of {size} voxels is smaller than the window of {patch}")
    step = max(1.0, patch * step_size)
    n_gaps = math.ceil((size - patch) / step)
    if n_gaps == 0:
        return [0]
    return [round(i * (size - patch) / n_gaps) for i in range(n_gaps + 1)]


def windows(shape: Shape, patch_size: Shape, step_size: float) -> Iterator[Window]:
    """All windows (z, y, x) of a volume; see `window_starts`."""
    axes = (
        [slice(start, start + patch) for start in window_starts(size, patch, step_size)]
        for size, patch in zip(shape, patch_size, strict=True)
    )
    yield from itertools.product(*axes)


@lru_cache(maxsize=4)
def gaussian_weight(patch_size: Shape) -> NDArray:
    """float32 (z, y, x): a Gaussian about the middle, peak 1, sigma patch / 8, with a floor."""
    weight = np.ones((), dtype=np.float64)
    for size in patch_size:
        position = (np.arange(size) - (size - 1) / 2) / (size * SIGMA_SHARE)
        weight = weight[..., None] * np.exp(-0.5 * position**2)
    weight /= weight.max()
    return np.maximum(weight, WEIGHT_FLOOR).astype(np.float32)


def mirrored_axes(shape: Sequence[int]) -> list[tuple[int, ...]]:
    """Which axes, counted from the last, each mirrored copy of a window (z, y, x) turns."""
    axes = [axis for axis in (-3, -2, -1) if shape[axis] > 1]
    return [flip for n in range(len(axes) + 1) for flip in itertools.combinations(axes, n)]


def _comes_near(body: NDArray, window: Window) -> bool:
    """A window of the padded volume: along a padded axis there is one, and it holds the body."""
    wider = tuple(slice(max(0, s.start - BODY_MARGIN), s.stop + BODY_MARGIN) for s in window)
    return bool(body[wider].any())
