from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import small_models
import torch
from scipy.ndimage import gaussian_filter
from small_models import trained_fold

from gdmnet import codec, folders
from gdmnet.data.raw import Description, read_description, training_cases, write_description
from gdmnet.data.store import StoredCase, open_case
from gdmnet.data.volume import read_volume
from gdmnet.errors import CheckpointError
from gdmnet.inference import PredictionSettings, load_model
from gdmnet.inference.finish import STRENGTHS
from gdmnet.metrics.evaluation import score
from gdmnet.models import checkpoint
from gdmnet.models.folder import DIAL_JSON, FINISH_JSON, DialChoice, read_run
from gdmnet.plan import Run
from gdmnet.preprocessing import prepare_and_store, prepare_volumes
from gdmnet.training import validate
from gdmnet.training.settings import TrainingSettings
from gdmnet.training.validate import (
    SETTINGS,
    as_input,
    choose_setting,
    dial_fold,
    finish_fold,
    score_prepared,
    validate_fold,
)


@pytest.fixture
def model(tmp_path):
    """Source + 40 HU with a twin of source + 0 HU: at T the prediction is the source + 40 T."""
    folder = small_models.make_model(tmp_path, shifts={"0": 40.0})
    path = folders.fold_folder(folder, "0") / folders.FINAL
    state = checkpoint.load(path)
    twin = {name: weights.clone() for name, weights in state["ema"].items()}
    twin["head.bias"].zero_()
    del state["schema"]
    checkpoint.save(path, state | {"twin": twin})
    return folder


@pytest.fixture
def case(model):
    """A prepared case whose target is its source + 10 HU."""
    translator = load_model(model, device="cpu")
    rng = np.random.default_rng(0)
    body = np.full((1, 12, 24, 24), -1000.0, np.float32)
    body[:, 2:10, 4:20, 4:20] = rng.normal(40, 60, (1, 8, 16, 16))
    geometry = dataclasses.replace(small_models.Geometry((12, 24, 24), (2.0, 1.0, 1.0)))
    volume = small_models.Volume(body, geometry)
    ready, _ = prepare_volumes("case", volume, translator.configuration)
    target = ready.source + np.float32(10 / translator.configuration.target.scale)
    record = dataclasses.replace(ready.record, target=translator.configuration.target)
    centres = np.argwhere(ready.body).astype(np.int32)
    return StoredCase(record, ready.source, target, ready.body, centres)


def shift(model, **options) -> float:
    translator = load_model(model, PredictionSettings(**options), device="cpu")
    array = np.zeros((12, 24, 24), np.float32)
    array[:, :, :2] = -1000  # air, so that there is an outside
    translated = translator.translate_array(array, (2.0, 1.0, 1.0))
    return float(translated[6, 12, 12])


@pytest.mark.parametrize("realism", [0.0, 0.5, 1.0, 1.5])
def test_the_weights_lie_on_the_line_through_twin_and_generator(model, realism):
    assert shift(model, realism=realism) == pytest.approx(40 * realism, abs=1)


def test_a_fold_predicts_as_its_validation_chose(model):
    assert shift(model) == pytest.approx(40, abs=1)
    home = folders.fold_folder(model, "0")
    codec.save(DialChoice(0.25, 0.01), home / DIAL_JSON)
    assert shift(model) == pytest.approx(10, abs=1)
    assert load_model(model, device="cpu").card.realism == {"0": 0.25}
    assert shift(model, realism=1.0) == pytest.approx(40, abs=1)


def test_an_older_model_has_its_choice_in_run_json(model):
    path = folders.fold_folder(model, "0") / folders.RUN_JSON
    codec.save(dataclasses.replace(codec.load(Run, path), realism=0.25), path)
    assert load_model(model, device="cpu").card.realism == {"0": 0.25}


