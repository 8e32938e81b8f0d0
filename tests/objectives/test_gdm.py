from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch
from objectives.small import (
    CONFIGURATION,
    PATCH,
    CountingEncoder,
    adam,
    gdm_context,
    half_mask,
    loop_step,
    make_batch,
    make_context,
    planned,
    small_generator,
)

from gdmnet.drifting.coordination import inner, norms
from gdmnet.drifting.pairing import PAIRINGS
from gdmnet.errors import TrainingError
from gdmnet.objectives import gdm_levels, gdm_state
from gdmnet.objectives.base import Batch, Context
from gdmnet.objectives.gdm import Gdm
from gdmnet.objectives.regression import Regression
from gdmnet.plan import Architecture

AT_ONCE = {"regression_share": 0.0, "ramp_share": 0.0}


@pytest.fixture(autouse=True)
def _no_waiting(request, monkeypatch):
    """The global level begins with the first step, but in the tests of its waiting."""
    if "waits" not in request.node.name:
        monkeypatch.setattr(gdm_levels, "GLOBAL_MINIMUM", 0)


def descend(objective: Gdm, batch: Batch | None = None, step: int = 0):
    batch = make_batch(step) if batch is None else batch
    return objective.descend(small_generator(), batch, torch.Generator())


def fidelity_gradient(batch: Batch, **options) -> torch.Tensor:
    objective = Regression(make_context(**options))
    return objective.descend(small_generator(), batch, None).cotangent


def train(objective, steps: int, *, dropout: float = 0.0, rate: float = 3e-3):
    generator = small_generator(dropout=dropout)
    optimiser = adam(generator, rate)
    torch.manual_seed(11)
    descents = [loop_step(generator, objective, optimiser, step) for step in range(steps)]
    return generator, descents


def test_without_drift_it_is_regression_to_the_bit(monkeypatch):
    monkeypatch.setattr(gdm_state, "WARM_STEPS", 12)
    plain, _ = train(Regression(make_context()), 24, dropout=0.3)
    gdm = Gdm(gdm_context(100))  # rings fill from step 8, drift from 20
    warmed, descents = train(gdm, 20, dropout=0.3)
    assert gdm.encoder.calls > 1
    assert descents[-1].metrics["norm_drift"] > 0
    shorter, _ = train(Regression(make_context()), 20, dropout=0.3)
    for mine, other in zip(warmed.parameters(), shorter.parameters(), strict=True):
        assert torch.equal(mine, other)
    zero, _ = train(Gdm(gdm_context(24, drift_ratio=0.0)), 24, dropout=0.3)
    for mine, other in zip(zero.parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine, other)
    drifted, _ = train(Gdm(gdm_context(100)), 24, dropout=0.3)
    assert any(
        not torch.equal(mine, other)
        for mine, other in zip(drifted.parameters(), plain.parameters(), strict=True)
    )


def test_without_drift_it_has_the_perceptual_distance_of_regression():
    options = {"perceptual": 2.0}
    with_distance, descents = train(Gdm(gdm_context(24, drift_ratio=0.0, **options)), 12)
    plain, others = train(Regression(make_context(**options)), 12)
    for mine, other in zip(with_distance.parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine, other)
    assert descents[-1].metrics["perceptual"] == others[-1].metrics["perceptual"] > 0
    twin, start = Gdm(gdm_context(24, realism_dial=True, **options)).twin()
    assert (twin.options.perceptual, start) == (2.0, 5)


def test_the_encoder_runs_only_when_needed():
    objective = Gdm(gdm_context(395))  # the drift begins at step 79, its encoder at 15
    at_build = objective.encoder.calls
    train(objective, 15)
    assert objective.encoder.calls == at_build
    train(objective, 3)
    assert objective.encoder.calls == at_build + 6  # prediction and target
    without = Gdm(gdm_context(10, drift_ratio=0.0))
    at_build = without.encoder.calls
    train(without, 10)
    assert without.encoder.calls == at_build


def test_the_ratio_ramps_up():
    objective = Gdm(gdm_context(40, ramp_share=0.1, drift_ratio=0.4))
    _, descents = train(objective, 14)
    ratios = [descent.metrics["ratio"] for descent in descents]
    assert ratios == pytest.approx([0.0] * 8 + [0.1, 0.2, 0.3, 0.4, 0.4, 0.4])


