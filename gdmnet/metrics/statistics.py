"""What the cases' values say together: moments, and how sure their mean is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Values = dict[str, float | None]

STATISTICS = ("mean", "std", "median", "min", "max", "ci95_low", "ci95_high", "count")
RESAMPLES = 4000
_SEED = 0  # the interval of the same cases is the same interval
_ABOUT_A_CASE = ("data_range", "gain", "offset")


def aggregate(values: Iterable[float | None]) -> Values:
    """The `STATISTICS` of the values that are defined; std is of the population.

    ci95_low and ci95_high bound the mean: percentiles 2.5 and 97.5 of the means of 4000 bootstrap
    samples of the cases (Efron 1979), always drawn with the same seed. One case has none.
    """
    defined = np.array([value for value in values if value is not None], dtype=np.float64)
    if defined.size == 0:
        return {**dict.fromkeys(STATISTICS), "count": 0}
    low, high = bootstrap_interval(defined)
    return {
        "mean": float(defined.mean()),
        "std": float(defined.std()),
        "median": float(np.median(defined)),
        "min": float(defined.min()),
        "max": float(defined.max()),
        "ci95_low": low,
        "ci95_high": high,
        "count": int(defined.size),
    }


def aggregate_cases(cases: Mapping[str, Values]) -> dict[str, Values]:
    """`aggregate` of every metric that any case has; not of what only describes a case."""
    return {
        metric: aggregate(values.get(metric) for values in cases.values())
        for metric in metric_names(cases)
        if metric not in _ABOUT_A_CASE
    }


def metric_names(cases: Mapping[str, Values]) -> list[str]:
    """The keys of all cases, in the order in which they first come up."""
    return list(dict.fromkeys(metric for values in cases.values() for metric in values))


def bootstrap_interval(values: NDArray) -> tuple[float | None, float | None]:
    """The 95 % percentile bootstrap interval of the mean of (n,) values; None for one value."""
    if values.size < 2:
        return None, None
    means = _resamples(values.size) @ values / values.size
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


@lru_cache(maxsize=4)
def _resamples(size: int) -> NDArray:
    """How often each of `size` cases is drawn in each sample: float64 (RESAMPLES, size)."""
    draws = np.random.default_rng(_SEED).multinomial(size, np.full(size, 1 / size), RESAMPLES)
    return draws.astype(np.float64)
