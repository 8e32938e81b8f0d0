from __future__ import annotations

import pytest

from gdmnet.compare.settings import Method, make_methods, parse_steps, parse_variant
from gdmnet.errors import SettingError


@pytest.mark.parametrize(
    ("text", "options", "name"),
    [
        ("gdm", {}, "gdm"),
        ("regression:perceptual=0.10", {"perceptual": 0.1}, "regression:perceptual=0.1"),
        ("gdm:pairing=pooled,drift-ratio=0.1", {"pairing": "pooled", "drift_ratio": 0.1}, None),
        (
            'gdm:levels=["global","local"],every=2',
            {"levels": ["global", "local"], "every": 2},
            None,
        ),
        ("gdm:adapt_drift=false", {"adapt_drift": False}, "gdm:adapt_drift=false"),
    ],
)
def test_a_variant_is_read_as_it_is_written(text, options, name):
    variant = parse_variant(text)
    assert variant.options == options
    if name is not None:
        assert variant.name == name


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("telepathy", "objective 'telepathy' is unknown"),
        ("gdm:", "options are missing"),
        ("gdm:drift_ratio", "is not NAME=VALUE"),
        ("gdm:every=1,every=2", "given twice"),
        ("gdm:colour=blue", "no setting 'colour'"),
        ("gdm:drift_ratio=-1", "drift_ratio must be at least 0"),
    ],
)
def test_what_is_no_variant_is_refused(text, words):
    with pytest.raises(SettingError, match=words):
        parse_variant(text)


def test_variants_have_folders_of_their_own_and_come_once():
    texts = ["regression", "regression:perceptual=0.1", "regression:perceptual=0.10", "gdm"]
    variants = list(dict.fromkeys(map(parse_variant, [*texts, "gdm:drift_ratio=0.3"])))
    assert [v.name for v in variants] == [texts[0], texts[1], "gdm", "gdm:drift_ratio=0.3"]
    assert len({v.folder for v in variants}) == 4
    assert all(":" not in v.folder and "/" not in v.folder for v in variants)


def test_steps_make_a_method_each_and_a_variants_own_come_first():
    steps = parse_steps(["flow=1,4,4", "flow:noise=2=3"])
    assert steps == {"flow": (1, 4), "flow:noise=2": (3,)}
    variants = [Method("flow"), Method("gdm"), Method("flow", {"noise": 2})]
    methods = make_methods(variants, steps)
    assert [m.name for m in methods] == [
        "flow, 1 step",
        "flow, 4 steps",
        "gdm",
        "flow:noise=2, 3 steps",
    ]
    assert len({m.folder for m in methods}) == 4


def test_steps_of_a_one_step_objective_or_of_a_stranger_are_refused():
    variants = [Method("gdm"), Method("bridge")]
    with pytest.raises(SettingError, match="--steps gdm: calls its network once"):
        make_methods(variants, {"gdm": (4,)})
    with pytest.raises(SettingError, match="steps must be at least 1 and at most 1000, not 1001"):
        make_methods(variants, {"bridge": (4, 1001)})
    with pytest.raises(SettingError, match="--steps flow: is not compared"):
        make_methods(variants, {"flow": (4,)})


@pytest.mark.parametrize("text", ["flow", "flow=", "=4", "flow=0", "flow=1,,2", "flow=-1"])
def test_steps_of_another_form_are_refused(text):
    with pytest.raises(SettingError, match="write NAME=1,4,16"):
        parse_steps([text])


def test_methods_can_be_keys():
    assert {Method(Method("gdm", {"every": 2})): 1}[Method(Method("gdm", {"every": 2}))] == 1