def test_without_a_twin_only_the_trained_realism_is_there(tmp_path):
    folder = small_models.make_model(tmp_path, shifts={"0": 40.0})
    assert shift(folder, realism=1.0) == pytest.approx(40, abs=1)
    with pytest.raises(CheckpointError, match="train with --realism-dial"):
        load_model(folder, PredictionSettings(realism=0.5), device="cpu")
    assert dial_fold(trained_fold(folder), [], 0.01) == {}


def test_the_largest_setting_within_the_budget_is_chosen(model, case):
    front = dial_fold(trained_fold(model), [case], 0.01)
    assert [float(setting) for setting in front] == list(SETTINGS)
    errors = [values["mae"] for values in front.values()]
    assert errors == pytest.approx([abs(40 * t - 10) for t in SETTINGS], abs=1)
    home = folders.fold_folder(model, "0")
    assert read_run(home).realism == 0.5  # 10 HU, as far as the twin
    assert codec.load(Run, home / folders.RUN_JSON).realism is None
    assert (home / "internals.png").is_file()


@pytest.fixture
def blurred(tmp_path):
    """A model that gives its source, and a case whose source is its target, blurred."""
    folder = small_models.make_model(tmp_path, shifts={"0": 0.0})
    configuration = load_model(folder, device="cpu").configuration
    noise = np.random.default_rng(0).normal(40, 100, (32, 32, 32)).astype(np.float32)
    volume = small_models.Volume(noise[None], small_models.Geometry((32,) * 3, (2.0, 1.0, 1.0)))
    ready, _ = prepare_volumes("case", volume, configuration)
    source = gaussian_filter(ready.source, (0, 0.3, 0.6, 0.6)).astype(np.float32)
    record = dataclasses.replace(ready.record, target=configuration.target)
    centres = np.argwhere(ready.body).astype(np.int32)
    return folder, StoredCase(record, source, ready.source, ready.body, centres)


def test_a_finish_is_as_strong_as_validation_allows_and_can_be_left_out(blurred):
    folder, case = blurred
    home = folders.fold_folder(folder, "0")
    plain = load_model(folder, device="cpu").predict(as_input(case)).mean
    finish = finish_fold(trained_fold(folder), [case], 0.01, {})
    assert finish.strength == 0.5
    assert not list(home.glob("tmp*"))
    assert read_run(home).finish == finish
    assert codec.load(Run, home / folders.RUN_JSON).finish is None
    finished = load_model(folder, device="cpu")
    assert finished.card.finish == 0.5
    assert "spectral finish 0.5" in str(finished.card)
    after = finished.predict(as_input(case)).mean
    errors = [np.abs(image - case.target).mean() for image in (plain, after)]
    assert errors[1] < 0.9 * errors[0]
    left_out = load_model(folder, PredictionSettings(finish=False), device="cpu")
    assert np.array_equal(left_out.predict(as_input(case)).mean, plain)
    assert finished.card.difference(left_out.card) == "finish"
    # an exported model has it in run.json
    codec.save(read_run(home), home / folders.RUN_JSON)
    (home / FINISH_JSON).unlink()
    assert load_model(folder, device="cpu").card.finish == 0.5


def test_a_finish_is_tried_as_it_is_applied(blurred, monkeypatch):
    folder, case = blurred
    tried, score = [], validate._mean_scores

    def noted(translator, predicted):
        pairs = list(predicted)
        tried.append(pairs[0][1])
        return score(translator, pairs)

    monkeypatch.setattr(validate, "_mean_scores", noted)
    assert finish_fold(trained_fold(folder), [case], 0.01, {}).strength == STRENGTHS[-1]
    made = load_model(folder, device="cpu").predict(as_input(case)).mean
    np.testing.assert_allclose(tried[-1], made, atol=1e-5)


def test_a_finish_spends_what_the_dial_has_left_of_the_budget(blurred):
    folder, case = blurred
    front = {"0": {"mae": 0.0}}  # a perfect twin: nothing is left
    finish = finish_fold(trained_fold(folder), [case], 0.01, front)
    assert finish.strength == 0
    assert load_model(folder, device="cpu").card.finish == 0