def test_rarer_drift_steps_are_as_much_stronger():
    objective = Gdm(gdm_context(40, ramp_share=0.0, drift_ratio=0.2, every=3))
    at_build = objective.encoder.calls
    _, descents = train(objective, 14)
    ratios = [descent.metrics["ratio"] for descent in descents[8:]]
    assert ratios == pytest.approx([0.0, 0.6, 0.0, 0.0, 0.6, 0.0])
    assert objective.encoder.calls == at_build + 2 * 5  # 0, 3, 6 fill the rings, 9 and 12 drift


def test_drift_gives_back_the_texture_that_regression_loses():
    unseen = make_batch(-1)

    def spread(objective) -> float:
        generator, _ = train(objective, 60, rate=1e-2)
        with torch.no_grad():
            prediction = generator(unseen.source)
        return float(prediction.diff(dim=4).abs().mean() / unseen.target.diff(dim=4).abs().mean())

    plain = spread(Regression(make_context()))
    drifted = spread(Gdm(gdm_context(60, drift_ratio=1.0, levels=["global", "local"])))
    assert plain < 0.8
    assert plain + 0.1 < drifted < 1.2


@pytest.mark.parametrize("pairing", sorted(PAIRINGS))
@pytest.mark.parametrize("levels", [["global"], ["local"], ["spatial"]])
def test_every_pairing_and_level_drifts(pairing, levels):
    objective = Gdm(gdm_context(**AT_ONCE, pairing=pairing, levels=levels))
    for step in range(3):
        descent = descend(objective, step=step)
    assert descent.finite
    assert descent.metrics["norm_drift"] > 0
    force = "force" if pairing == "coupled" else "force_0.2"
    assert {f"{force}_{level}" for level in levels} <= set(descent.metrics)
    assert not torch.equal(descent.cotangent, fidelity_gradient(make_batch(2)))
    assert bool(len(objective.state.rings)) == (levels[0] in PAIRINGS[pairing].with_past)


def test_it_never_descends_the_fidelity_less():
    objective = Gdm(gdm_context(**AT_ONCE, drift_ratio=3.0))
    for step in range(20):  # the rings remember darker targets: drift and fidelity disagree
        batch = make_batch(step)
        descend(objective, Batch(batch.source, batch.target - 20, batch.mask))
    batch = make_batch(20)
    descent, fidelity = descend(objective, batch), fidelity_gradient(batch)
    assert descent.metrics["conflict"] == 1
    assert (inner(descent.cotangent, fidelity) >= norms(fidelity) ** 2 * (1 - 1e-4)).all()


def test_by_voxels_the_drift_keeps_half_of_what_it_loses_by_samples():
    batch, found = make_batch(0), {}
    dark = Batch(batch.source, batch.target - 20, batch.mask)
    for name in ("sample", "voxel"):
        objective = Gdm(gdm_context(**AT_ONCE, drift_ratio=0.1, coordination=name))
        found[name] = descend(objective, dark).cotangent - fidelity_gradient(dark)
    opposed = found["voxel"] * fidelity_gradient(dark) < 0
    assert opposed.any()
    assert not torch.allclose(found["voxel"], found["sample"], rtol=0.01)


@pytest.mark.parametrize("weight", [0.0, 2.0])
def test_the_drift_has_the_ratio_of_the_fidelity_norm(weight):
    objective = Gdm(gdm_context(**AT_ONCE, drift_ratio=0.5, perceptual=weight))
    for step in range(4):
        batch = make_batch(step)
        faithful = fidelity_gradient(batch, perceptual=weight)
        added = descend(objective, batch).cotangent - faithful
    expected = 0.5 * norms(faithful).mean()
    assert float(norms(added).mean()) == pytest.approx(float(expected), rel=0.3)


