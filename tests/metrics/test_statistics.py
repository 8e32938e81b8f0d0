import itertools

import numpy as np
import pytest
from scipy.stats import norm

from gdmnet.metrics.statistics import (
    STATISTICS,
    aggregate,
    aggregate_cases,
    bootstrap_interval,
    compare_paired,
    metric_names,
)


def test_all_statistics_are_there_and_right():
    found = aggregate([10.0, 20.0, 30.0, 60.0])
    assert tuple(found) == STATISTICS
    assert (found["mean"], found["median"], found["min"], found["max"]) == (30, 25, 10, 60)
    assert found["std"] == pytest.approx(np.std([10, 20, 30, 60]))
    assert found["count"] == 4


def test_undefined_values_are_not_averaged():
    assert aggregate([1.0, None, 3.0])["mean"] == 2
    assert aggregate([1.0, None, 3.0])["count"] == 2
    assert aggregate([None])["mean"] is None
    assert aggregate([None])["count"] == 0
    assert tuple(aggregate([])) == STATISTICS


def test_one_case_has_no_interval_and_equal_cases_have_a_narrow_one():
    assert aggregate([5.0])["ci95_low"] is None
    assert bootstrap_interval(np.full(4, 5.0)) == (5.0, 5.0)


def test_the_interval_of_many_cases_is_the_normal_one(rng):
    values = rng.normal(70, 12, size=400)
    low, high = bootstrap_interval(values)
    half = norm.ppf(0.975) * values.std() / np.sqrt(400)
    assert low == pytest.approx(values.mean() - half, abs=0.06 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.06 * half)


def test_the_interval_covers_the_truth_as_often_as_it_says(rng):
    covered = []
    for _ in range(300):
        low, high = bootstrap_interval(rng.normal(size=40))
        covered.append(low <= 0 <= high)
    assert 0.90 <= np.mean(covered) <= 0.98


def test_the_interval_of_two_values_is_that_of_the_binomial():
    assert bootstrap_interval(np.array([0.0, 1.0])) == (0.0, 1.0)  # each end has probability 1/4


def test_the_same_cases_have_the_same_interval(rng):
    values = rng.normal(size=9)
    assert bootstrap_interval(values) == bootstrap_interval(values.copy())


def test_metrics_that_only_some_cases_have_are_aggregated_over_these():
    cases = {
        "a": {"mae": 1.0, "data_range": 4095.0, "gain": 2.0},
        "b": {"mae": 3.0, "dice": 0.5, "data_range": 300.0},
    }
    found = aggregate_cases(cases)
    assert list(found) == ["mae", "dice"]
    assert found["mae"]["count"] == 2
    assert found["dice"]["count"] == 1
    assert metric_names(cases) == ["mae", "data_range", "gain", "dice"]


def slow_p(differences):
    """Two-sided p of the signed-rank sum, by trying all signs."""
    ranks = np.argsort(np.argsort(np.abs(differences))) + 1
    middle = ranks.sum() / 2
    observed = abs(ranks[np.asarray(differences) > 0].sum() - middle)
    sums = [
        abs(sum(r for r, is_up in zip(ranks, ups, strict=True) if is_up) - middle)
        for ups in itertools.product((False, True), repeat=len(ranks))
    ]
    return float(np.mean(np.array(sums) >= observed))


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 11])
def test_p_is_that_of_all_sign_patterns(rng, n):
    first, second = rng.normal(0.4, 1, n), rng.normal(0, 1, n)
    found = compare_paired(first, second)
    assert found.p == pytest.approx(slow_p(first - second))
    assert found.difference == pytest.approx(np.mean(first) - np.mean(second))
    assert found.n == n


def test_p_has_a_floor_that_is_reached_when_all_cases_agree(rng):
    for n in range(1, 9):
        second = rng.normal(0, 1, n)
        found = compare_paired(second - rng.uniform(0.1, 1, n), second)
        assert found.p == pytest.approx(found.least_p)
        assert found.difference < 0
        assert found.is_significant == (n >= 6)


def test_the_interval_bounds_the_mean_difference(rng):
    first, second = rng.normal(3, 1, 200), rng.normal(0, 1, 200)
    found = compare_paired(first, second)
    half = 1.96 * np.std(first - second) / 200**0.5
    assert found.ci95_low == pytest.approx(found.difference - half, abs=0.05)
    assert found.ci95_high == pytest.approx(found.difference + half, abs=0.05)
    assert compare_paired([1.0], [2.0]).ci95_low is None


def test_pairs_count_and_not_the_order_of_cases(rng):
    base = rng.normal(0, 50, 12)
    close = compare_paired(base + 1 + rng.normal(0, 0.1, 12), base)
    assert close.is_significant  # although the spread over the cases is fifty times larger
    shuffled = rng.permutation(12)
    first = base + rng.normal(1, 2, 12)
    assert compare_paired(first[shuffled], base[shuffled]).p == compare_paired(first, base).p


def test_equal_values_are_no_difference():
    same = compare_paired([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    assert (same.difference, same.p, same.is_significant) == (0, None, False)
    assert (same.ci95_low, same.ci95_high) == (0, 0)
    one = compare_paired([1.0, 2.0, 3.0], [1.0, 2.0, 2.0])
    assert one.p == 1  # a single case that differs


def test_what_is_not_paired_is_misuse():
    with pytest.raises(ValueError, match="every case"):
        compare_paired([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="every case"):
        compare_paired([], [])
