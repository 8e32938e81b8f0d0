"""Samplers on whole volumes: one noise a case, no seams, and what a model folder needs for them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from gdmnet import codec
from gdmnet.data.case import CaseFiles
from gdmnet.errors import CheckpointError
from gdmnet.inference import PredictionSettings, load_model
from gdmnet.inference.predict import predict_folder
from gdmnet.inference.record import Predictions
from gdmnet.inference.sampling import Sampler, noise_rng, sample_volume
from gdmnet.inference.sliding import predict_volume
from gdmnet.inference.windows import BODY_MARGIN, Tiling, window_starts
from gdmnet.networks.unet import CountCalls
from gdmnet.objectives.base import Context
from gdmnet.objectives.build import OBJECTIVES, SAMPLED
from gdmnet.objectives.flow import integrate
from gdmnet.objectives.sampling import Sampling
from gdmnet.plan import Run

PATCH = (8, 16, 16)


def flow(models):
    return SAMPLED["flow"](Context(models.make_configuration()))


def inside(result, models):
    return result[models.core(result.shape)]


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_every_objective_covers_a_volume_by_windows_and_repeats_itself(tmp_path, models, name):
    model = models.make_model(tmp_path, {"0": 40.0}, objective=name)
    ct = models.make_ct()
    how = {"steps": 3} if name in SAMPLED else {}
    first, again = (
        load_model(model, PredictionSettings(**how), device="cpu").translate_array(
            ct, models.SPACING
        )
        for _ in "ab"
    )
    assert first.shape == ct.shape
    assert np.isfinite(first).all()
    np.testing.assert_array_equal(first, again)
    assert first[0, 0, 0] == -1024  # air outside the body, not noise
    assert inside(first, models).std() > 1


@pytest.mark.parametrize("name", ["flow", "bridge"])  # the untrained diffusion is its source
def test_another_seed_or_case_is_another_sample(tmp_path, models, name):
    model = models.make_model(tmp_path, objective=name)
    ct = models.make_ct()
    zero, none, one = (
        load_model(model, PredictionSettings(steps=2, seed=seed), device="cpu").translate_array(
            ct, models.SPACING
        )
        for seed in (0, None, 1)
    )
    np.testing.assert_array_equal(zero, none)
    assert not np.array_equal(zero, one)
    numbers = [float(torch.rand(1, generator=noise_rng(*who))) for who in
               (("a", 0), ("a", 0), ("b", 0), ("a", 1))]  # fmt: skip
    assert numbers[0] == numbers[1]
    assert len(set(numbers)) == 3


def test_the_card_counts_the_calls_that_are_made(tmp_path, models):
    model = models.make_model(tmp_path, objective="flow")
    translator = load_model(
        model, PredictionSettings(steps=3, sampler="heun", step_size=1.0), device="cpu"
    )
    how = translator.card.settings
    assert (how.steps, how.sampler, how.seed, translator.card.network_calls) == (3, "heun", 0, 6)
    once = load_model(models.make_model(tmp_path), PredictionSettings(step_size=1.0), device="cpu")
    how = once.card.settings
    assert (how.steps, how.sampler, once.card.network_calls) == (None, None, 1)
    with CountCalls(once.network) as windows:
        once.translate_array(models.make_ct(), models.SPACING)
    with CountCalls(translator.network) as calls:
        translator.translate_array(models.make_ct(), models.SPACING)
    assert calls.count == 6 * windows.count
    default = load_model(model, device="cpu").card
    how = default.settings
    assert (how.steps, how.sampler, default.network_calls) == (16, "euler", 16)


def test_predictions_say_how_they_were_sampled_and_keep_to_it(tmp_path, models):
    model = models.make_model(tmp_path, objective="bridge")
    models.write_ct(tmp_path / "in/a_0000.nii.gz")
    cases = [CaseFiles("a", (tmp_path / "in/a_0000.nii.gz",))]
    translator = load_model(model, PredictionSettings(steps=2, sampler="ode"), device="cpu")
    outcome = predict_folder(translator, cases, tmp_path / "out")
    card = codec.load(Predictions, outcome.record).model
    assert (card.settings.steps, card.settings.sampler, card.network_calls) == (2, "ode", 2)
    other = load_model(model, PredictionSettings(steps=3, sampler="ode"), device="cpu")
    with pytest.raises(Exception, match="other steps"):
        predict_folder(other, cases, tmp_path / "out")
    with pytest.raises(CheckpointError, match="--uncertainty: bridge"):
        predict_folder(translator, cases, tmp_path / "maps", uncertainty=True)


def test_windows_far_from_the_body_are_skipped_at_every_step(models):
    case, calls = models.make_case((8, 16, 176)), []
    body = np.zeros_like(case.body)
    body[..., :4] = 1

    def network(patch, time):
        calls.append(time)
        return short_sighted(patch, time)

    sampler = Sampler(flow(models), Sampling("euler", 2))
    made = sample_volume(
        network, sampler, case, Tiling(PATCH, [0.0], body, -3.0),
        device="cpu", settings=PredictionSettings(),
    ).mean  # fmt: skip
    near = [start for start in window_starts(176, PATCH[2], 0.5) if start < 4 + BODY_MARGIN]
    assert len(calls) == 2 * len(near)
    assert (made[..., 4:] == -3).all()
    assert (made[..., :4] != -3).all()


@pytest.mark.parametrize("name", ["flow", "diffusion"])
def test_folds_and_mirrored_copies_are_combined_at_every_call(tmp_path, models, name):
    model = models.make_model(tmp_path, {"0": 0.0, "1": 200.0}, objective=name)
    translator = load_model(
        model, PredictionSettings(steps=2, tta=True, step_size=1.0), device="cpu"
    )
    made = translator.translate_array(models.make_ct(), models.SPACING)
    alone = load_model(model, PredictionSettings(steps=2, step_size=1.0), device="cpu", folds=[0])
    assert np.isfinite(made).all()
    assert not np.array_equal(made, alone.translate_array(models.make_ct(), models.SPACING))


@pytest.mark.parametrize(
    ("objective", "asked", "words"),
    [
        ("regression", {"steps": 4}, "--steps 4: the objective regression calls"),
        ("regression", {"sampler": "euler"}, "--sampler euler: the objective regression calls"),
        ("gdm", {"seed": 0}, "--seed 0: the objective gdm calls"),
        ("flow", {"sampler": "ddim"}, "--sampler ddim: .* euler, heun, rk4"),
        ("diffusion", {"steps": 1001}, "--steps 1001: .* 1 to 1000"),
    ],
)
def test_what_a_model_cannot_do_is_refused_in_one_line(tmp_path, models, objective, asked, words):
    model = models.make_model(tmp_path, objective=objective)
    with pytest.raises(CheckpointError, match=words) as error:
        load_model(model, PredictionSettings(**asked), device="cpu")
    assert "\n" not in str(error.value)


def test_folds_of_different_options_are_not_combined(tmp_path, models):
    model = models.make_model(tmp_path, {"0": 0.0, "1": 0.0}, objective="flow")
    path = model / "fold_1/run.json"
    run = dataclasses.replace(codec.load(Run, path), options={"start": "source"})
    codec.save(run, path)
    with pytest.raises(CheckpointError, match="option start is noise in fold 0, source in fold 1"):
        load_model(model, device="cpu")
    assert load_model(model, device="cpu", folds=[1]).card.network_calls == 16


def short_sighted(patch, time):
    """The velocity from noise to standard normal texture, worse where a window ends.

    A convolution that is padded with zeros, as every network is: it lacks context at the border.
    """
    state = patch[:, 1:]
    variance = (1 - time) ** 2 + time**2
    smooth = F.avg_pool3d(state, 5, 1, 2)
    return (2 * time - 1) / variance * state + 0.3 * smooth


def test_sampling_by_windows_leaves_no_seams(models):
    shape = (8, 16, 176)
    case = models.make_case(shape)
    sampler = Sampler(flow(models), Sampling("euler", 8))
    how = {"device": "cpu", "settings": PredictionSettings(step_size=0.5)}
    tiling = Tiling(PATCH, [0.0], case.body)
    made = sample_volume(short_sighted, sampler, case, tiling, **how).mean[0]
    rng = torch.Generator().manual_seed(0)

    def alone(patch):  # each window with a noise of its own, blended at the end
        start = torch.randn(patch.shape, generator=rng)
        return integrate(
            lambda z, t: short_sighted(torch.cat([patch, z], dim=1), t), start, "euler", 8
        )

    naive = predict_volume(alone, case.source, Tiling(PATCH, [0.0]), **how).mean[0]
    starts = np.array(window_starts(shape[2], PATCH[2], 0.5))
    middles = np.concatenate([starts + 7, starts + 8])
    between = np.concatenate([starts[1:] + 3, starts[1:] + 4])  # two windows weigh the same there
    there = np.arange(16, 160)
    middles, between = (np.intersect1d(where, there) for where in (middles, between))
    ratio = made[..., between].std() / made[..., middles].std()
    seam = naive[..., between].std() / naive[..., middles].std()
    assert ratio == pytest.approx(1.0, abs=0.05)
    assert abs(made[..., between].mean() - made[..., middles].mean()) < 0.1
    assert seam < 0.9  # averages of independent samples: what a seam looks like


def test_a_volume_of_one_window_is_sampled_as_a_patch(models):
    case = models.make_case(PATCH)
    sampler = Sampler(flow(models), Sampling("rk4", 4), seed=7)
    made = sample_volume(
        short_sighted, sampler, case, Tiling(PATCH, [0.0], case.body),
        device="cpu", settings=PredictionSettings(),
    ).mean  # fmt: skip
    start = torch.randn((1, 1, *PATCH), generator=noise_rng(case.record.identifier, 7))
    source = torch.from_numpy(case.source)[None]
    whole = integrate(lambda z, t: short_sighted(torch.cat([source, z], dim=1), t), start, "rk4", 4)
    np.testing.assert_allclose(made, whole[0].numpy(), atol=1e-5)
