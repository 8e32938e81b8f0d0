from __future__ import annotations

import itertools

import numpy as np
import pytest
import small_models

from gdmnet import codec, folders
from gdmnet.data.raw import Description, read_description, training_cases, write_description
from gdmnet.data.store import open_case
from gdmnet.data.volume import read_volume
from gdmnet.errors import CheckpointError
from gdmnet.inference import load_model
from gdmnet.inference.predict import predict_folder
from gdmnet.models.expected_error import EXPECTED_JSON, ExpectedError
from gdmnet.preprocessing import prepare_and_store
from gdmnet.training import expected_error
from gdmnet.training.expected_error import (
    ERRORS_NPZ,
    CaseErrors,
    fit_table,
    sample_errors,
    save_errors,
    update_table,
)
from gdmnet.training.settings import TrainingSettings
from gdmnet.training.validate import validate_fold


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def made_case(rng, n=2000, *, bone=3.0):
    """A patient as hard as chance has it: errors are larger where it is difficult, in bone most.

    Of a fifth of the voxels nothing is known.
    """
    hard = rng.lognormal(0, 0.3)
    prediction = rng.choice([-1000.0, 0.0, 500.0], n)
    difficulty = hard * rng.lognormal(1, 0.5, n) * np.where(prediction > 200, bone, 1)
    error = np.abs(rng.normal(0, 4 * difficulty))
    difficulty[: n // 5] = 0
    values = (array.astype(np.float32) for array in (prediction, difficulty, error))
    return CaseErrors(*values, float(error.mean()))


def held_out(table, rng, n=100):
    cases = [made_case(rng) for _ in range(n)]
    covered = [(c.error <= table.half_width(c.prediction, c.difficulty)).mean() for c in cases]
    expected = [table.expected_mae(c.prediction, c.difficulty) for c in cases]
    return np.array(covered), np.array(expected), np.array([case.mae for case in cases])


@pytest.mark.parametrize("n_cases", [4, 12, 40])
def test_nine_of_ten_voxels_of_new_cases_are_within_and_harder_cases_are_known(rng, n_cases):
    shares, ratios, ranks = [], [], []
    for _ in range(8):
        cases = [made_case(rng) for _ in range(n_cases)]
        table = fit_table(cases, ("0",), (-200.0, 200.0))
        covered, expected, true = held_out(table, rng)
        shares.append(covered.mean())
        ratios.append(np.mean(expected / true))
        ranks.append(np.corrcoef(expected.argsort().argsort(), true.argsort().argsort())[0, 1])
    assert np.mean(shares) == pytest.approx(0.9, abs=0.015)
    assert np.mean(ratios) == pytest.approx(1, abs=0.1)
    assert np.mean(ranks) > 0.9


def slow_half_widths(cases, edges):
    """One cell after the other, one left-out case after the other."""
    cell = {}
    for i, case in enumerate(cases):
        for p, s, e in zip(case.prediction, case.difficulty, case.error, strict=True):
            place = sum(p >= b for b in edges[0]), sum(s > b for b in edges[1])
            cell.setdefault(place, []).append((i, e))
    scores = []
    for values in cell.values():
        for i, error in values:
            others = [e for other, e in values if other != i]
            scores.append(error / np.quantile(others, 0.9))
    factor = np.quantile(scores, 0.9)
    return {c: factor * np.quantile([e for _, e in v], 0.9) for c, v in cell.items()}


def test_the_half_widths_are_those_of_the_definition(rng, monkeypatch):
    monkeypatch.setattr(expected_error, "THIN", 1)
    cases = [made_case(rng, 600, bone=1.0) for _ in range(3)]
    table = fit_table(cases, ("0", "1"), (-200.0, 200.0))
    assert table.difficulty_edges[0] == 0
    expected = slow_half_widths(cases, (table.band_edges, table.difficulty_edges))
    order = itertools.product(range(3), range(len(table.difficulty_edges) + 1))
    assert table.half_widths == pytest.approx([expected[cell] for cell in order], rel=1e-4)
    assert table.folds == ("0", "1")
    assert table.n_cases == 3
    assert table.mae == (min(c.mae for c in cases), max(c.mae for c in cases))


def test_a_cell_without_voxels_takes_what_its_bin_has_and_no_difficulty_is_a_bin(rng):
    cases = [made_case(rng) for _ in range(4)]
    flat = [CaseErrors(np.zeros_like(c.error), c.difficulty, c.error, c.mae) for c in cases]
    table = fit_table(flat, ("0",), (-200.0, 200.0))
    widths = np.array(table.half_widths).reshape(3, -1)
    np.testing.assert_array_equal(widths[0], widths[1])
    np.testing.assert_array_equal(widths[2], widths[1])
    alone = [CaseErrors(c.prediction, 0 * c.difficulty, c.error, c.mae) for c in cases]
    table = fit_table(alone, ("0",), ())
    assert table.difficulty_edges == (0.0,)
    everything = np.concatenate([case.error for case in cases])
    assert table.half_widths[0] == pytest.approx(np.quantile(everything, 0.9), rel=0.2)


def test_errors_of_nothing_are_no_error():
    zeros = np.zeros(600, np.float32)
    table = fit_table([CaseErrors(zeros, zeros, zeros, 0.0)] * 3, ("0",), ())
    assert max(table.half_widths) < 1e-6
    assert table.coverage == (1.0, 1.0)
    assert table.rank_correlation == 0


def test_every_case_gives_as_many_voxels_of_its_mask(rng):
    prediction = rng.normal(size=(20, 30, 40)).astype(np.float32)
    mask = np.zeros(prediction.shape, np.uint8)
    mask[5:, 10:, 20:] = 1
    found = sample_errors(prediction, prediction + 5, prediction - 7, mask)
    assert len(found.error) == expected_error.N_VOXELS
    np.testing.assert_allclose(found.error, 7, rtol=1e-5)
    np.testing.assert_allclose(found.difficulty - found.prediction, 5, rtol=1e-5)
    assert np.isin(found.prediction, prediction[5:, 10:, 20:]).all()
    assert found.mae == pytest.approx(7)


def test_a_table_is_of_all_folds_and_goes_with_them(tmp_path, rng):
    configuration = small_models.make_configuration()
    for fold in ("0", "1"):
        place = folders.fold_folder(tmp_path, fold)
        place.mkdir()
        save_errors([made_case(rng) for _ in range(2)], place)
        assert (place / ERRORS_NPZ).stat().st_mode & 0o777 == 0o600
    update_table(tmp_path, configuration)
    table = codec.load(ExpectedError, tmp_path / EXPECTED_JSON)
    assert (table.folds, table.n_cases) == (("0", "1"), 4)
    (tmp_path / "fold_1" / ERRORS_NPZ).unlink()
    update_table(tmp_path, configuration)  # two cases are too few
    assert not (tmp_path / EXPECTED_JSON).exists()
    (tmp_path / "fold_0" / ERRORS_NPZ).write_bytes(b"PK nonsense")
    with pytest.raises(CheckpointError, match=r"expected_error.npz: damaged .*delete it"):
        update_table(tmp_path, configuration)


@pytest.mark.parametrize("on_training", [False, True])
def test_validation_says_what_to_expect_of_a_new_case(tmp_path, on_training):
    """A model that adds 30 HU to the source, which is the target: the error is 30 everywhere."""
    raw, prepared = tmp_path / "Dataset501_Test", tmp_path / "prepared"
    for seed, name in enumerate("abc"):
        for place in (f"imagesTr/{name}_0000", f"targetsTr/{name}"):
            small_models.write_ct(raw / f"{place}.nii.gz", seed=seed)
    write_description(raw, Description(("CT 0",), "CT", ".nii.gz", 3))
    configuration = small_models.make_configuration()
    model = small_models.make_model(tmp_path / "results", {"0": 30.0}, configuration=configuration)
    files, _ = training_cases(raw, read_description(raw))
    for case in files:
        prepare_and_store(case, configuration, prepared)
    cases = [open_case(prepared, case.identifier) for case in files]
    training = small_models.trained_fold(model, cases, on_training=on_training)
    summary = validate_fold(training, TrainingSettings(), raw)
    assert (model / EXPECTED_JSON).is_file() != on_training
    if on_training:
        return
    table = codec.load(ExpectedError, model / EXPECTED_JSON)
    maes = [values["mae"] for values in summary.cases.values()]
    assert table.mae == pytest.approx((min(maes), max(maes)), abs=0.1)
    small_models.write_ct(tmp_path / "in/x_0000.nii.gz", seed=9)
    translator = load_model(model, device="cpu")
    predict_folder(translator, tmp_path / "in", tmp_path / "out", uncertainty=True)
    widths = read_volume(tmp_path / "out/uncertainty/x.nii.gz").array[0]
    np.testing.assert_allclose(widths[small_models.core()], 30, rtol=0.02)
