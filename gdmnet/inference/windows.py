"""Where the windows of a volume lie and what each counts for; of any engine that computes them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

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


@dataclass(frozen=True, eq=False)
class Estimate:
    """A predicted volume: float32 (1, z, y, x), network units.

    Attributes:
        mean: the prediction.
        std: how far folds, mirrored copies and overlapping windows lie apart at each voxel, as a
            standard deviation; 0 where there is only one opinion; None if it was not asked for.
    """

    mean: NDArray
    std: NDArray | None


@dataclass(frozen=True)
class BodyRegion:
    """Where predictions are wanted.

    Attributes:
        body: (z, y, x), non-zero inside the body.
        background: what voxels are given that no window near the body covers, network units.
    """

    body: NDArray
    background: float


def surroundings(case: Case, configuration: Configuration) -> tuple[list[float], BodyRegion]:
    """What surrounds a case, one number a channel in network units, and where its body is."""
    fill = [background_value(channel) for channel in source_normalisations(configuration)]
    return fill, BodyRegion(case.body, background_value(configuration.target))


def window_starts(size: int, patch: int, step_size: float) -> list[int]:
    """First voxels of evenly spread windows along one axis that together cover it.

    Args:
        size: voxels of the axis, at least `patch`.
        patch: voxels of a window.
        step_size: largest distance of neighbours as a share of `patch`, in (0, 1].
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


def near_windows(
    shape: Shape, patch_size: Shape, step_size: float, region: BodyRegion | None
) -> list[Window]:
    """The windows of a padded volume that come near the body; all of them without a region."""
    every = windows(shape, patch_size, step_size)
    return [found for found in every if region is None or _comes_near(region.body, found)]


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
