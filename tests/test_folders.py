"""Roots, dataset names and where everything lies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gdmnet import folders
from gdmnet.errors import DatasetError
from gdmnet.folders import find_roots, resolve_dataset


def test_flags_go_before_the_environment_and_that_before_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("gdmnet_raw", str(tmp_path / "from_environment"))
    monkeypatch.setenv("gdmnet_results", str(tmp_path / "ignored"))
    roots = find_roots(results=tmp_path / "flag")
    assert roots.raw == tmp_path / "from_environment"
    assert roots.preprocessed == tmp_path / "gdmnet_preprocessed"
    assert roots.results == tmp_path / "flag"
    assert roots.origins == ("environment variable", "current directory", "given")


def test_only_a_root_that_was_guessed_is_said_aloud(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("gdmnet_raw", "")  # empty is unset
    note = find_roots(preprocessed=tmp_path, results=tmp_path).note
    assert note == f"not set, so in {tmp_path}: gdmnet_raw"
    both = find_roots(raw=tmp_path).note
    assert both == f"not set, so in {tmp_path}: gdmnet_preprocessed, gdmnet_results"
    for name in ("gdmnet_raw", "gdmnet_preprocessed", "gdmnet_results"):
        (tmp_path / name).mkdir()
    assert find_roots().note == ""


@pytest.fixture
def root(tmp_path):
    for name in ("Dataset501_Brain", "Dataset007_Hip", "Dataset501x", "Dataset12_Short", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "Dataset600_File").write_text("not a folder")
    return tmp_path


def test_only_folders_of_the_right_form_are_datasets(root):
    assert folders.dataset_names(root) == ["Dataset007_Hip", "Dataset501_Brain"]
    assert folders.dataset_names(root / "missing") == []


@pytest.mark.parametrize("given", [501, "501", "Dataset501_Brain"])
def test_a_dataset_is_found_by_number_and_by_name(root, given):
    assert resolve_dataset(given, root) == "Dataset501_Brain"


@pytest.mark.parametrize("given", [7, "7", "007"])
def test_leading_zeros_do_not_matter(root, given):
    assert resolve_dataset(given, root) == "Dataset007_Hip"


@pytest.mark.parametrize("given", [502, "Brain", "-501", "", "Dataset501_Bra", "²"])
def test_an_unknown_dataset_is_refused_with_those_that_are_there(root, given):
    with pytest.raises(DatasetError, match="there: Dataset007_Hip, Dataset501_Brain"):
        resolve_dataset(given, root)


def test_an_empty_root_says_none(tmp_path):
    with pytest.raises(DatasetError, match="there: none"):
        resolve_dataset(501, tmp_path)


@pytest.mark.parametrize("given", [520, "520", "Dataset520_New"])
def test_a_dataset_that_is_raw_only_names_the_command_that_plans_it(root, tmp_path, given):
    (tmp_path / "raw/Dataset520_New").mkdir(parents=True)
    with pytest.raises(DatasetError, match=f"not planned .* gdm_plan_and_preprocess -d {given} do"):
        resolve_dataset(given, root, raw=tmp_path / "raw")
    with pytest.raises(DatasetError, match="no dataset 521"):
        resolve_dataset(521, root, raw=tmp_path / "raw")


def test_a_number_used_twice_is_refused(root):
    (root / "Dataset501_Knee").mkdir()
    with pytest.raises(DatasetError, match="501 is used by Dataset501_Brain, Dataset501_Knee"):
        resolve_dataset(501, root)
    assert resolve_dataset("Dataset501_Knee", root) == "Dataset501_Knee"


def test_every_place_below_the_roots(tmp_path):
    model = folders.model_folder(tmp_path, "Dataset501_Brain", "gdm", "3d_fullres")
    assert model == tmp_path / "Dataset501_Brain" / "gdm__3d_fullres"
    assert folders.fold_folder(model, "0") == model / "fold_0"
    encoder = folders.encoder_folder(tmp_path, "D", "3d_fullres", "all")
    assert encoder == tmp_path / "D" / "encoder_self__3d_fullres" / "fold_all"


def _finish(model, *folds, plan=True):
    for fold in folds:
        (model / f"fold_{fold}").mkdir(parents=True)
        (model / f"fold_{fold}" / folders.FINAL).touch()
    if plan:
        (model / folders.PLAN_JSON).touch()


def test_finished_folds_are_sorted_by_number_and_all_is_last(tmp_path):
    _finish(tmp_path, "all", "10", "2")
    (tmp_path / "fold_3").mkdir()
    (tmp_path / "fold_3" / folders.LATEST).touch()
    assert folders.finished_folds(tmp_path) == ["2", "10", "all"]


def test_only_models_with_a_plan_and_a_finished_fold_count(tmp_path):
    brain = tmp_path / "Dataset501_Brain"
    _finish(brain / "gdm__3d_fullres", "0")
    _finish(brain / "gdm__3d_lowres", "0", plan=False)
    (brain / "regression__3d_fullres").mkdir()
    encoder = brain / "encoder_self__3d_fullres" / "fold_0"
    encoder.mkdir(parents=True)
    assert list(folders.finished_models(tmp_path)) == [
        ("Dataset501_Brain", "gdm", "3d_fullres", brain / "gdm__3d_fullres")
    ]


def test_the_processes_are_at_least_one_and_at_most_eight(monkeypatch):
    assert 1 <= folders.n_default_processes() <= 8
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert folders.n_default_processes() == 8
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert folders.n_default_processes() == 1


def test_a_root_that_cannot_be_is_one_line():
    with pytest.raises(DatasetError, match=r"nnn: cannot be read \(File name too long\)"):
        folders.resolve_dataset(501, Path("/" + "n" * 5000))
