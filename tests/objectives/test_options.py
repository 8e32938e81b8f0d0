from __future__ import annotations

from dataclasses import dataclass

import pytest
from gdmnet.objectives.gdm_options import GdmOptions, check_options, schedule_of

from gdmnet.errors import TrainingError
from gdmnet.objectives.options import read_options


@dataclass(frozen=True)
class Example:
    share: float = 0.5
    count: int = 3
    name: str = "a"
    on: bool = True
    many: tuple[float, ...] = (0.1,)
    names: tuple[str, ...] = ("a",)


def read(**given):
    return read_options(Example, given, objective="example")


def test_what_is_given_replaces_the_default():
    assert read() == Example()
    assert read(share=1, many=[1, 0.5], names=["b", "c"], on=False) == Example(
        1.0, 3, "a", False, (1.0, 0.5), ("b", "c")
    )


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(TrainingError, match="example has no option 'shar'; it knows share, count"):
        read(shar=1)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"share": "x"}, "share .* must be a number, not 'x'"),
        ({"share": True}, "must be a number"),
        ({"count": 1.5}, "must be a whole number"),
        ({"name": 3}, "must be a name"),
        ({"on": 1}, "must be true or false"),
        ({"many": 0.2}, "must be a list, each entry a number"),
        ({"names": [1]}, "must be a name"),
    ],
)
def test_a_value_of_another_type_is_named(given, words):
    with pytest.raises(TrainingError, match=words):
        read(**given)


def test_the_defaults_of_gdm_are_in_range():
    check_options(GdmOptions())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"pairing": "pooling"}, "pairing 'pooling' is unknown; take one of pooled, hybrid"),
        ({"levels": ("global", "locl")}, "level 'locl' is unknown; take one of global, local"),
        ({"coordination": "x"}, "take one of projection, balance, sum"),
        ({"fidelity": "x"}, "take one of l1, huber, l2"),
        ({"levels": ()}, "levels"),
        ({"levels": ("local", "local")}, "levels"),
        ({"drift_ratio": -0.1}, "drift_ratio"),
        ({"drift_ratio": float("nan")}, "drift_ratio"),
        ({"temperatures": (0.2, 0.0)}, "temperatures"),
        ({"global_minimum": 65}, "global_minimum"),
        ({"regression_share": 1.5}, "regression_share"),
        ({"locations": 0}, "locations"),
    ],
)
def test_a_value_out_of_range_is_named(given, words):
    with pytest.raises(TrainingError, match=words):
        check_options(GdmOptions(**given))


def test_the_schedule_is_regression_then_a_ramp_then_constant():
    schedule = schedule_of(GdmOptions(), 1000)
    assert (schedule.start, schedule.ramp) == (200, 50)
    assert [schedule.drifts(step) for step in (135, 136, 200)] == [False, True, True]
    ramp = [schedule.ramp_at(step) for step in (0, 199, 200, 224, 249, 250, 999)]
    assert ramp == pytest.approx([0, 0, 1 / 50, 0.5, 1, 1, 1])


@pytest.mark.parametrize("total", [1, 2, 7])
def test_a_very_short_training_has_a_schedule_too(total):
    schedule = schedule_of(GdmOptions(), total)
    assert schedule.ramp_at(0) == 0
    assert schedule.ramp_at(schedule.start) == 1
