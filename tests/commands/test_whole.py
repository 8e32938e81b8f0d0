"""Plan, train, predict and evaluate through main(argv), as a user does."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from arguments import SHORT, roots
from directions import oblique_direction

from gdmnet.commands import compare, evaluate, info, plan_and_preprocess, predict, report, train
from gdmnet.compare import verdict
from gdmnet.data.volume import read_geometry, read_volume
from gdmnet.datasets.phantom import Scanner, write_phantom_dataset


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_an_oblique_anisotropic_odd_sized_volume_goes_through_in_every_format(tmp_path, ending):
    scanner = Scanner((3.1, 1.3, 1.1), oblique_direction(), ending)
    raw = write_phantom_dataset(
        tmp_path / "raw", n_train=2, n_test=1, shape=(11, 27, 23), scanner=scanner
    )
    out = tmp_path / "out"
    assert plan_and_preprocess.main(["-d", "999", "-np", "1", *roots(tmp_path)]) == 0
    regression = ["--objective", "regression", "--epochs", "1", "--iterations", "1"]
    assert train.main(["999", "3d_fullres", *regression, *roots(tmp_path)]) == 0
    images = raw / "imagesTs"
    assert predict.main(["-i", str(images), "-o", str(out), *roots(tmp_path)]) == 0
    (source,) = images.iterdir()
    (prediction,) = out.glob(f"*{ending}")
    ours, theirs = read_geometry(prediction), read_geometry(source)
    assert (ours.shape, ours.spacing, ours.itk_origin) == (
        theirs.shape,
        theirs.spacing,
        theirs.itk_origin,
    )
    # the formats round direction cosines when they write: NIfTI to a float32 quaternion
    assert np.allclose(ours.itk_direction, theirs.itk_direction, rtol=0, atol=1e-7)
    assert evaluate.main(["-p", str(out), "-r", str(raw / "targetsTs")]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert summary["aggregate"]["mae"]["count"] == 1


def test_regression_learns_more_than_the_mean_target(tmp_path):
    raw = write_phantom_dataset(tmp_path / "raw", n_train=3, n_test=1, shape=(16, 24, 24))
    out = tmp_path / "out"
    assert plan_and_preprocess.main(["-d", "999", "-np", "1", *roots(tmp_path)]) == 0
    length = ["--objective", "regression", "--epochs", "3", "--iterations", "50"]
    assert train.main(["999", "3d_fullres", "all", *length, *roots(tmp_path)]) == 0
    arguments = ["-i", str(raw / "imagesTs"), "-o", str(out), "-f", "all"]
    assert predict.main([*arguments, *roots(tmp_path)]) == 0
    assert evaluate.main(["-p", str(out), "-r", str(raw / "targetsTs")]) == 0
    (target_file,) = (raw / "targetsTs").iterdir()
    target = read_volume(target_file).array[0]
    body = target > -500
    constant = float(np.abs(target[body] - target[body].mean()).mean())
    summary = json.loads((out / "summary.json").read_text())
    assert summary["aggregate"]["mae"]["mean"] < constant


@pytest.mark.parametrize("depth", [1, 3])
def test_single_slices_and_thin_stacks_go_through_without_special_flags(tmp_path, depth):
    raw = write_phantom_dataset(
        tmp_path / "raw", n_train=3, n_test=1, shape=(depth, 40, 36), kind="t1tot2"
    )
    out = tmp_path / "out"
    assert plan_and_preprocess.main(["-d", "999", "-np", "1", *roots(tmp_path)]) == 0
    assert train.main(["999", "3d_fullres", *SHORT, *roots(tmp_path)]) == 0
    images = raw / "imagesTs"
    assert predict.main(["-i", str(images), "-o", str(out), *roots(tmp_path)]) == 0
    (prediction,) = out.glob("*.nii.gz")
    assert read_volume(prediction).geometry.shape[0] == depth


def test_a_training_leaves_its_papers(trained):
    (fold,) = (trained / "results").glob("Dataset999_Phantom/gdm__3d_fullres/fold_0")
    names = {path.name for path in fold.iterdir()}
    papers = {
        "run.json",
        "log.jsonl",
        "log.txt",
        "progress.png",
        "internals.png",
        "summary.json",
        "report.html",
    }
    assert papers | {"validation"} <= names
    assert len((fold / "log.jsonl").read_text().splitlines()) == 2
    run = json.loads((fold / "run.json").read_text())
    assert run["encoder"] == "self"
    assert len(run["encoder_sha256"]) == 64
    summary = json.loads((fold / "summary.json").read_text())
    assert summary["units"] == "HU"
    assert set(summary["cases"]) == set(run["validation_cases"])
    assert set(summary["cases"]) < {p.name.split(".")[0] for p in targets_of(trained).iterdir()}


def targets_of(home):
    return home / "raw/Dataset999_Phantom/targetsTr"


def test_a_training_scores_its_validation_as_gdm_evaluate_does(trained, tmp_path, capsys):
    (fold,) = (trained / "results").glob("Dataset999_Phantom/gdm__3d_fullres/fold_0")
    summary = json.loads((fold / "summary.json").read_text())
    arguments = ["-p", str(fold / "validation"), "-r", str(targets_of(trained))]
    assert evaluate.main([*arguments, "-o", str(tmp_path / "summary.json"), "-np", "1"]) == 0
    again = json.loads((tmp_path / "summary.json").read_text())
    for name in ("cases", "aggregate", "units", "mask", "ranges"):
        assert summary[name] == again[name]
    assert "references used" in capsys.readouterr().out


def test_gdm_compare_and_gdm_info_tell_the_error_of_the_training(
    trained, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(verdict, "N_PATCHES", 32)
    monkeypatch.setattr(verdict, "FEWEST_A_SUBJECT", 16)
    (fold,) = (trained / "results").glob("Dataset999_Phantom/gdm__3d_fullres/fold_0")
    mae = json.loads((fold / "summary.json").read_text())["aggregate"]["mae"]
    quick = ["--judge-iterations", "2", "-np", "1", "-o", str(tmp_path)]
    assert compare.main(["999", *quick, *roots(trained)]) == 0
    (figures,) = json.loads((tmp_path / "compare.json").read_text())["figures"].values()
    assert figures["aggregate"]["mae"] == mae
    assert info.main(roots(trained)) == 0
    assert f"{mae['mean']:.4g} HU, mask: the body" in capsys.readouterr().out


def test_the_validation_has_its_report_which_finds_all_paths_by_itself(trained, tmp_path):
    (fold,) = (trained / "results").glob("Dataset999_Phantom/gdm__3d_fullres/fold_0")
    written = (fold / "report.html").read_text(encoding="utf-8")
    again = tmp_path / "again.html"
    where = ["--raw", str(trained / "raw"), "--results", str(trained / "results")]
    assert report.main(["999", "3d_fullres", "-o", str(again), "-np", "1", *where]) == 0
    mae = json.loads((fold / "summary.json").read_text())["aggregate"]["mae"]["mean"]
    for page in (written, again.read_text(encoding="utf-8")):
        assert f"<td>{mae:.4g}" in page
        assert '"kind": "source", "title": "source MR"' in page
        assert "objective gdm" in page
        assert "no predictions.json" not in page


def test_a_report_of_a_fold_takes_no_folders_beside(trained, capsys):
    where = ["--raw", str(trained / "raw"), "--results", str(trained / "results")]
    assert report.main(["999", "-r", "x", *where]) == 2
    assert "give their folder by -p" in capsys.readouterr().err
    assert report.main(["999", "-p", "x", *where]) == 2
    assert "leave 999 out" in capsys.readouterr().err
    assert report.main(["999", "3d_fullres", "3", *where]) == 2
    assert "fold 3 is not trained" in capsys.readouterr().err


def test_without_raw_targets_a_validation_is_predicted_but_not_scored(trained, tmp_path, caplog):
    home = tmp_path / "home"
    shutil.copytree(trained, home)
    (fold,) = (home / "results").glob("Dataset999_Phantom/gdm__3d_fullres/fold_0")
    before = (fold / "summary.json").read_text()
    (fold / "summary.json").unlink()
    (home / "raw").rename(home / "away")
    again = ["999", "3d_fullres", *SHORT, "--continue", *roots(home)]
    assert train.main(again) == 0
    assert "no target of" in caplog.text
    assert not (fold / "summary.json").exists()
    (home / "away").rename(home / "raw")
    assert train.main(again) == 0
    assert json.loads((fold / "summary.json").read_text()) == json.loads(before)


def test_a_model_knows_what_it_was_trained_on(trained):
    (known,) = (trained / "results").glob("Dataset999_Phantom/gdm__3d_fullres/fingerprint.json")
    measured = trained / "preprocessed/Dataset999_Phantom/fingerprint.json"
    assert known.read_text() == measured.read_text()