def test_the_drift_stays_inside_the_mask_and_does_not_see_the_prediction_outside():
    mask = half_mask()
    batch = make_batch(0, mask=mask)
    inside = descend(Gdm(gdm_context(**AT_ONCE)), batch).cotangent
    assert torch.equal(inside * (1 - mask), torch.zeros_like(inside))
    assert float((inside * mask).abs().max()) > 0

    class Painter(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = small_generator()

        def forward(self, x):
            return self.inner(x) + 50 * (1 - mask)

    painted = Gdm(gdm_context(**AT_ONCE)).descend(Painter(), batch, torch.Generator())
    assert torch.allclose(painted.cotangent, inside, atol=1e-9)


def test_a_batch_without_body_has_no_drift_and_no_gradient():
    objective = Gdm(gdm_context(**AT_ONCE))
    descent = descend(objective, make_batch(0, mask=torch.zeros(2, 1, *PATCH)))
    assert descent.finite
    assert torch.equal(descent.cotangent, torch.zeros_like(descent.cotangent))
    assert descent.metrics["drift_skipped"] == 1


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), 0.0])
def test_a_useless_drift_leaves_the_fidelity_alone(factor, caplog):
    encoder = CountingEncoder()
    objective = Gdm(gdm_context(100, encoder=encoder, **AT_ONCE))
    good = descend(objective)
    assert good.metrics["drift_skipped"] == 0
    watched = ("drift_norm", "level_norms", "rings") if factor != 0 else ("drift_norm",)

    def memory():
        return {
            name: value.clone()
            for name, value in objective.state.state_dict().items()
            if name.startswith(watched)
        }

    before = memory()
    encoder.factor = factor
    with caplog.at_level(logging.WARNING):
        for step in range(1, 11):
            bad = descend(objective, step=step)
            assert bad.finite
            assert bad.metrics["drift_skipped"] == 1
            assert objective.state.skipped == step
            assert torch.equal(bad.cotangent, fidelity_gradient(make_batch(step)))
    assert "10 steps in a row without a drift" in caplog.text
    assert "has no rows" not in caplog.text
    for name, value in memory().items():
        assert torch.equal(value, before[name]), name
    encoder.factor = 1.0
    again = descend(objective, step=11)
    assert again.metrics["drift_skipped"] == 0
    assert objective.state.skipped == 10
    assert not torch.equal(again.cotangent, fidelity_gradient(make_batch(11)))


def test_a_level_without_rows_is_named_once(caplog):
    mask = torch.zeros(2, 1, *PATCH)
    mask[:, :, :2, :2, :2] = 1  # 16 voxels: a mean, but no 32 places
    objective = Gdm(gdm_context(**AT_ONCE))
    with caplog.at_level(logging.WARNING):
        for step in range(3):
            assert descend(objective, make_batch(step, mask=mask)).metrics["norm_drift"] > 0
    assert caplog.text.count("level local has no rows") == 1
    assert caplog.text.count("level spatial has no rows") == 1
    assert "level global" not in caplog.text


def test_only_the_global_level_waits_for_its_rows(caplog):
    objective = Gdm(gdm_context(regression_share=0.0))  # two rows a step, 16 wanted
    for step in range(8):
        metrics = descend(objective, step=step).metrics
        assert "force_0.2_global" not in metrics
        assert "force_0.2_local" in metrics
    assert "force_0.2_global" in descend(objective, step=8).metrics
    alone = Gdm(gdm_context(regression_share=0.0, levels=["global"]))
    assert descend(alone).metrics["drift_skipped"] == 0
    assert caplog.text == ""


def test_a_joint_backward_equals_the_levels_one_by_one():
    joint, apart = (Gdm(gdm_context(**AT_ONCE)) for _ in range(2))
    for step in range(3):
        descend(joint, step=step)
    apart.state.load_state_dict(joint.state.state_dict())
    joint.state.active = 21  # not measured
    apart.state.active = 30  # measured
    for norm in apart.state.level_norms.values():
        norm.decay = 1.0
        norm.weight *= 1e7  # the measurement does not move the mean
        norm.total.mul_(1e7)
    one, other = descend(joint, step=3), descend(apart, step=3)
    assert "cos_local" not in one.metrics
    assert "cos_local" in other.metrics
    for metric in ("norm_drift", "cos"):
        assert float(one.metrics[metric]) == pytest.approx(float(other.metrics[metric]), rel=1e-4)


def test_levels_are_measured_in_the_first_steps_and_every_tenth_one_after():
    objective = Gdm(gdm_context(1000, **AT_ONCE))
    measured = [step for step in range(32) if "cos_local" in descend(objective, step=step).metrics]
    assert measured == [*range(20), 20, 30]


def test_the_levels_are_made_equal_before_they_are_summed():
    objective = Gdm(gdm_context(**AT_ONCE))
    for step in range(10):
        metrics = descend(objective, step=step).metrics
    assert {"norm_global", "norm_local", "norm_spatial"} <= set(metrics)
    assert 1.0 < metrics["norm_drift"] < 3.0  # three unit vectors: between 1 and 3 long


