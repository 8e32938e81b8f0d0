"""Stated uncertainty against the error that was made: does the one tell of the other?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

N_GROUPS = 10
_SAMPLE = 500_000  # voxels that decide the groups' borders


@dataclass(frozen=True)
class Calibration:
    """A map of standard deviations against the errors of its prediction, inside a mask.

    The first three are by group of voxels, up to ten in ascending order of the deviation, equally
    large but for ties.
    """

    stated: tuple[float, ...]  # root mean square of the deviation
    made: tuple[float, ...]  # root mean square error; equal to `stated` if well calibrated
    within: tuple[float, ...]  # share of voxels whose error is at most the deviation
    factor: float  # by which all deviations would have to be multiplied to match the errors
    silent: float  # share of the mask where the deviation is 0; left out of all else
    within_one: float  # share of all voxels within one deviation (Gaussian: 0.68)
    within_two: float  # within two (0.95)
    correlation: float | None  # of deviation and |error| (Pearson); None where one is constant


def calibrate(std: NDArray, error: NDArray, mask: NDArray) -> Calibration | None:
    """Compare deviations with errors; None if the deviation is 0 everywhere inside the mask.

    Args:
        std: (z, y, x), stated standard deviation, target units.
        error: (z, y, x), prediction - target, the same units; only its magnitude counts.
        mask: (z, y, x), non-zero where voxels count.
    """
    known = (mask != 0) & (std > 0)
    spread, size = std[known], np.abs(error[known])
    if spread.size == 0:
        return None
    shares = np.linspace(0, 1, N_GROUPS + 1)[1:-1]
    borders = np.unique(np.quantile(spread[:: 1 + spread.size // _SAMPLE], shares))
    group = np.searchsorted(borders, spread, side="right")
    counts = np.bincount(group)
    kept = counts > 0
    squares = (np.square(values, dtype=np.float64) for values in (spread, size))
    stated, made, within = (
        np.bincount(group, values)[kept] for values in (*squares, size <= spread)
    )
    return Calibration(
        stated=tuple(np.sqrt(stated / counts[kept]).tolist()),
        made=tuple(np.sqrt(made / counts[kept]).tolist()),
        within=tuple((within / counts[kept]).tolist()),
        factor=float(np.sqrt(made.sum() / stated.sum())),
        silent=1 - spread.size / int(np.count_nonzero(mask)),
        within_one=float((size <= spread).mean()),
        within_two=float((size <= 2 * spread).mean()),
        correlation=_correlation(spread, size),
    )


def _correlation(first: NDArray, second: NDArray) -> float | None:
    a, b = (values - values.mean(dtype=np.float64) for values in (first, second))
    if first.min() == first.max() or second.min() == second.max():
        return None
    return float((a @ b) / np.sqrt((a @ a) * (b @ b)))
