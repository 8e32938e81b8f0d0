import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from gdmnet import codec, files
from gdmnet.data.case import Volume
from gdmnet.data.case_files import FORMATS
from gdmnet.data.volume import read_geometry, read_volume, write_volume
from gdmnet.errors import BusyError, DatasetError, OutputError, PlanError
from gdmnet.inference import PredictionSettings, case, load_model, predict
from gdmnet.inference.inputs import find_cases
from gdmnet.inference.predict import predict_folder
from gdmnet.inference.record import Predictions
from gdmnet.models.expected_error import EXPECTED_JSON
from gdmnet.preprocessing import prepare_volumes

ROOT = Path(__file__).resolve().parents[2]
PREPARE = "gdmnet.inference.translator.prepare_volumes"


@pytest.fixture(scope="module")
def translator(tmp_path_factory, models):
    return load_model(models.make_model(tmp_path_factory.mktemp("results")), device="cpu")


@pytest.fixture(scope="module")
def trio(tmp_path_factory, models):
    """A model of three folds whose folder says what it was trained on."""
    folder = models.make_model(tmp_path_factory.mktemp("trio"), {"0": 0.0, "1": 90.0, "2": 30.0})
    codec.save(models.make_fingerprint(), folder / "fingerprint.json")
    return load_model(folder, device="cpu")


@pytest.fixture
def inputs(tmp_path, models):
    for seed, name in enumerate("abc"):
        models.write_ct(tmp_path / "in" / f"{name}_0000.nii.gz", seed=seed)
    return tmp_path / "in"


def record(folder, name="predictions.json") -> Predictions:
    return codec.load(Predictions, folder / name)


def test_every_case_is_predicted_and_noted(tmp_path, models, translator, inputs):
    outcome = predict_folder(translator, inputs, tmp_path / "out", n_threads=2)
    assert (outcome.predicted, outcome.skipped, outcome.failed) == (("a", "b", "c"), (), ())
    for seed, name in enumerate("abc"):
        ct = models.make_ct(seed=seed)
        result = read_volume(tmp_path / "out" / f"{name}.nii.gz").array[0]
        np.testing.assert_array_equal(result[models.core()], ct[models.core()])
        assert set(result[ct == -1000]) <= {-1024, -1000}
    noted = record(tmp_path / "out")
    if os.name == "posix":
        assert (tmp_path / "out" / "predictions.json").stat().st_mode & 0o777 == 0o600
    assert noted.model == translator.card
    assert {"gdmnet", "torch", "numpy", "SimpleITK"} <= set(noted.versions)
    assert datetime.fromisoformat(noted.date).tzinfo is not None
    assert noted.command == shlex.join(sys.argv)
    assert list(noted.cases) == ["a", "b", "c"]
    case = noted.cases["a"]
    assert case.status == "done"
    assert list(case.inputs) == ["a_0000.nii.gz"]
    assert len(case.inputs["a_0000.nii.gz"]) == 64
    assert case.seconds is not None
    assert case.mask_rule == "above -500 HU"


@pytest.mark.parametrize("ending", FORMATS)
def test_the_grid_and_the_format_are_the_inputs(tmp_path, models, translator, ending):
    path = tmp_path / "in" / f"x_0000{ending}"
    models.write_ct(path, degrees=25, shape=(7, 19, 23))
    predict_folder(translator, path.parent, tmp_path / "out")
    assert read_geometry(tmp_path / "out" / f"x{ending}") == read_geometry(path)


def test_predictions_that_are_there_are_kept(tmp_path, translator, inputs):
    out = tmp_path / "out"
    predict_folder(translator, inputs, out)
    before = record(out)
    (out / "b.nii.gz").unlink()
    untouched = (out / "a.nii.gz").stat().st_mtime_ns
    outcome = predict_folder(translator, inputs, out)
    assert (outcome.predicted, outcome.skipped) == (("b",), ("a", "c"))
    assert (out / "a.nii.gz").stat().st_mtime_ns == untouched
    assert record(out).cases["a"] == before.cases["a"]