def test_bfloat16_autocast_changes_little():
    batch = make_batch(0)
    full = descend(Gdm(gdm_context(**AT_ONCE)), batch).cotangent
    with torch.autocast("cpu", torch.bfloat16):
        half = descend(Gdm(gdm_context(**AT_ONCE)), batch)
    assert half.tensor.dtype == torch.bfloat16
    cosine = inner(full, half.cotangent) / (norms(full) * norms(half.cotangent))
    assert float(cosine.min()) > 0.95


def test_the_seed_moves_the_places():
    context = gdm_context(**AT_ONCE)
    other = replace(context, seed=4)
    first, again, moved = (descend(Gdm(c)).cotangent for c in (context, context, other))
    assert torch.equal(first, again)
    assert not torch.equal(first, moved)


def test_every_step_draws_its_own_places_and_draws_them_again():
    objective = Gdm(gdm_context(**AT_ONCE, levels=["spatial"], pairing="paired"))
    fresh = {name: value.clone() for name, value in objective.state.state_dict().items()}

    def at(step: int) -> torch.Tensor:
        objective.state.load_state_dict(fresh)
        objective.state.step = step
        return descend(objective, make_batch(0)).cotangent

    assert torch.equal(at(0), at(0))
    assert not torch.equal(at(0), at(1))


def test_thin_patches_train_too():
    for patch in ((1, 48, 48), (2, 24, 48)):
        rng = torch.Generator().manual_seed(0)
        target = torch.randn(2, 1, *patch, generator=rng)
        batch = Batch(target * 0.5, target, torch.ones_like(target))
        flat = Architecture((3,), ((1, 3, 3),), ((1, 1, 1),), (1,))
        context = make_context(10, **AT_ONCE)
        context = planned(context, patch_size=patch, spacing=(5.0, 1.0, 1.0), architecture=flat)
        metrics = descend(Gdm(context), batch).metrics
        for level in ("global", "local", "spatial"):
            assert metrics[f"force_0.2_{level}"] > 0


def test_an_encoder_is_needed():
    with pytest.raises(TrainingError, match="needs a frozen encoder"):
        Gdm(Context(CONFIGURATION))


def watching(step: int, **options) -> Gdm:
    objective = Gdm(gdm_context(40, **options))
    objective.on_validation({"mae": 1.0, "sharpness": 0.7})
    objective.on_validation({"mae": 2.0, "sharpness": 1.0})  # still regression
    objective.state.step = step
    return objective


@pytest.mark.parametrize(
    ("metrics", "factor"),
    [
        ({"mae": 1.04, "sharpness": 1.09}, 1.0),
        ({"mae": 1.06, "sharpness": 0.9}, 0.5),
        ({"mae": 0.9, "sharpness": 1.11}, 0.5),
        ({"sharpness": 1.11}, 0.5),
        ({"mae": 1.06}, 0.5),
        ({}, 1.0),
    ],
)
def test_an_alarm_halves_the_ratio(metrics, factor):
    objective = watching(9)
    objective.on_validation(metrics)
    assert objective.state.ratio_factor == factor


def test_the_drift_is_not_blamed_for_what_regression_did():
    objective = watching(8)
    objective.on_validation({"mae": 1.0, "sharpness": 1.4})
    objective.state.step = 9
    for sharpness, factor in ((1.39, 1.0), (1.3, 1.0), (1.0, 1.0), (1.3, 0.5)):
        objective.on_validation({"mae": 1.0, "sharpness": sharpness})
        assert objective.state.ratio_factor == factor


def test_the_ratio_is_halved_to_an_eighth_and_used_and_logged(caplog):
    objective = watching(20)
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            objective.on_validation({"mae": 1.0, "sharpness": 1.5})
    assert objective.state.ratio_factor == 1 / 8
    assert "drift alarm: sharpness 1.500" in caplog.text
    assert descend(objective).metrics["ratio"] == pytest.approx(0.2 / 8)


def test_before_the_drift_and_without_adaptation_nothing_is_halved(caplog):
    early = watching(8)
    early.on_validation({"mae": 3.0, "sharpness": 2.0})
    assert early.state.ratio_factor == 1.0
    logged = watching(20, adapt_drift=False)
    with caplog.at_level(logging.WARNING):
        logged.on_validation({"mae": 3.0, "sharpness": 2.0})
    assert logged.state.ratio_factor == 1.0
    assert "drift alarm" in caplog.text
