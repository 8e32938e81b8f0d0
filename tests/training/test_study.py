from __future__ import annotations

import json
import multiprocessing
import time

import numpy as np
import pytest
from arguments import SHORT, roots
from training import together

from gdmnet.commands import plan_and_preprocess, predict, train
from gdmnet.datasets.phantom import write_phantom_dataset
from gdmnet.errors import TrainingError
from gdmnet.training import study

QUICK = ["--objective", "regression", *SHORT]


@pytest.fixture
def home(tmp_path):
    write_phantom_dataset(tmp_path / "raw", n_train=3, n_test=1, shape=(10, 20, 20))
    assert plan_and_preprocess.main(["999", "-np", "1", *roots(tmp_path)]) == 0
    return tmp_path


def model_of(home):
    return home / "results" / "Dataset999_Phantom" / "regression__3d_fullres"


def test_all_folds_are_trained_whatever_stops_it_and_pooled(home, monkeypatch, capsys):
    train_fold = study.train_fold

    def stopped(dataset, configuration, fold, roots, settings):
        if fold == "1":
            raise KeyboardInterrupt
        return train_fold(dataset, configuration, fold, roots, settings)

    with monkeypatch.context() as patch:
        patch.setattr(study, "train_fold", stopped)
        assert train.main(["999", *QUICK, *roots(home)]) == 130
    first = (model_of(home) / "fold_0/checkpoint_final.pt").stat().st_mtime_ns
    assert train.main(["999", *QUICK, *roots(home)]) == 0
    assert (model_of(home) / "fold_0/checkpoint_final.pt").stat().st_mtime_ns == first
    said = capsys.readouterr().out
    assert "phantom_03" in said
    assert f"gdm_predict -i in/ -o out/ -m {model_of(home)}" in said
    folds = [json.loads(p.read_text()) for p in sorted(model_of(home).glob("fold_*/summary.json"))]
    pooled = json.loads((model_of(home) / "cross_validation.json").read_text())
    assert set(pooled["cases"]) == {"phantom_01", "phantom_02", "phantom_03"}
    each = [case["mae"] for fold in folds for case in fold["cases"].values()]
    assert pooled["aggregate"]["mae"]["mean"] == pytest.approx(np.mean(each))
    assert pooled["note"] == "cross-validation of 3 folds"
    page = (model_of(home) / "report.html").read_text(encoding="utf-8")
    assert all(f'class="open">{case}<' in page for case in pooled["cases"])
    assert f"<td>{np.mean(each):.4g}" in page
    assert "Validation of regression__3d_fullres, fold_0, fold_1, fold_2" in page
    images = home / "raw/Dataset999_Phantom/imagesTs"
    arguments = ["-i", str(images), "-o", str(home / "out"), "--device", "cpu"]
    assert predict.main([*arguments, *roots(home)[2:]]) == 0
    assert "folds 0, 1, 2" in capsys.readouterr().err


def test_a_fold_alone_needs_its_configuration_and_nothing_is_thrown_away(home, capsys):
    assert train.main(["999", "-f", "1", *roots(home)]) == 2
    assert "need the configuration" in capsys.readouterr().err
    assert train.main(["999", "--overwrite", *roots(home)]) == 2
    assert "throws one fold away" in capsys.readouterr().err


def test_the_first_fold_that_fails_ends_those_before_it_too(monkeypatch):
    monkeypatch.setattr(study, "_train_one", together.endless_but_one)
    started = time.monotonic()
    with pytest.raises(TrainingError, match="fold 1: no memory; the same command goes on"):
        study._train_side_by_side(["0", "1", "2"], ["cpu", "cpu"], None)
    assert not multiprocessing.active_children()
    assert time.monotonic() - started < 300


@pytest.mark.slow
def test_folds_train_side_by_side_and_the_reason_of_one_that_cannot_is_told(
    home, monkeypatch, capsys
):
    monkeypatch.setattr(study, "_free_devices", lambda settings: ["cpu", "cpu"])
    assert train.main(["999", *QUICK, "--device", "cpu", *roots(home)]) == 0
    assert (model_of(home) / "cross_validation.json").is_file()
    (model_of(home) / "fold_2/checkpoint_final.pt").unlink()
    (model_of(home) / "fold_2/checkpoint_latest.pt").unlink()
    assert train.main(["999", *QUICK, "--device", "cpu", *roots(home)]) == 2
    assert "error: fold 2: " in capsys.readouterr().err
