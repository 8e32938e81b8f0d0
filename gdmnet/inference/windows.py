"""A volume through a network, window by window, blended by Gaussian weights in fp32.

The same code for numpy's arrays and torch's tensors, so that any engine can compute the windows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gdmnet.arrays.crop import crop, pad_to
from gdmnet.arrays.normalise import background_value
from gdmnet.data.case import Case
from gdmnet.geometry import Shape, shape_of
from gdmnet.models.card import PredictionSettings
from gdmnet.parallel import progress_bar
from gdmnet.plan import Configuration
from gdmnet.preprocessing import source_normalisations

SIGMA_SHARE = 1 / 8  # of the patch: a window counts for little where it lacks context
WEIGHT_FLOOR = 1e-3  # of the peak: keeps w * p / w well conditioned where one window stands alone
# Windows that come no nearer to the body than this are skipped. Cubic resampling back to the
# source grid weighs a voxel that far away by 0.27 ** 8 = 3e-5.
BODY_MARGIN = 8

Window = tuple[slice, slice, slice]
Flip = tuple[int, ...]  # axes that are turned, counted from the last
Spread = Literal["opinions", "mirrored"]
Array = Any  # numpy's or torch's, which have the same operators
Arrays = Any  # numpy, or what has its functions of other arrays
Network = Callable[[Array], Array]
"""(b, c, z, y, x), network units, to (n b, 1, z, y, x): n folds' opinions about b patches."""
_TINY = 1e-30
_SLAB = 32  # slices that are divided by their weights at a time


@dataclass(frozen=True, eq=False)
class Estimate:
    """A predicted volume: float32 (1, z, y, x), network units."""

    mean: NDArray
    std: NDArray | None = None  # how far opinions lie apart; 0 where there is one, None if unasked


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


def blend(
    network: Network,
    source: NDArray,
    tiling: Tiling,
    settings: PredictionSettings,
    arrays: Arrays,
    *,
    spread: Spread | None = None,
    n_together: int = 1,
) -> list[Array]:
    """Slide a network over a volume: (z, y, x) of the prediction, and of the spread if asked for.

    Windows are added up in one order, so that the result does not depend on how many share a call.
    Every window that touches the body is computed, so that no voxel of it changes where others are
    skipped.

    The network gives float32; the source is float32 (c, z, y, x), network units. The spread is how
    far all opinions lie apart; or "mirrored": how far each fold's own lie apart in overlapping
    windows and their copies mirrored along x, as the root mean square over the folds, whatever the
    settings. The prediction is the same to the bit with and without. A call of the network gets
    `n_together` windows or mirrored copies.

    Raises:
        ValueError: shapes that do not fit, or a step size outside (0, 1].
    """
    padded, box = pad_to(source, tiling.patch_size, tiling.fill)
    volume, weight = arrays.asarray(padded), arrays.asarray(gaussian_weight(tiling.patch_size))
    total, moments = arrays.zeros_like(volume[0]), None
    combine = getattr(arrays, settings.ensemble)
    flips = mirrored_axes(tiling.patch_size) if settings.tta else [()]
    heard = {None: [], "opinions": flips, "mirrored": [(), (-1,)]}[spread]
    every = list(dict.fromkeys([*flips, *heard]))
    chosen = tiling.windows(shape_of(padded), settings.step_size)
    n_windows, n_copies = (1, n_together) if settings.tta else (n_together, 1)
    groups = [chosen[first : first + n_windows] for first in range(0, len(chosen), n_windows)]
    for group in progress_bar(groups, "windows", delay=2):
        patches = arrays.stack([volume[:, z, y, x] for z, y, x in group])
        copies = _copies(network, patches, every, n_copies, arrays)
        values, own = [], None
        for flip, opinions in zip(every, copies, strict=True):
            if flip in flips:
                values.append(combine(opinions, 0))
            if flip in heard:
                series = opinions if spread == "mirrored" else opinions.mean(0)[None]
                own = own or Moments(arrays.zeros_like(series))
                own.add(series, ((opinions - series) ** 2).mean(0), len(opinions))
        for window, value in zip(group, arrays.stack(values).mean(0), strict=True):
            total[window] += value * weight
        if own is not None:
            if moments is None:
                moments = Moments(arrays.stack([arrays.zeros_like(total)] * len(own.means)))
            variance = own.variance()
            for place, window in enumerate(group):
                moments.add(own.means[:, place], variance[place], weight, window)
    _divide(total, chosen, weight, tiling.background, arrays)
    found = [total]
    if spread is not None:
        found.append(total * 0 if moments is None else moments.variance() ** 0.5)
    return [crop(volume, box) for volume in found]


def _copies(
    network: Network, patches: Array, flips: Sequence[Flip], n_together: int, arrays: Arrays
) -> Iterator[Array]:
    """The opinions (n, b, z, y, x) about windows (b, c, z, y, x) as each mirrored copy has them."""
    n_windows, size = len(patches), tuple(patches.shape[2:])
    for first in range(0, len(flips), n_together):
        some = flips[first : first + n_together]
        batch = arrays.concatenate([arrays.flip(patches, flip) for flip in some])
        outputs = network(batch)  # (n k b, 1, z, y, x)
        if tuple(outputs.shape[1:]) != (1, *size):
            raise ValueError(f"the network gave {tuple(outputs.shape)} for {tuple(batch.shape)}")
        outputs = outputs.reshape(-1, len(some), n_windows, *size)
        for place, flip in enumerate(some):
            yield arrays.flip(outputs[:, place], flip)


def _divide(
    total: Array, chosen: Sequence[Window], weight: Array, background: float, arrays: Arrays
) -> None:
    """Sums to means in place, some slices at a time; background where no window was."""
    for first in range(0, len(total), _SLAB):
        rows = total[first : first + _SLAB]
        weights = arrays.zeros_like(rows)
        for z, y, x in chosen:
            begin, end = max(z.start, first), min(z.stop, first + len(rows))
            if begin < end:
                part = weight[begin - z.start : end - z.start]
                weights[begin - first : end - first, y, x] += part
        outside = weights == 0
        rows /= weights + outside
        rows[outside] = background


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
