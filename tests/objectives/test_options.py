from __future__ import annotations

import dataclasses
import math
import subprocess
import sys

import pytest

from gdmnet.drifting.pairing import PAIRINGS
from gdmnet.drifting.representations import LEVELS
from gdmnet.errors import SettingError
from gdmnet.objectives.build import OBJECTIVES
from gdmnet.objectives.fidelity import FIDELITIES
from gdmnet.objectives.flow import SOLVERS
from gdmnet.objectives.gdm_state import Schedule
from gdmnet.objectives.options import (
    OPTIONS,
    FlowOptions,
    GdmOptions,
    all_options,
    new_options,
    parse_option,
    read_objective_options,
)


def choices(kind: type, name: str) -> list[str]:
    (facts,) = (f.metadata["facts"] for f in dataclasses.fields(kind) if f.name == name)
    return list(facts.choices)


def test_every_objective_has_options_and_every_choice_its_function():
    assert list(OPTIONS) == list(OBJECTIVES)
    for kind in OPTIONS.values():
        assert choices(kind, "fidelity") == list(FIDELITIES)
    assert choices(GdmOptions, "pairing") == list(PAIRINGS)
    assert choices(GdmOptions, "levels") == list(LEVELS)
    assert choices(FlowOptions, "solver") == list(SOLVERS)


def test_what_is_given_replaces_the_default():
    given = {"drift_ratio": 1, "temperatures": [1, 0.5], "levels": ["local"], "adapt_drift": False}
    assert read_objective_options("gdm", {}) == GdmOptions()
    assert read_objective_options("gdm", given) == GdmOptions(
        drift_ratio=1.0, temperatures=(1.0, 0.5), levels=("local",), adapt_drift=False
    )


@pytest.mark.parametrize(
    ("objective", "given", "has_unit", "weight"),
    [
        ("gdm", {}, True, 0.0),
        ("gdm", {}, False, 2.0),
        ("gdm", {"perceptual": 0.0}, False, 0.0),
        ("gdm", {"perceptual": 0.5}, True, 0.5),
        ("regression", {}, False, 0.0),
    ],
)
def test_features_are_a_loss_of_gdm_where_the_target_has_no_unit(
    objective, given, has_unit, weight
):
    options = new_options(objective, given, has_unit=has_unit)
    assert options == all_options(objective, {"perceptual": weight})


@pytest.mark.parametrize(
    ("objective", "given", "words"),
    [
        ("gdn", {}, "^objective 'gdn' is unknown; take one of gdm, regression"),
        ("gdm", {"ratio": 1}, "^objective gdm: there is no setting 'ratio'; known are drift_ratio"),
        ("gdm", {"coordination": "mgda"}, "coordination 'mgda' is unknown"),
        ("gdm", {"pairing": "hybrid"}, "pairing 'hybrid' is unknown; take one of pooled, coupled"),
        ("gdm", {"levels": ["global", "raw"]}, "levels 'raw' is unknown; take one of global"),
        ("gdm", {"levels": []}, r"levels must be a list of one or more, each once: \(\)"),
        ("gdm", {"levels": ["local", "local"]}, "levels must be a list"),
        ("gdm", {"temperatures": [0.2, 0.0]}, "temperatures must be above 0, not 0.0"),
        ("gdm", {"temperatures": 0.2}, "temperatures must be a list"),
        ("gdm", {"drift_ratio": -0.1}, "drift_ratio must be at least 0"),
        ("gdm", {"drift_ratio": math.nan}, "drift_ratio must be at least 0, not nan"),
        ("gdm", {"drift_ratio": math.inf}, "drift_ratio"),
        ("gdm", {"drift_ratio": True}, "drift_ratio must be a number"),
        ("gdm", {"regression_share": 1.5}, "regression_share"),
        ("gdm", {"locations": 5000}, "locations must be at least 1 and at most 4096"),
        ("gdm", {"every": 1.5}, "every must be a whole number"),
        ("gdm", {"realism_dial": True, "regression_share": 1.0}, "needs a drift to turn"),
        ("gdm", {"realism_dial": True, "drift_ratio": 0.0}, "needs a drift to turn"),
        ("regression", {"perceptual": -1}, "objective regression: perceptual"),
        ("gan", {"critic_rate": math.nan}, "critic_rate"),
        ("gan", {"adversarial": -1.0}, "adversarial"),
        ("flow", {"start_channel": 0}, "--start-channel 0: flow starts from noise"),
        ("flow", {"solver": "leap"}, "solver 'leap' is unknown; take one of euler, heun, rk4"),
        ("flow", {"times": "late"}, "times 'late'"),
        ("flow", {"start": "middle"}, "start 'middle'"),
        ("bridge", {"start_channel": -1}, "start_channel must be at least 0, not -1"),
        ("bridge", {"sampler": "ddim"}, "sampler 'ddim'"),
        ("bridge", {"ot_ode": 1}, "ot_ode must be true or false"),
        ("diffusion", {"eta": 1.5}, "eta must be at least 0 and at most 1"),
        ("diffusion", {"start_channel": 0}, "there is no setting 'start_channel'"),
        ("diffusion", {"steps": 1001}, "steps must be at least 1 and at most 1000"),
    ],
)
def test_what_cannot_be_is_one_line_that_names_it(objective, given, words):
    with pytest.raises(SettingError, match=words) as error:
        read_objective_options(objective, given)
    assert "\n" not in str(error.value)


def test_an_option_is_read_as_json_or_as_a_name():
    assert parse_option('levels=["global"]') == ("levels", ["global"])
    assert parse_option("drift-ratio=0.5") == ("drift_ratio", 0.5)
    assert parse_option("adapt_drift=false") == ("adapt_drift", False)
    assert parse_option("pairing=paired") == ("pairing", "paired")
    for text in ("pairing", "=paired"):
        with pytest.raises(SettingError, match=f"{text} is not NAME=VALUE"):
            parse_option(text)


def test_options_are_checked_without_torch():
    code = (
        "import sys\n"
        "from gdmnet.objectives.options import read_objective_options\n"
        "read_objective_options('gdm', {'drift_ratio': 0.3})\n"
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_schedule_is_regression_then_a_ramp_then_constant():
    schedule = Schedule(GdmOptions(drift_ratio=0.5), 1000)
    assert (schedule.start, schedule.ramp) == (200, 50)
    assert [schedule.drifts(step) for step in (135, 136, 200)] == [False, True, True]
    ramp = [2 * schedule.ratio_at(step, 1.0) for step in (0, 199, 200, 224, 249, 250, 999)]
    assert ramp == pytest.approx([0, 0, 1 / 50, 0.5, 1, 1, 1])
    assert schedule.ratio_at(999, 0.25) == pytest.approx(0.125)


@pytest.mark.parametrize("total", [1, 2, 7])
def test_a_very_short_training_has_a_schedule_too(total):
    schedule = Schedule(GdmOptions(), total)
    assert schedule.ratio_at(0, 1.0) == 0
    assert schedule.ratio_at(schedule.start, 1.0) == 0.2
