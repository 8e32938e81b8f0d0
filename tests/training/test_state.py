import math

import numpy as np
import pytest

from gdmnet.training.state import MOST_IN_A_ROW, TrainingCounts


def test_ten_steps_in_a_row_are_too_many_but_not_ten_in_all():
    counts = TrainingCounts()
    for _ in range(3):
        assert not any(counts.count_step(finite=False) for _ in range(MOST_IN_A_ROW - 1))
        assert not counts.count_step(finite=True)
    assert (counts.step, counts.skipped, counts.in_a_row) == (30, 27, 0)
    assert [counts.count_step(finite=False) for _ in range(10)] == [False] * 9 + [True]


def test_the_best_epoch_is_that_of_the_smallest_smoothed_mae():
    counts = TrainingCounts()
    maes = [1.0, 0.8, 0.9, 0.2, 0.6, 0.3, math.nan]
    smoothed, best = [], []
    for epoch, mae in enumerate(maes, start=1):
        best.append(counts.is_best(mae, epoch))
        smoothed.append(counts.smoothed_mae)
    np.testing.assert_allclose(smoothed, [1.0, 0.9, 0.9, 0.55, 0.575, 0.4375, 0.4375])
    assert best == [True, True, False, True, False, True, False]
    assert (counts.best_epoch, counts.best_mae) == (6, 0.4375)


def test_counts_come_back_as_it_was():
    counts, other = TrainingCounts(), TrainingCounts()
    counts.count_step(finite=False)
    counts.is_best(0.5, 1)
    other.load_state_dict(counts.state_dict())
    assert other == counts
    with pytest.raises(KeyError):
        other.load_state_dict({"step": 1})
    for name, value in (("step", -1), ("skipped", 1.5), ("best_mae", math.nan), ("step", True)):
        with pytest.raises(ValueError, match=name):
            other.load_state_dict(counts.state_dict() | {name: value})
