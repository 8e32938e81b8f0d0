import json
import re
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch

from gdmnet import codec, folders
from gdmnet.errors import CheckpointError, OutputError
from gdmnet.files import file_sha256
from gdmnet.inference import PredictionSettings, load_model
from gdmnet.inference.archive import export_model, install_model
from gdmnet.metrics.statistics import aggregate
from gdmnet.metrics.summary import Summary
from gdmnet.models import checkpoint
from gdmnet.models.expected_error import EXPECTED_JSON
from gdmnet.models.manifest import Manifest
from gdmnet.plan import CaseFingerprint, Fingerprint, Intensity

PATIENTS = ("zz_miller_1947", "anna_schmidt", "patient 77")


def make_clinical(results, models, folds=("0", "1")):
    """A model of two folds with validation, fingerprint and leftovers, all naming patients."""
    folder = models.make_model(results, {fold: 10.0 * i for i, fold in enumerate(folds)})
    for fold in folds:
        home = folders.fold_folder(folder, fold)
        run = json.loads((home / folders.RUN_JSON).read_text())
        run |= {"training_cases": PATIENTS[:2], "validation_cases": PATIENTS[2:]}
        run |= {"encoder": f"nnunet:/home/{PATIENTS[0]}/segmenter", "encoder_options": {}}
        run["encoder_options"] |= {"weights": f"/home/{PATIENTS[0]}/fold_0", "stages": [1, 2]}
        codec.save(run, home / folders.RUN_JSON)
        mae = {PATIENTS[2]: {"mae": 25.0 + int(fold), "data_range": 4095.0}}
        summary = Summary(
            "gdmnet", "HU", 4095.0, "the body", None, mae, {"mae": aggregate([25.0 + int(fold)])}
        )
        summary = replace(summary, failed={PATIENTS[1]: f"/scans/{PATIENTS[1]}.nii.gz: damaged"})
        codec.save(summary, home / folders.SUMMARY_JSON)
        (home / "validation").mkdir()
        (home / "validation" / f"{PATIENTS[2]}.nii.gz").write_bytes(b"an image")
        (home / folders.LATEST).write_bytes(b"optimiser and all")
    some = Intensity(1.0, 2.0, -1024.0, 3000.0, -1000.0, -990.0, 40.5, 900.0, 950.0, -1000.0)
    cases = tuple(
        CaseFingerprint(name, (10, 20 + i, 30), (2.0, 1.0, 1.0 + i), 0.5, "otsu", (some,), some)
        for i, name in enumerate(PATIENTS)
    )
    fingerprint = Fingerprint(1, "Dataset501_Test", ("CT 0",), "CT", cases, (some,), some)
    codec.save(fingerprint, folder / folders.FINGERPRINT_JSON)
    codec.save(models.make_expected(), folder / EXPECTED_JSON)
    return folder


@pytest.fixture
def folder(tmp_path, models):
    return make_clinical(tmp_path / "results", models)


