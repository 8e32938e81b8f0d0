"""A setting stands once, in its dataclass; parser, JSON and Python meet the same bounds."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

import pytest

from gdmnet import codec
from gdmnet.errors import PlanError, SettingError
from gdmnet.settings import Settings, add_settings, given_settings, make_settings, setting


@dataclass(frozen=True)
class SomeSettings(Settings):
    step_size: float = setting(0.5, "share of the patch", above=0, most=1)
    n_workers: int | None = setting(None, "workers", least=0, flag="-np")
    ensemble: str = setting("mean", "of the folds", choices=("mean", "median"))
    levels: tuple[str, ...] = setting(("global", "local"), "levels", choices=("global", "local"))
    tta: bool = setting(False, "mirrored copies")
    adapt_drift: bool = setting(True, "never halve the ratio")
    weights: Path | None = setting(None, "a file")


def parse(*words):
    parser = argparse.ArgumentParser()
    add_settings(parser, SomeSettings)
    return given_settings(parser.parse_args(words), SomeSettings)


def test_what_is_not_typed_leaves_no_trace():
    assert parse() == {}
    given = parse("--step-size", "1", "-np", "0", "--tta", "--no-adapt-drift", "--levels", "local")
    assert given == {
        "step_size": 1.0,
        "n_workers": 0,
        "tta": True,
        "adapt_drift": False,
        "levels": ["local"],
    }
    assert make_settings(SomeSettings, given).levels == ("local",)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"step_size": 0}, "step_size must be above 0 and at most 1, not 0.0"),
        ({"step_size": math.nan}, "step_size must be above 0 and at most 1, not nan"),
        ({"step_size": True}, "step_size must be a number, not True"),
        ({"n_workers": -1}, "n_workers must be at least 0, not -1"),
        ({"n_workers": 1.5}, "n_workers must be a whole number, not 1.5"),
        ({"ensemble": "max"}, "ensemble 'max' is unknown; take one of mean, median"),
        ({"levels": ["raw"]}, "levels 'raw' is unknown; take one of global, local"),
        ({"levels": "local"}, "levels must be a list, not 'local'"),
        ({"stepsize": 1}, "there is no setting 'stepsize'; known are step_size, n_workers"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_it(given, said):
    with pytest.raises(SettingError, match=f"^{said}"):
        make_settings(SomeSettings, given)


def test_the_terminal_refuses_with_the_same_words(capsys):
    for words in (["--step-size", "nan"], ["-np", "-1"], ["--step-size", "much"]):
        with pytest.raises(SystemExit):
            parse(*words)
    said = capsys.readouterr().err
    assert "step_size must be above 0 and at most 1, not nan" in said
    assert "n_workers must be at least 0, not -1" in said
    assert "step_size must be a number, not 'much'" in said


def test_json_meets_the_same_bounds():
    settings = SomeSettings(step_size=1, weights=Path("a.pt"))
    assert codec.decode(SomeSettings, codec.encode(settings)) == settings
    with pytest.raises(PlanError, match=r"^run.json: step_size must be above 0"):
        codec.decode(SomeSettings, {"step_size": -0.5}, "run.json")


def test_help_shows_defaults_and_choices():
    parser = argparse.ArgumentParser()
    add_settings(parser, SomeSettings, ["step_size", "ensemble"])
    text = parser.format_help()
    assert "share of the patch (default: 0.5)" in text
    assert "{mean,median}" in text
    assert "--tta" not in text
