from __future__ import annotations

from gdmnet.compare.pace import Pace


def test_a_length_fills_its_time_with_whole_epochs():
    pace = Pace(step=0.5, validation=2.0, call=0.1, calls=1)
    assert pace.training(3, 10) == 3 * (10 * 0.5 + 2.0)
    assert pace.length(60, 10) == (8, 10)
    assert pace.training(*pace.length(60, 10)) <= 60


def test_a_time_too_short_for_an_epoch_shortens_it():
    pace = Pace(step=0.5, validation=2.0, call=0.1, calls=1)
    assert pace.length(5, 10) == (1, 6)
    assert pace.length(1, 10) == (1, 1)
