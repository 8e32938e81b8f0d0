from itertools import pairwise

import pytest

from gdmnet.plan import Recipe
from gdmnet.training.schedule import learning_rate, warm_up_steps


def test_warm_up_is_a_share_of_the_run_but_at_most_1000_steps():
    assert warm_up_steps(Recipe(10, 100)) == 50
    assert warm_up_steps(Recipe(1000, 250)) == 1000
    assert warm_up_steps(Recipe(1, 1)) == 1


def test_the_rate_rises_to_its_top_and_falls_to_zero():
    recipe = Recipe(10, 100, learning_rate=0.5)
    rates = [learning_rate(step, recipe) for step in range(1000)]
    assert rates[0] == pytest.approx(0.5 / 50)
    assert rates[24] == pytest.approx(0.25)
    assert max(rates) == rates[49] == rates[50] == 0.5
    assert all(a < b for a, b in pairwise(rates[:50]))
    assert all(a > b for a, b in pairwise(rates[50:]))
    assert learning_rate(525, recipe) == pytest.approx(0.25)  # half of the decay
    assert learning_rate(1000, recipe) == pytest.approx(0.0, abs=1e-12)


def test_a_run_of_one_step_learns():
    assert learning_rate(0, Recipe(1, 1, learning_rate=0.1)) == 0.1
