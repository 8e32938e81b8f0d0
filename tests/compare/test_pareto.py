from __future__ import annotations

from gdmnet.compare.pareto import pareto_front


def test_the_front_of_known_points():
    points = {"a": (1, 5), "b": (2, 3), "c": (3, 3), "d": (4, 1), "e": (5, 5)}
    assert pareto_front(points) == ("a", "b", "d")


def test_a_third_axis_can_save_a_point():
    flat = {"fast": (2.0, 2.0), "good": (1.0, 1.0)}
    assert pareto_front(flat) == ("good",)
    assert pareto_front({"fast": (2.0, 2.0, 1), "good": (1.0, 1.0, 16)}) == ("fast", "good")


def test_equal_points_are_both_on_the_front_and_unknown_ones_are_not():
    assert pareto_front({"a": (1, 1), "b": (1, 1), "c": (None, 0)}) == ("a", "b")
    assert pareto_front({"a": (None,)}) == ()
