"""What the cases' values say together: moments, how sure their mean is, and if methods differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Values = dict[str, float | None]

STATISTICS = ("mean", "std", "median", "min", "max", "ci95_low", "ci95_high", "count")
RESAMPLES = 4000
_SEED = 0  # the interval of the same cases is the same interval
SIGNIFICANT = 0.05
_ABOUT_A_CASE = ("data_range", "gain", "offset")


@dataclass(frozen=True)
class Paired:
    """The first method minus the second, case by case.

    p is two-sided, of Wilcoxon's signed-rank test (Wilcoxon 1945), exact for few cases; cases
    without a difference are dropped.
    """

    n: int  # cases
    difference: float  # mean over the cases
    ci95_low: float | None  # ends of its bootstrap interval; None for one case
    ci95_high: float | None
    p: float | None  # None if no case differs
    least_p: float  # what p would be if all n cases agreed, 2^(1 - n): it cannot be less

    @property
    def is_significant(self) -> bool:
        """True if p is below 0.05."""
        return self.p is not None and self.p < SIGNIFICANT


def aggregate(values: Iterable[float | None]) -> Values:
    """The `STATISTICS` of the values that are defined; std is of the population.

    ci95_low and ci95_high bound the mean: percentiles 2.5 and 97.5 of the means of 4000 bootstrap
    samples of the cases (Efron 1979), always drawn with the same seed. One case has none.
    """
    defined = np.array([value for value in values if value is not None], dtype=np.float64)
    if defined.size == 0:
        return {**dict.fromkeys(STATISTICS), "count": 0}
    moments = (float(of(defined)) for of in (np.mean, np.std, np.median, np.min, np.max))
    values = *moments, *bootstrap_interval(defined), int(defined.size)
    return dict(zip(STATISTICS, values, strict=True))


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


def compare_paired(first: Sequence[float], second: Sequence[float]) -> Paired:
    """Compare two methods that were measured on the same cases, in the same order.

    Raises:
        ValueError: no case, or not the same number of them.
    """
    from scipy.stats import wilcoxon  # slow to import: only comparisons wait for it

    a, b = (np.asarray(values, dtype=np.float64) for values in (first, second))
    if a.shape != b.shape or a.size == 0:
        raise ValueError(f"{a.size} and {b.size} values: give one of each for every case")
    differences = a - b
    low, high = bootstrap_interval(differences)
    changed = differences[differences != 0]
    return Paired(
        n=a.size,
        difference=float(differences.mean()),
        ci95_low=low,
        ci95_high=high,
        p=float(wilcoxon(changed).pvalue) if changed.size else None,
        least_p=2.0 ** (1 - a.size),
    )


@lru_cache(maxsize=4)
def _resamples(size: int) -> NDArray:
    """How often each of `size` cases is drawn in each sample: float64 (RESAMPLES, size)."""
    draws = np.random.default_rng(_SEED).multinomial(size, np.full(size, 1 / size), RESAMPLES)
    return draws.astype(np.float64)
