import numpy as np
import pytest
from scipy.stats import norm

from gdmnet.metrics.statistics import (
    STATISTICS,
    aggregate,
    aggregate_cases,
    bootstrap_interval,
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
