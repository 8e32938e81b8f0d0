"""Two methods on the same cases: by how much they differ, and whether that may be chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import wilcoxon

from gdmnet.metrics.statistics import bootstrap_interval

SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Paired:
    """The first method minus the second, case by case.

    Attributes:
        n: cases.
        difference: the mean over the cases.
        ci95_low: lower end of the difference's bootstrap interval; None for one case.
        ci95_high: the upper end.
        p: two-sided, of Wilcoxon's signed-rank test (Wilcoxon 1945), exact for few cases; cases
            without a difference are dropped; None if no case differs.
        least_p: what p would be if all n cases agreed, 2^(1 - n): it cannot be less.
    """

    n: int
    difference: float
    ci95_low: float | None
    ci95_high: float | None
    p: float | None
    least_p: float

    @property
    def is_significant(self) -> bool:
        """True if p is below 0.05."""
        return self.p is not None and self.p < SIGNIFICANT


def compare_paired(first: Sequence[float], second: Sequence[float]) -> Paired:
    """Compare two methods that were measured on the same cases, in the same order.

    Raises:
        ValueError: no case, or not the same number of them.
    """
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
