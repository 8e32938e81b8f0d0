"""The files of a case are found by name, never by order, and what is missing is named."""

from __future__ import annotations

import pytest

from gdmnet.data.case_files import FORMATS, ending_of, images_by_case, match_cases, split_channel
from gdmnet.errors import DatasetError


def _touch(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def test_cases_are_matched_by_name_whatever_their_format(tmp_path):
    outputs = _touch(tmp_path / "out", "b.mha", "a.nii.gz", "notes.txt", ".a.nrrd")
    targets = _touch(tmp_path / "targets", "a.nrrd", "b.nii", "z.nii")
    sources = _touch(tmp_path / "in", "a_0001.mha", "a_0000.mha", "b_0000.mha", "b_0001.mha")
    folders = {"prediction": outputs, "target": targets, "source": sources, "mask": None}
    cases, missing = match_cases(folders, leading=["prediction"], with_channels=["source"])
    assert missing == {}
    assert [case.identifier for case in cases] == ["a", "b"]
    assert cases[0].images == {
        "prediction": (outputs / "a.nii.gz",),
        "target": (targets / "a.nrrd",),
        "source": (sources / "a_0000.mha", sources / "a_0001.mha"),
    }
    assert cases[0].one("target") == targets / "a.nrrd"
    assert cases[0].one("mask") is None
    assert cases[0].others("prediction") == [targets / "a.nrrd", *cases[0].images["source"]]


def test_what_is_missing_is_told_by_folder(tmp_path):
    outputs = _touch(tmp_path / "out", "a.nii", "b.nii")
    references = _touch(tmp_path / "references", "b.nii", "c.nii")
    masks = _touch(tmp_path / "masks", "a.nii")
    folders = {"prediction": outputs, "reference": references, "mask": masks}
    cases, missing = match_cases(folders, leading=["prediction", "reference"])
    assert missing == {outputs: ["c"], references: ["a"], masks: ["b", "c"]}
    assert [sorted(case.images) for case in cases] == [
        ["mask", "prediction"],
        ["prediction", "reference"],
        ["reference"],
    ]


def test_a_case_in_two_formats_is_refused(tmp_path):
    folder = _touch(tmp_path / "images", "a.nii", "a.mha")
    with pytest.raises(DatasetError, match=r"a.nii: a.mha is the same image in another format"):
        images_by_case(folder)


def test_a_missing_folder_and_one_without_images_are_told_apart(tmp_path):
    with pytest.raises(DatasetError, match="no such folder"):
        images_by_case(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="no image here"):
        images_by_case(_touch(tmp_path, "a.txt"))


def test_sources_need_their_channel_number(tmp_path):
    _touch(tmp_path, "a.nii")
    with pytest.raises(DatasetError, match="CASE_0000"):
        match_cases({"source": tmp_path}, leading=["source"], with_channels=["source"])


def test_a_case_without_its_first_channel_has_no_source(tmp_path):
    outputs = _touch(tmp_path / "out", "a.nii", "b.nii")
    sources = _touch(tmp_path / "in", "a_0001.nii", "b_0000.nii", "b_0001.nii", "scan_2021.nii")
    folders = {"prediction": outputs, "source": sources}
    cases, missing = match_cases(folders, leading=["prediction"], with_channels=["source"])
    assert missing == {sources: ["a"]}
    assert cases[1].images["source"] == (sources / "b_0000.nii", sources / "b_0001.nii")


def test_a_case_name_may_look_like_a_channel():
    assert split_channel("b_0001_0000") == ("b_0001", 0)
    assert split_channel("b_0001") == ("b", 1)
    assert split_channel("_0001") == ("_0001", None)
    assert split_channel("b_001") == ("b_001", None)


def test_endings_are_those_that_can_be_read(tmp_path):
    assert [ending_of(tmp_path / f"a.b{ending}") for ending in FORMATS] == list(FORMATS)
    with pytest.raises(DatasetError, match=r"a.gz: unknown file ending; known are .nii.gz"):
        ending_of(tmp_path / "a.gz")