def contents(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_no_patient_is_named_anywhere_in_the_archive(folder, tmp_path):
    export_model(folder, tmp_path / "model.zip", with_best=True)
    whole = (tmp_path / "model.zip").read_bytes()  # nothing is compressed
    for name in PATIENTS:
        assert name.encode() not in whole
    assert b"case_001" in whole


def test_a_case_has_the_same_new_name_in_every_file(folder, tmp_path):
    export_model(folder, tmp_path / "model.zip")
    files = {k: json.loads(v) for k, v in contents(tmp_path / "model.zip").items() if "json" in k}
    run = files["fold_0/run.json"]  # anna < patient < zz_miller
    assert run["training_cases"] == ["case_003", "case_001"]
    assert run["validation_cases"] == ["case_002"]
    assert run["encoder"] == "nnunet:segmenter"
    assert run["encoder_options"] == {"weights": "fold_0", "stages": [1, 2]}
    assert list(files["fold_1/summary.json"]["cases"]) == ["case_002"]
    cases = files["fingerprint.json"]["cases"]
    assert [case["identifier"] for case in cases] == ["case_003", "case_001", "case_002"]
    assert cases[2]["shape"] == [10, 22, 30]


def test_only_what_prediction_needs_goes_along(folder, tmp_path):
    export_model(folder, tmp_path / "a.zip", folds=["1"])
    export_model(folder, tmp_path / "b.zip", with_best=True)
    common = {"manifest.json", "model_card.md", "plan.json", "fingerprint.json", EXPECTED_JSON}
    fold = {"fold_1/run.json", "fold_1/summary.json", "fold_1/checkpoint_final.pt"}
    assert set(contents(tmp_path / "a.zip")) == common | fold
    assert "fold_0/checkpoint_best.pt" in contents(tmp_path / "b.zip")


def test_the_manifest_has_the_digest_of_every_file_and_aggregates_only(folder, tmp_path):
    manifest = export_model(folder, tmp_path / "model.zip", licence="CC0")
    files = contents(tmp_path / "model.zip")
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        archive.extractall(tmp_path / "unpacked")
    del files["manifest.json"]
    for name, entry in manifest.files.items():
        assert entry.size == len(files.pop(name))
        assert entry.sha256 == file_sha256(tmp_path / "unpacked" / name)
    assert not files
    assert codec.load(Manifest, tmp_path / "unpacked/manifest.json") == manifest
    assert manifest.validation["1"]["mae"]["mean"] == 26.0
    assert (manifest.folds, manifest.checkpoints, manifest.licence) == (
        ("0", "1"),
        ("final",),
        "CC0",
    )


def test_optimiser_state_is_stripped_and_a_lean_checkpoint_keeps_its_digest(
    folder, tmp_path, models
):
    path = folder / "fold_1" / folders.FINAL
    state = checkpoint.load(path)
    useful = {"epoch": 1, "ema": state["ema"], "twin": state["ema"]}
    checkpoint.save(path, {**useful, "optimizer": torch.ones(999)})
    export_model(folder, tmp_path / "model.zip")
    model = install_model(tmp_path / "model.zip", tmp_path / "clinic").folder
    stripped = checkpoint.load(model / "fold_1" / folders.FINAL)
    assert set(stripped) == {"schema", "epoch", "ema", "twin"}
    for name, tensor in state["ema"].items():
        assert torch.equal(stripped["ema"][name], tensor)
    lean = file_sha256(folder / "fold_0" / folders.FINAL)
    assert file_sha256(model / "fold_0" / folders.FINAL) == lean


def test_the_same_model_gives_the_same_archive_to_the_bit(folder, tmp_path):
    export_model(folder, tmp_path / "a.zip")
    export_model(folder, tmp_path / "b.zip")
    assert file_sha256(tmp_path / "a.zip") == file_sha256(tmp_path / "b.zip")


@pytest.mark.parametrize("kind", ["final", "best"])
def test_the_installed_model_predicts_bit_identically(folder, tmp_path, models, kind):
    export_model(folder, tmp_path / "model.zip", with_best=True)
    installed = install_model(tmp_path / "model.zip", tmp_path / "clinic").folder
    ct = models.make_ct()
    before = load_model(folder, PredictionSettings(checkpoint=kind), device="cpu").translate_array(
        ct, models.SPACING
    )
    after = load_model(
        installed, PredictionSettings(checkpoint=kind), device="cpu"
    ).translate_array(ct, models.SPACING)
    np.testing.assert_array_equal(before, after)


def test_an_installed_model_can_be_exported_again(folder, tmp_path, models):
    first = export_model(folder, tmp_path / "a.zip")
    installed = install_model(tmp_path / "a.zip", tmp_path / "clinic").folder
    assert load_model(installed, device="cpu").expected == models.make_expected()
    assert export_model(installed, tmp_path / "b.zip").files == first.files


def test_the_model_card_tells_the_facts(folder, tmp_path):
    export_model(folder, tmp_path / "model.zip", licence="CC-BY-4.0")
    card = contents(tmp_path / "model.zip")["model_card.md"].decode()
    assert "no medical device" in card
    assert "Licence of the weights: CC-BY-4.0." in card
    assert "| cases | 3 |" in card
    assert "| spacing of the images (z, y, x) | 2 x 1 x 1-3 mm |" in card
    assert "| size of the body (z, y, x) | 20 x 20-22 x 30-90 mm |" in card
    assert "median 40.5 HU, 98 % between -990 and 900 HU" in card
    assert "| 0 | 2 | 1 | 1 x 1 | 0 | cpu, fp32 |" in card
    assert "| 1 | 26 (1) |" in card
    assert re.search(r"^# CT 0 to CT: Dataset501_Test$", card, re.M)


def test_a_model_without_validation_and_fingerprint_says_so(tmp_path, models):
    folder = models.make_model(tmp_path / "results")
    export_model(folder, tmp_path / "model.zip")
    card = contents(tmp_path / "model.zip")["model_card.md"].decode()
    assert "nothing is known about its accuracy" in card
    assert "| cases | 3 |" in card  # the run's, two of training and one of validation


def test_an_archive_is_not_overwritten_unasked(folder, tmp_path):
    (tmp_path / "model.zip").write_text("mine")
    with pytest.raises(OutputError, match="--overwrite"):
        export_model(folder, tmp_path / "model.zip")
    assert (tmp_path / "model.zip").read_text() == "mine"
    export_model(folder, tmp_path / "model.zip", overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.zip", "results"]


def test_a_damaged_model_is_not_exported_and_nothing_is_left(folder, tmp_path):
    (folder / "fold_1" / folders.FINAL).write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="damaged"):
        export_model(folder, tmp_path / "out" / "model.zip")
    assert list((tmp_path / "out").iterdir()) == []
    with pytest.raises(CheckpointError, match="fold 7"):
        export_model(folder, tmp_path / "model.zip", folds=["7"])


def test_an_output_that_cannot_be_written_is_one_line(folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written") as error:
        export_model(folder, tmp_path / "file" / "model.zip")
    assert "\n" not in str(error.value)
