"""Folds: the same as nnU-Net's, disjoint and complete; the user's own; few cases."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gdmnet.data.splits import Split, choose_splits, make_splits, read_splits, split_for
from gdmnet.errors import DatasetError


@settings(deadline=None, max_examples=30)
@given(n_cases=st.integers(2, 23), seed=st.integers(0, 5))
def test_every_case_validates_once_and_trains_otherwise(n_cases, seed):
    names = [f"case_{i:02d}" for i in range(n_cases)]
    splits = make_splits(names, seed=seed)
    assert len(splits) == min(5, n_cases)
    assert sorted(name for split in splits for name in split.validation) == names
    for split in splits:
        assert sorted(split.training + split.validation) == names
        assert not split.validates_on_training
    sizes = [len(split.validation) for split in splits]
    assert sizes == sorted(sizes, reverse=True)
    assert max(sizes) - min(sizes) <= 1


def test_the_folds_are_those_of_scikit_learn():
    # KFold(5, shuffle=True, random_state=12345).split(range(12)), scikit-learn 1.9.1
    folds = [split.validation for split in make_splits([f"{i:02d}" for i in range(12)])]
    assert folds == [
        ("00", "03", "08"),
        ("07", "10", "11"),
        ("06", "09"),
        ("01", "04"),
        ("02", "05"),
    ]


def test_the_order_of_the_names_does_not_matter():
    assert make_splits(["c", "a", "b"]) == make_splits(["a", "b", "c"])


def test_with_few_cases_each_is_left_out_once():
    splits = make_splits(["a", "b", "c"])
    assert sorted(split.validation for split in splits) == [("a",), ("b",), ("c",)]


def test_a_single_case_trains_and_validates_and_says_so():
    (split,) = make_splits(["a"])
    assert split == Split(("a",), ("a",))
    assert split.validates_on_training


def test_no_case_is_an_error():
    with pytest.raises(ValueError, match="no case"):
        make_splits([])


def _write(path, folds):
    path.write_text(json.dumps(folds))
    return path


def test_the_users_splits_are_taken_where_they_lie(tmp_path):
    path = tmp_path / "splits_final.json"
    made = choose_splits(["a", "b", "c"], path)
    assert [sorted(fold) for fold in made] == [["train", "val"]] * 3
    own = [{"train": ["b"], "val": ["a"]}]
    assert choose_splits(["a", "b", "c"], _write(path, own)) == own


def test_what_is_chosen_is_read_back_fold_by_fold(tmp_path):
    names = ["d", "a", "c", "b"]
    path = _write(tmp_path / "s.json", choose_splits(names, tmp_path / "none"))
    assert read_splits(path) == make_splits(names)
    assert split_for("2", path) == make_splits(names)[2]


def test_the_fold_all_trains_and_validates_on_every_case(tmp_path):
    path = _write(tmp_path / "s.json", choose_splits(["b", "a", "c"], tmp_path / "none"))
    split = split_for("all", path)
    assert split == Split(("a", "b", "c"), ("a", "b", "c"))
    assert split.validates_on_training


@pytest.mark.parametrize("fold", ["3", "-1", "none", "", "1.0", "²"])
def test_an_unknown_fold_is_refused_with_the_choice(tmp_path, fold):
    path = _write(tmp_path / "s.json", choose_splits(["b", "a", "c"], tmp_path / "none"))
    with pytest.raises(DatasetError, match="choose 0 to 2 or all"):
        split_for(fold, path)


@pytest.mark.parametrize(
    ("folds", "words"),
    [
        ({}, "expected a list of folds"),
        ([], "expected a list of folds"),
        ([["a"]], "fold 0 must have the keys"),
        ([{"train": ["a"]}], "fold 0 must have the keys"),
        ([{"train": ["a"], "val": ["b"], "test": []}], "fold 0 must have the keys"),
        ([{"train": ["a"], "val": "b"}], "fold 0, val: expected a list of case names"),
        ([{"train": [1], "val": ["b"]}], "fold 0, train: expected a list of case names"),
        ([{"train": [], "val": ["b"]}], "fold 0, train: no case"),
        ([{"train": ["a", "a"], "val": ["b"]}], "fold 0, train: a case stands there twice"),
        ([{"train": ["a"], "val": ["x", "y"]}], "fold 0, val: unknown cases x, y"),
        ([{"train": ["a", "b"], "val": ["b"]}], "fold 0: b in train and in val"),
    ],
)
def test_broken_splits_are_refused(tmp_path, folds, words):
    path = _write(tmp_path / "splits_final.json", folds)
    with pytest.raises(DatasetError, match=words) as caught:
        read_splits(path, ["a", "b"])
    assert str(caught.value).startswith(str(path))


def test_a_missing_or_unreadable_file_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="file not found"):
        split_for("0", tmp_path / "splits_final.json")
    (tmp_path / "splits_final.json").write_text("[")
    with pytest.raises(DatasetError, match="not valid JSON"):
        split_for("0", tmp_path / "splits_final.json")