def test_a_finish_belongs_to_the_weights_that_it_was_fitted_with(model, case):
    finish_fold(trained_fold(model), [case], 1.0, {})
    home = folders.fold_folder(model, "0")
    codec.save(dataclasses.replace(read_run(home).finish, strength=0.25), home / FINISH_JSON)
    codec.save(DialChoice(1.0, 0.01), home / DIAL_JSON)
    finishes = [
        load_model(model, PredictionSettings(realism=t), device="cpu").card.finish
        for t in (None, 1.0, 0.5)
    ]
    assert finishes == [0.25, 0.25, 0.0]


def test_a_prepared_case_is_scored_in_hu_and_mm(model, case):
    spacing = (3.0, 1.5, 1.0)
    case = dataclasses.replace(case, record=dataclasses.replace(case.record, spacing=spacing))
    rng = np.random.default_rng(1)
    prediction = case.target + rng.normal(0, 0.1, case.target.shape).astype(np.float32)
    found = score_prepared(load_model(model, device="cpu"), case, prediction)
    guess, truth = (500 * image[0] for image in (prediction, case.target))
    expected = score(guess, truth, case.body, spacing)
    assert found["gradient_w1"] != score(guess, truth, case.body, spacing[::-1])["gradient_w1"]
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == (value and pytest.approx(value, rel=1e-4, abs=1e-4)), name


@pytest.mark.parametrize(
    ("metric", "values", "chosen"),
    [
        ("mae", [1.0, 1.009, 1.02], 0.25),
        ("mae", [1.0, 0.9, 0.8], 0.5),
        ("mae", [1.0, 1.2, 0.9], 0.0),
        ("sharpness", [0.7, 1.05, 1.97], 0.25),
        ("sharpness", [1.3, 1.3, 1.31], 0.25),
        ("sharpness", [0.7, 0.9, 1.1], 0.5),
        ("spectrum_distance", [4.0, 3.0, 4.1], 0.25),
        ("gradient_w1", [4.0, 4.1, 3.0], 0.0),
        ("histogram_w1", [None, 4.1, 3.0], 0.5),
    ],
)
def test_the_choice_stops_at_the_first_setting_that_costs_too_much(metric, values, chosen):
    usual = {"mae": 1.0, "sharpness": 0.8, "spectrum_distance": 3.0}
    pairs = zip(("0", "0.25", "0.5"), values, strict=True)
    found, reason = choose_setting({t: usual | {metric: value} for t, value in pairs}, 0.01)
    assert found == chosen
    assert (metric in reason) == (chosen < 0.5)


def test_weights_are_float32_after_the_dial(model):
    network = load_model(model, PredictionSettings(realism=0.3), device="cpu").network
    assert all(p.dtype == torch.float32 for p in network.parameters())


def test_validation_predicts_what_gdm_predict_does_on_the_sources_own_grid(tmp_path):
    raw, prepared = tmp_path / "Dataset501_Test", tmp_path / "prepared"
    for place in ("imagesTr/a_0000", "targetsTr/a"):
        small_models.write_ct(raw / f"{place}.nii.gz")
    write_description(raw, Description(("CT 0",), "CT", ".nii.gz", 1))
    configuration = small_models.make_configuration(spacing=(3.0, 2.2, 1.0))
    folder = small_models.make_model(tmp_path / "results", configuration=configuration)
    (files,), _ = training_cases(raw, read_description(raw))
    prepare_and_store(files, configuration, prepared)
    cases = [open_case(prepared, "a")]
    training = trained_fold(folder, cases)
    summary = validate_fold(training, TrainingSettings(), raw)
    load_model(folder, device="cpu").translate_files(files.sources[0], tmp_path / "a.nii.gz")
    (made,) = folder.rglob("validation/a.nii.gz")
    theirs = read_volume(tmp_path / "a.nii.gz").array
    np.testing.assert_array_equal(read_volume(made).array, theirs)
    assert summary.cases["a"]["mae"] == pytest.approx(0, abs=0.51)  # HU, the source's own
