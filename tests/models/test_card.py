from dataclasses import replace

import pytest

from gdmnet.models.card import ModelCard, PredictionSettings

CARD = ModelCard("model", "gdm", "3d_fullres", {"0": "ab"}, "cpu", "fp32", realism={"0": 0.25})


def changed(**settings):
    return replace(CARD, settings=PredictionSettings(**settings))


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (replace(CARD, checkpoints={"0": "cd"}), "checkpoints"),
        (replace(CARD, realism={"0": 0.5}), "realism"),
        (replace(CARD, data_consistency=True), "data_consistency"),
        (changed(checkpoint="best"), "checkpoint"),
        (changed(step_size=0.6), "step_size"),
        (changed(tta=True), "tta"),
        (changed(ensemble="median"), "ensemble"),
        (changed(steps=3), "steps"),
        (changed(sampler="ode"), "sampler"),
        (changed(seed=1), "seed"),
        (changed(realism=0.25), None),  # asked for, and what the validation chose
        (replace(CARD, folder="elsewhere", device="cuda:0", precision="bf16"), None),
    ],
)
def test_what_makes_other_predictions_is_named(other, difference):
    assert CARD.difference(other) == difference
    assert CARD.difference(CARD) is None


def test_a_card_says_what_is_used():
    sampled = replace(CARD, settings=PredictionSettings(sampler="rk4", steps=3))
    expected = "(final checkpoint, folds 0, realism 0.25, rk4 of 3 steps) on cpu, fp32"
    assert str(sampled) == f"model {expected}"