def test_a_map_whose_numbers_no_record_has_is_made_again(tmp_path, translator, inputs):
    out = tmp_path / "out"
    predict_folder(translator, inputs, out)
    for name in "abc":  # what is left where the next run is killed between map and record
        (out / "uncertainty").mkdir(exist_ok=True)
        (out / f"uncertainty/{name}.nii.gz").write_bytes((out / f"{name}.nii.gz").read_bytes())
    outcome = predict_folder(translator, inputs, out, uncertainty=True)
    assert outcome.predicted == ("a", "b", "c")
    assert all(case.uncertainty is not None for case in record(out).cases.values())
    assert predict_folder(translator, inputs, out, uncertainty=True).skipped == ("a", "b", "c")


def test_overwriting_predicts_all_anew(tmp_path, translator, inputs):
    out = tmp_path / "out"
    predict_folder(translator, inputs, out)
    first = (out / "a.nii.gz").stat().st_mtime_ns
    assert predict_folder(translator, inputs, out, overwrite=True).predicted == ("a", "b", "c")
    assert (out / "a.nii.gz").stat().st_mtime_ns != first


def test_one_bad_case_does_not_stop_the_others(tmp_path, translator, inputs, caplog):
    whole = (inputs / "b_0000.nii.gz").read_bytes()
    (inputs / "b_0000.nii.gz").write_bytes(whole[: len(whole) // 2])
    outcome = predict_folder(translator, inputs, tmp_path / "out", n_threads=3)
    assert (outcome.predicted, outcome.failed) == (("a", "c"), ("b",))
    assert not (tmp_path / "out" / "b.nii.gz").exists()
    failed = record(tmp_path / "out").cases["b"]
    assert failed.status == "failed"
    assert "b_0000.nii.gz" in str(failed.error)
    (line,) = [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]
    assert line.startswith("case b failed: ")
    assert "\n" not in line


def contents(folder):
    paths = folder.rglob("*.nii.gz")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_overwriting_keeps_a_prediction_until_the_new_one_is_whole(
    tmp_path, models, trio, translator, inputs
):
    out = tmp_path / "out"
    predict_folder(trio, inputs, out, uncertainty=True)
    before = contents(out)
    whole = (inputs / "a_0000.nii.gz").read_bytes()
    (inputs / "a_0000.nii.gz").write_bytes(b"")
    for _ in range(2):  # it stays refused, however often one asks
        assert predict_folder(translator, inputs, out, overwrite=True).failed == ("a",)
        failed = record(out).cases["a"]
        assert (failed.status, failed.inputs) == ("outdated", {})
        assert "a_0000.nii.gz" in failed.error
        assert (out / "a.nii.gz").read_bytes() == before["a.nii.gz"]
        assert sorted(path.name for path in (out / "uncertainty").iterdir()) == ["a.nii.gz"]
    assert predict_folder(translator, inputs, out).failed == ("a",)
    (inputs / "a_0000.nii.gz").write_bytes(whole)
    result = predict_folder(translator, inputs, out)  # what was to be replaced is replaced now
    assert (result.predicted, result.skipped) == (("a",), ("b", "c"))
    assert record(out).cases["a"].status == "done"
    predict_folder(translator, inputs, tmp_path / "afresh")
    assert contents(out) == contents(tmp_path / "afresh")


KILLED = """
import os, signal, sys
from pathlib import Path
from gdmnet.inference import PredictionSettings, case, load_model
from gdmnet.inference.predict import predict_folder
def write_volume(path, volume, *, integer=False):
    if path.name == "b.nii.gz" and (path.parent.name == "uncertainty") == (sys.argv[4] == "map"):
        Path(path.parent, f".b.nii.gz.{sys.argv[5]}-{os.getpid()}-01234567.part").write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)
    whole(path, volume, integer=integer)
whole, case.write_volume = case.write_volume, write_volume
translator = load_model(sys.argv[1], PredictionSettings(step_size=0.4), device="cpu")
predict_folder(translator, Path(sys.argv[2]), Path(sys.argv[3]), overwrite=True, uncertainty=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("at", ["map", "prediction"])
def test_a_kill_while_overwriting_leaves_whole_files_and_the_next_run_ends_it(
    tmp_path, trio, inputs, at
):
    out = tmp_path / "out"
    predict_folder(trio, inputs, out, uncertainty=True)
    before = contents(out)
    arguments = [trio.card.folder, str(inputs), str(out), at, files._HOST]
    ended = subprocess.run([sys.executable, "-c", KILLED, *arguments], cwd=ROOT, check=False)
    assert ended.returncode == -signal.SIGKILL
    after = {name: result.status for name, result in record(out).cases.items()}
    assert after == {"a": "done", "b": "outdated", "c": "outdated"}
    for name in ("b.nii.gz", "c.nii.gz"):
        assert (out / name).read_bytes() == before[name]
        assert read_volume(out / "uncertainty" / name).array.any()
    with pytest.raises(OutputError, match="other step_size"):
        predict_folder(trio, inputs, out)
    again = load_model(trio.card.folder, PredictionSettings(step_size=0.4), device="cpu")
    result = predict_folder(again, inputs, out, uncertainty=True)
    assert (result.predicted, result.skipped) == (("b", "c"), ("a",))
    predict_folder(again, inputs, tmp_path / "afresh", uncertainty=True)
    assert contents(out) == contents(tmp_path / "afresh")
    assert not list(out.rglob(".*")), "leftovers"


def test_parts_work_at_the_same_time_but_no_part_twice(tmp_path, translator, inputs):
    out = tmp_path / "out"
    with files.lock(out / "predictions_0_of_2.json"):
        with pytest.raises(BusyError, match="at work here"):
            predict_folder(translator, inputs, out, n_parts=2, part_id=0)
        assert predict_folder(translator, inputs, out, n_parts=2, part_id=1).predicted == ("b",)


def test_the_newest_record_of_a_case_counts(tmp_path, models, translator, inputs):
    out = tmp_path / "out"
    other = load_model(models.make_model(tmp_path / "other", {"0": 70.0}), device="cpu")
    predict_folder(other, inputs, out)
    for part in range(2):
        predict_folder(translator, inputs, out, n_parts=2, part_id=part, overwrite=True)
    # predictions.json speaks of none of the files any more
    assert predict_folder(translator, inputs, out).skipped == ("a", "b", "c")


def test_an_input_that_changed_since_is_not_passed_off_as_done(
    tmp_path, models, translator, inputs
):
    out = tmp_path / "out"
    predict_folder(translator, inputs, out)
    before = record(out).cases["a"]
    models.write_ct(inputs / "a_0000.nii.gz", seed=9)
    outcome = predict_folder(translator, inputs, out)
    assert (outcome.skipped, outcome.failed) == (("b", "c"), ("a",))
    assert "--overwrite" in str(record(out).cases["a"].error)
    # and it stays refused, however often one asks
    assert predict_folder(translator, inputs, out).failed == ("a",)
    models.write_ct(inputs / "a_0000.nii.gz", seed=0)
    assert predict_folder(translator, inputs, out).skipped == ("a", "b", "c")
    assert record(out).cases["a"] == before


def test_another_models_predictions_are_not_mixed_in(tmp_path, models, translator, inputs):
    out = tmp_path / "out"
    predict_folder(translator, inputs, out)
    other = load_model(models.make_model(tmp_path / "other", {"0": 70.0}), device="cpu")
    with pytest.raises(OutputError, match="another model"):
        predict_folder(other, inputs, out)
    predict_folder(other, inputs, out, overwrite=True)
    assert record(out).model == other.card


def test_a_record_of_before_settings_were_one_is_continued(tmp_path, models, translator, inputs):
    out = tmp_path / "out"
    predict_folder(translator, inputs, out)
    path = out / "predictions.json"
    data = json.loads(path.read_text())
    settings = data["model"].pop("settings")
    del settings["realism"]  # the card's own tells it by fold
    for name in ("finish", "mixed_folds", "engine"):
        del settings[name]  # was not known
    del data["model"]["finish"]
    path.write_text(json.dumps({**data, "schema": 1, "model": {**data["model"], **settings}}))
    assert predict_folder(translator, inputs, out).skipped == ("a", "b", "c")
    assert record(out).model == translator.card
    path.write_text(json.dumps({**data, "schema": 1, "model": {**data["model"], "tta": True}}))
    with pytest.raises(OutputError, match="other tta"):
        predict_folder(translator, inputs, out)
    path.write_text(json.dumps({**data, "schema": 1, "model": "none"}))
    with pytest.raises(PlanError, match=r"predictions\.json"):
        predict_folder(translator, inputs, out)


def test_a_damaged_record_is_refused_unless_overwritten(tmp_path, translator, inputs):
    out = tmp_path / "out"
    out.mkdir()
    (out / "predictions.json").write_text("{")
    with pytest.raises(PlanError, match="not valid JSON"):
        predict_folder(translator, inputs, out)
    predict_folder(translator, inputs, out, overwrite=True)


def test_a_prediction_without_a_record_is_kept_with_a_warning(tmp_path, translator, inputs):
    out = tmp_path / "out"
    predict_folder(translator, inputs, out)
    (out / "predictions.json").unlink()
    assert predict_folder(translator, inputs, out).skipped == ("a", "b", "c")
    assert "no record" in record(out).cases["a"].warnings[0]


def test_parts_share_the_cases_and_keep_their_own_records(tmp_path, translator, inputs):
    out = tmp_path / "out"
    parts = [
        predict_folder(translator, inputs, out, n_parts=2, part_id=part).predicted
        for part in range(2)
    ]
    assert parts == [("a", "c"), ("b",)]
    assert list(record(out, "predictions_0_of_2.json").cases) == ["a", "c"]
    assert list(record(out, "predictions_1_of_2.json").cases) == ["b"]
    whole = predict_folder(translator, inputs, out)
    assert whole.skipped == ("a", "b", "c")
    assert record(out).cases["b"].seconds is not None
    with pytest.raises(DatasetError, match="from 0 to 1"):
        predict_folder(translator, inputs, out, n_parts=2, part_id=2)


def test_more_parts_than_cases_is_fine(tmp_path, translator, inputs):
    outcome = predict_folder(translator, inputs, tmp_path / "out", n_parts=9, part_id=8)
    assert outcome.predicted == outcome.failed == ()


def test_the_record_is_true_at_every_moment(tmp_path, translator, inputs, monkeypatch):
    seen = []

    def watch(path, volume, *, integer):
        seen.append(list(record(tmp_path / "out").cases))
        write_volume(path, volume, integer=integer)

    monkeypatch.setattr(case, "write_volume", watch)
    predict_folder(translator, inputs, tmp_path / "out")
    assert seen == [[], ["a"], ["a", "b"]]


def test_a_case_is_written_while_the_network_is_at_the_next(
    tmp_path, translator, inputs, monkeypatch
):
    at_the_next, predict_case = threading.Event(), predict.predict_case

    def network(translator, job, ahead):
        if job.files.identifier == "b":
            at_the_next.set()
        return predict_case(translator, job, ahead)

    def write(path, volume, *, integer):
        assert at_the_next.wait(60)
        write_volume(path, volume, integer=integer)

    monkeypatch.setattr(predict, "predict_case", network)
    monkeypatch.setattr(case, "write_volume", write)
    assert predict_folder(translator, inputs, tmp_path / "out").predicted == ("a", "b", "c")


def test_reading_ahead_is_bounded_and_in_order(monkeypatch):
    begun, lock = [], threading.Lock()

    def slow(item):
        with lock:
            begun.append(item)
        return item * 10

    results, most_ahead = [], 0
    for item, future in predict._ahead(slow, list(range(20)), 3):
        results.append((item, future.result()))
        most_ahead = max(most_ahead, len(begun) - len(results))
    assert results == [(i, i * 10) for i in range(20)]
    assert most_ahead <= 3


def test_leaving_early_stops_the_reading():
    begun = []
    ahead = predict._ahead(lambda item: begun.append(item), list(range(100)), 1)
    next(ahead)
    ahead.close()
    assert len(begun) <= 3


def test_a_full_disk_stops_everything(tmp_path, translator, inputs, monkeypatch):
    def full(path, volume, *, integer):
        raise OutputError(f"{path}: cannot be written")

    monkeypatch.setattr(case, "write_volume", full)
    with pytest.raises(OutputError):
        predict_folder(translator, inputs, tmp_path / "out", n_threads=2)


@pytest.mark.parametrize(
    "problem",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        OSError(12, "Cannot allocate memory"),
    ],
)
def test_memory_that_runs_out_is_an_error_of_the_case(
    tmp_path, translator, inputs, monkeypatch, problem
):
    def greedy(*_, **__):
        raise problem

    monkeypatch.setattr(PREPARE, greedy)
    outcome = predict_folder(translator, inputs, tmp_path / "out")
    assert outcome.failed == ("a", "b", "c")
    assert record(tmp_path / "out").cases["a"].error.startswith("not enough memory for this case")


def test_an_input_that_vanishes_is_an_error_of_the_case(tmp_path, translator, inputs, monkeypatch):
    cases = find_cases(inputs, translator.plan)
    monkeypatch.setattr(predict, "find_cases", lambda *_: cases)
    (inputs / "b_0000.nii.gz").unlink()
    outcome = predict_folder(translator, inputs, tmp_path / "out")
    assert (outcome.predicted, outcome.failed) == (("a", "c"), ("b",))
    assert "b_0000.nii.gz" in str(record(tmp_path / "out").cases["b"].error)


def test_an_output_folder_that_cannot_be_made_is_refused(tmp_path, translator, inputs):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        predict_folder(translator, inputs, tmp_path / "file" / "out")


def test_the_inputs_folder_is_no_place_for_outputs(translator, inputs):
    with pytest.raises(OutputError, match="holds the inputs"):
        predict_folder(translator, inputs, inputs / ".." / "in")


def test_a_single_file_is_one_case(tmp_path, models, translator, inputs):
    predict_folder(translator, inputs / "a_0000.nii.gz", tmp_path / "out")
    assert (tmp_path / "out" / "a.nii.gz").is_file()
    models.write_ct(tmp_path / "one" / "scan.mha")
    predict_folder(translator, tmp_path / "one" / "scan.mha", tmp_path / "out")
    assert (tmp_path / "out" / "scan.mha").is_file()


def test_cases_are_found_in_the_plans_or_the_only_other_format(tmp_path, models, inputs):
    plan = models.make_plan(models.make_configuration())
    assert [case.identifier for case in find_cases(inputs, plan)] == ["a", "b", "c"]
    models.write_ct(tmp_path / "other" / "x_0000.mha")
    (case,) = find_cases(tmp_path / "other", plan)
    assert case.sources == (tmp_path / "other" / "x_0000.mha",)


@pytest.mark.parametrize(
    ("prepare", "text"),
    [
        (lambda folder: None, "no such folder"),
        (lambda folder: folder.mkdir(), "empty"),
        (lambda folder: (folder.mkdir(), (folder / "a.nii.gz").write_text("")), "a_0000.nii.gz"),
        (lambda folder: (folder.mkdir(), (folder / "x.txt").write_text("")), "no image"),
    ],
)
def test_inputs_that_are_not_there_are_refused(tmp_path, models, prepare, text):
    prepare(tmp_path / "in")
    plan = models.make_plan(models.make_configuration())
    with pytest.raises(DatasetError, match=text):
        find_cases(tmp_path / "in", plan)


def test_a_missing_channel_is_refused(inputs, models):
    plan = models.make_plan(models.make_configuration(n_sources=2))
    with pytest.raises(DatasetError, match=r"a_0001\.nii\.gz"):
        find_cases(inputs, plan)
    with pytest.raises(DatasetError, match="needs 2 channels"):
        find_cases(inputs / "a_0000.nii.gz", plan)


def test_a_single_file_of_an_unknown_format_is_refused(tmp_path, models):
    (tmp_path / "scan.png").write_text("")
    with pytest.raises(DatasetError, match="unknown file ending"):
        find_cases(tmp_path / "scan.png", models.make_plan(models.make_configuration()))


def test_an_exception_that_nobody_foresaw_fails_its_case_alone(
    tmp_path, translator, inputs, monkeypatch, caplog
):
    whole = prepare_volumes

    def odd(identifier, *rest, **more):
        if identifier == "b":
            raise ZeroDivisionError("division of\nsomething by zero")
        return whole(identifier, *rest, **more)

    monkeypatch.setattr(PREPARE, odd)
    outcome = predict_folder(translator, inputs, tmp_path / "out")
    assert (outcome.predicted, outcome.failed) == (("a", "c"), ("b",))
    failed = record(tmp_path / "out").cases["b"]
    assert failed.error == (
        "ZeroDivisionError: division of (not foreseen; the record has its traceback)"
    )
    assert "in odd" in failed.traceback
    assert [r.getMessage() for r in caplog.records] == [f"case b failed: {failed.error}"]
    monkeypatch.undo()
    assert predict_folder(translator, inputs, tmp_path / "out").predicted == ("b",)
    assert record(tmp_path / "out").cases["b"].traceback is None


def test_a_case_is_named_once(tmp_path, translator, inputs, monkeypatch, caplog):
    def refuse(*_, **__):
        raise DatasetError("case a: its header lies")

    monkeypatch.setattr(PREPARE, refuse)
    predict_folder(translator, inputs / "a_0000.nii.gz", tmp_path / "out")
    assert [r.getMessage() for r in caplog.records] == ["case a failed: its header lies"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("scheme", ["ct", "zscore"])
@pytest.mark.parametrize("value", [3e38, -3e38, 1e20])
def test_absurd_voxels_fail_their_case_in_one_line(tmp_path, models, scheme, value):
    source = replace(models.CT, scheme=scheme, low=None, high=None, background=0.0)
    configuration = replace(models.make_configuration(), sources=(source,))
    folder = models.make_model(tmp_path / "results", configuration=configuration)
    ct = models.make_ct()
    ct[4:6, 8:12, 8:12] = value
    (tmp_path / "in").mkdir()
    write_volume(tmp_path / "in" / "x_0000.mha", Volume(ct[None], models.make_geometry(ct.shape)))
    outcome = predict_folder(load_model(folder, device="cpu"), tmp_path / "in", tmp_path / "out")
    noted = record(tmp_path / "out").cases["x"]
    assert noted.traceback is None
    if outcome.failed:
        assert "\n" not in noted.error
    else:
        assert np.isfinite(read_volume(tmp_path / "out" / "x.mha").array).all()


def test_files_that_change_while_they_are_read_fail(
    tmp_path, models, translator, inputs, monkeypatch
):
    whole = case.read_sources

    def slow(files):
        volume = whole(files)
        if files.identifier == "a":
            models.write_ct(inputs / "a_0000.nii.gz", seed=7)
        return volume

    monkeypatch.setattr(case, "read_sources", slow)
    outcome = predict_folder(translator, inputs, tmp_path / "out")
    assert (outcome.predicted, outcome.failed) == (("b", "c"), ("a",))
    assert "changed while they were read" in record(tmp_path / "out").cases["a"].error


@pytest.mark.parametrize(
    ("scheme", "values", "where"), [("ct", (0, 0), ""), ("zscore", (0, 7), " inside the body")]
)
def test_a_blank_image_fails(tmp_path, models, scheme, values, where):
    source = replace(models.CT, scheme=scheme, low=None, high=None, background=0.0)
    configuration = replace(models.make_configuration(), sources=(source,))
    folder = models.make_model(tmp_path / "results", configuration=configuration)
    image = np.full((11, 21, 25), values[0], dtype=np.float32)
    image[models.core()] = values[1]
    (tmp_path / "in").mkdir()
    volume = Volume(image[None], models.make_geometry(image.shape))
    write_volume(tmp_path / "in" / "x_0000.mha", volume)
    outcome = predict_folder(load_model(folder, device="cpu"), tmp_path / "in", tmp_path / "out")
    assert outcome.failed == ("x",)
    error = record(tmp_path / "out").cases["x"].error
    assert error.startswith(f"channel 0 is blank: all voxels{where} have the same value")


def test_unusual_cases_carry_warnings(tmp_path, models, translator, rng):
    air = rng.normal(-1000, 5, (4, 8, 8)).astype(np.float32)
    geometry = models.make_geometry(air.shape, spacing=(9.0, 1.0, 1.0))
    (tmp_path / "in").mkdir()
    write_volume(tmp_path / "in" / "air_0000.mha", Volume(air[None], geometry))
    predict_folder(translator, tmp_path / "in", tmp_path / "out")
    warnings = record(tmp_path / "out").cases["air"].warnings
    assert any("no body was found" in warning for warning in warnings)
    assert any("9 mm along z" in warning for warning in warnings)


def test_the_record_is_plain_json(tmp_path, translator, inputs):
    predict_folder(translator, inputs, tmp_path / "out")
    data = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert data["model"]["checkpoints"].keys() == {"0"}
    assert data["version"]


def test_uncertainty_is_written_beside_the_same_prediction(tmp_path, models, trio, inputs):
    predict_folder(trio, inputs, tmp_path / "plain")
    predict_folder(trio, inputs, tmp_path / "out", uncertainty=True)
    plain, out = (read_volume(tmp_path / place / "a.nii.gz") for place in ("plain", "out"))
    np.testing.assert_array_equal(plain.array, out.array)
    spread = read_volume(tmp_path / "out/uncertainty/a.nii.gz")
    assert spread.geometry == out.geometry
    std = np.std([0, 90, 30])
    np.testing.assert_allclose(spread.array[0][models.core()], std, rtol=1e-3)
    noted = record(tmp_path / "out").cases["a"].uncertainty
    assert noted.output == "uncertainty/a.nii.gz"
    assert noted.sources == "3 folds, overlapping windows"
    assert noted.mean == pytest.approx(std, rel=1e-3)
    assert noted.single_opinion == 0
    assert record(tmp_path / "plain").cases["a"].uncertainty is None


def test_the_map_of_a_model_that_knows_its_errors_is_a_half_width(tmp_path, models, trio, inputs):
    codec.save(models.make_expected(), Path(trio.card.folder) / EXPECTED_JSON)
    try:
        knowing, wider = (
            load_model(trio.card.folder, PredictionSettings(step_size=s), device="cpu")
            for s in (0.5, 0.7)
        )
    finally:
        (Path(trio.card.folder) / EXPECTED_JSON).unlink()
    assert wider.expected is None  # measured with other windows
    predict_folder(knowing, inputs, tmp_path / "out", uncertainty=True)
    out = read_volume(tmp_path / "out/a.nii.gz").array[0]
    widths = read_volume(tmp_path / "out/uncertainty/a.nii.gz").array[0]
    # windows of one fold agree: these models add a constant
    body = (widths > 0) & (out != 200)  # 199.9 becomes 200 in the file
    np.testing.assert_array_equal(widths[body], np.where(out[body] >= 200, 100, 10))
    assert (widths[models.core()] > 0).all()
    case = record(tmp_path / "out").cases["a"]
    noted, share = case.uncertainty, (out[body] >= 200).mean()
    assert (noted.coverage, noted.validation_mae) == (0.9, (20.0, 40.0))
    assert noted.expected_mae == pytest.approx(5 + 45 * share, rel=0.01)
    assert noted.mean == pytest.approx(widths[body].mean(), rel=0.01)
    low = f"expected MAE {noted.expected_mae:.4g}, outside of the validation cases' 20 to 40"
    assert case.warnings == (low,)


def test_a_missing_map_is_made_up_for(tmp_path, trio, inputs):
    out = tmp_path / "out"
    predict_folder(trio, inputs, out)
    first = (out / "a.nii.gz").read_bytes()
    assert predict_folder(trio, inputs, out, uncertainty=True).predicted == ("a", "b", "c")
    assert (out / "a.nii.gz").read_bytes() == first
    assert predict_folder(trio, inputs, out, uncertainty=True).skipped == ("a", "b", "c")
    assert record(out).cases["a"].uncertainty is not None
    assert predict_folder(trio, inputs, out).skipped == ("a", "b", "c")
    assert predict_folder(trio, inputs, out, overwrite=True).predicted == ("a", "b", "c")
    assert not list((out / "uncertainty").iterdir())  # another run's maps do not stay


def test_a_map_of_changed_inputs_is_refused(tmp_path, models, trio, inputs):
    predict_folder(trio, inputs, tmp_path / "out")
    models.write_ct(inputs / "a_0000.nii.gz", seed=9)
    assert predict_folder(trio, inputs, tmp_path / "out", uncertainty=True).failed == ("a",)


def test_an_empty_map_is_said_to_be_empty(tmp_path, models, inputs):
    configuration = replace(models.make_configuration(), patch_size=(16, 32, 32))
    folder = models.make_model(tmp_path / "results", configuration=configuration)
    predict_folder(load_model(folder, device="cpu"), inputs, tmp_path / "out", uncertainty=True)
    case = record(tmp_path / "out").cases["a"]
    assert case.uncertainty.single_opinion == 1
    assert "the uncertainty map is empty" in case.warnings[0]


def test_a_maps_folder_that_cannot_be_made_is_refused(tmp_path, trio, inputs):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "uncertainty").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        predict_folder(trio, inputs, tmp_path / "out", uncertainty=True)


def test_mean_and_median_are_not_mixed_in_a_folder(tmp_path, trio, inputs):
    predict_folder(trio, inputs, tmp_path / "out")
    median = load_model(trio.card.folder, PredictionSettings(ensemble="median"), device="cpu")
    with pytest.raises(OutputError, match="other ensemble"):
        predict_folder(median, inputs, tmp_path / "out")


def test_inputs_like_the_training_data_are_not_warned_about(tmp_path, trio, inputs, caplog):
    predict_folder(trio, inputs, tmp_path / "out")
    noted = record(tmp_path / "out")
    assert (noted.input_check.training_cases, noted.input_check.false_alarms) == (3, 0)
    assert all(case.input_check == () and not case.warnings for case in noted.cases.values())
    assert not caplog.records


def test_an_input_unlike_the_training_data_is_warned_about(tmp_path, models, trio, caplog):
    ct = models.make_ct()
    (tmp_path / "in").mkdir()
    geometry = models.make_geometry(ct.shape, spacing=(6.0, 1.0, 1.0))
    write_volume(tmp_path / "in/x_0000.nii.gz", Volume(ct[None], geometry), integer=True)
    predict_folder(trio, tmp_path / "in", tmp_path / "out")
    case = record(tmp_path / "out").cases["x"]
    assert [finding.what for finding in case.input_check] == [
        "spacing along z",
        "field of view along z",
    ]
    spacing = case.input_check[0]
    assert (spacing.value, spacing.training, spacing.unit) == (6, (2, 2), "mm")
    assert spacing.accepted == pytest.approx((1, 4))
    (line,) = case.warnings
    assert line.startswith("unlike the training data: spacing along z 6 mm (training 2 to 2); ")
    assert [r.getMessage() for r in caplog.records] == [f"case x: {line}"]


def test_without_a_fingerprint_inputs_are_not_compared(tmp_path, translator, inputs):
    predict_folder(translator, inputs, tmp_path / "out")
    assert record(tmp_path / "out").input_check is None
    assert record(tmp_path / "out").cases["a"].input_check is None
