import hashlib
import json

import pytest
from report.phantoms import write_case, write_record

from gdmnet.errors import PlanError
from gdmnet.report.provenance import Origin, read_origin

FINDING = {"what": "spacing along z", "unit": "mm", "value": 5.0}


@pytest.fixture
def home(tmp_path):
    write_case(tmp_path, "a", 0, error=50)
    return tmp_path


def row(origin, name):
    return dict(origin.rows)[name]


def test_a_folder_without_a_record_has_no_origin(home):
    assert read_origin(home / "out") == Origin()


def test_the_record_is_told_whatever_it_holds(home):
    finding = {**FINDING, "training": [1.0, 2.0], "accepted": [0.5, 4.0]}
    case = {"warnings": ["odd"], "inputs": {"a_0000.nii.gz": "ff"}, "input_check": [finding]}
    write_record(home, {"a": case, "b": {"status": "failed", "error": "no memory"}})
    origin = read_origin(home / "out")
    assert row(origin, "checkpoint of fold 0") == f"SHA-256 {'ab' * 32} (is not there)"
    assert row(origin, "model") == "configuration 3d, checkpoint final"
    assert row(origin, "versions") == "gdmnet 0.1.0, torch 2.13"
    assert origin.cases["a"].warnings == ("odd",)
    assert origin.cases["a"].findings == (("spacing along z", "5 mm", "1 to 2", "0.5 to 4"),)
    assert origin.cases["b"].error == "no memory"
    assert origin.cases["b"].findings is None


@pytest.mark.parametrize("named", ["absolute", "from above"])
def test_a_model_that_is_there_is_found(home, named):
    model = home / "model"
    (model / "fold_0").mkdir(parents=True)
    (model / "plan.json").write_text(json.dumps({"channel_names": ["T1"]}))
    (model / "fold_0/checkpoint_final.pt").write_bytes(b"weights")
    write_record(home, {}, str(model) if named == "absolute" else "model")
    origin = read_origin(home / "out")
    assert origin.channel_names == ("T1",)
    assert row(origin, "model found at") == str(model)
    assert "DIFFERS: trained anew" in row(origin, "checkpoint of fold 0")


def test_a_model_of_a_name_that_no_folder_can_have_is_not_there(home):
    write_record(home, {}, "n" * 5000)
    assert "model found at" not in dict(read_origin(home / "out").rows)


def test_parts_of_a_record_are_read_together(home):
    for part, case in enumerate("ab"):
        path = home / f"out/predictions_{part}_of_2.json"
        path.write_text(json.dumps({"cases": {case: {"warnings": [case]}}}))
    assert set(read_origin(home / "out").cases) == {"a", "b"}


def test_of_two_records_of_a_case_the_newest_counts(home):
    for name, date in (
        ("predictions.json", "2026-02-02"),
        ("predictions_0_of_2.json", "2026-01-01"),
    ):
        record = {"date": date, "cases": {"a": {"warnings": [date]}}}
        (home / "out" / name).write_text(json.dumps(record))
    assert read_origin(home / "out").cases["a"].warnings == ("2026-02-02",)


@pytest.mark.parametrize("odd", [5, "words", True, {"of": "another version"}])
def test_a_record_of_other_kinds_is_read_as_far_as_it_goes(home, odd):
    (home / "model").mkdir()
    (home / "model/plan.json").write_text(json.dumps({"channel_names": odd}))
    keys = ("warnings", "series", "inputs", "input_check", "uncertainty")
    write_record(home, {"a": dict.fromkeys(keys, odd)}, "model")
    origin = read_origin(home / "out")
    assert origin.channel_names == ()
    assert origin.cases["a"].warnings == ()
    assert origin.cases["a"].findings is None


def test_a_damaged_record_is_refused(home):
    (home / "out/predictions.json").write_text("{")
    with pytest.raises(PlanError, match=r"predictions\.json: not valid JSON"):
        read_origin(home / "out")


def test_sources_are_held_against_the_record(home):
    source = home / "in/a_0000.nii.gz"
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    write_record(home, {"a": {"inputs": {source.name: digest, "a_0001.nii.gz": "ff"}}})
    case = read_origin(home / "out", {"a": [source]}).cases["a"]
    assert case.inputs == (
        (source.name, f"SHA-256 {digest} (as translated)"),
        ("a_0001.nii.gz", "SHA-256 ff (recorded, not compared)"),
    )
    assert case.warnings == ()
    source.write_bytes(b"other")
    case = read_origin(home / "out", {"a": [source]}).cases["a"]
    assert case.warnings == (f"{source.name} DIFFERS from what was translated",)


def test_a_checkpoint_is_held_against_the_record(home):
    fold = home / "model/fold_0"
    fold.mkdir(parents=True)
    (home / "model/plan.json").write_text("{}")
    digest = hashlib.sha256(b"weights").hexdigest()
    model = {"folder": "model", "checkpoints": {"0": digest}, "checkpoint": "final"}
    (home / "out/predictions.json").write_text(json.dumps({"model": model}))
    assert verdict_of(home, digest) == "is not there"
    (fold / "checkpoint_final.pt").write_bytes(b"weights")
    assert verdict_of(home, digest) == "as recorded"


def verdict_of(home, digest):
    told = row(read_origin(home / "out"), "checkpoint of fold 0")
    return told.removeprefix(f"SHA-256 {digest} (").removesuffix(")")
