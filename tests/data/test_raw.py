"""dataset.json and the files of every case: what is right is found, what is wrong is named."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from gdmnet.data import raw
from gdmnet.data.raw import (
    Complaint,
    Description,
    input_cases,
    read_description,
    training_cases,
    write_description,
)
from gdmnet.errors import DatasetError

SOUND = {
    "channel_names": {"0": "T1", "1": "FLAIR"},
    "target_name": "T2",
    "file_ending": ".nii.gz",
    "numTraining": 2,
    "licence": "CC0",
}


def _write_description(folder, **changes):
    data = {k: v for k, v in {**SOUND, **changes}.items() if v is not ...}
    (folder / "dataset.json").write_text(json.dumps(data))


def _touch(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


@pytest.fixture
def dataset(tmp_path):
    """Two cases with two channels; only the names matter here."""
    _write_description(tmp_path)
    for case in ("a", "b_0001"):  # a case name that looks like a channel
        _touch(tmp_path / "imagesTr", f"{case}_0000.nii.gz", f"{case}_0001.nii.gz")
        _touch(tmp_path / "targetsTr", f"{case}.nii.gz")
    return tmp_path


def _found(folder):
    return training_cases(folder, read_description(folder))


def test_a_description_keeps_what_it_does_not_know(dataset):
    description = read_description(dataset)
    assert description.channel_names == ("T1", "FLAIR")
    assert (description.target_name, description.file_ending) == ("T2", ".nii.gz")
    assert description.n_training == 2
    assert description.metadata == {"licence": "CC0"}


def test_the_region_of_interest_is_the_body_unless_it_is_named(dataset):
    assert read_description(dataset).region == "body"
    _write_description(dataset, region_of_interest="circle")
    assert read_description(dataset).region == "circle"
    assert "region_of_interest" not in read_description(dataset).metadata
    _write_description(dataset, region_of_interest="square")
    with pytest.raises(DatasetError, match="is 'square', but must be one of body, circle, every"):
        read_description(dataset)


def test_channel_names_may_be_a_list_and_objects_are_ordered_by_number(tmp_path):
    _write_description(tmp_path, channel_names=["T1", "FLAIR"])
    assert read_description(tmp_path).channel_names == ("T1", "FLAIR")
    names = {str(number): f"channel {number}" for number in reversed(range(11))}
    _write_description(tmp_path, channel_names=names)
    assert read_description(tmp_path).channel_names[10] == "channel 10"


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("channel_names", ..., "channel_names is missing"),
        ("target_name", ..., "target_name is missing"),
        ("file_ending", ..., "file_ending is missing"),
        ("numTraining", ..., "numTraining is missing"),
        ("channel_names", {}, "channel_names must name at least one"),
        ("channel_names", {"1": "T1"}, "channel_names has the keys 1"),
        ("channel_names", {"T1": "0"}, "channel_names has the keys T1"),
        ("channel_names", ["T1", ""], "channel_names must hold short names"),
        ("channel_names", "T1", "channel_names must name"),
        ("channel_names", [1], "channel_names must hold"),
        ("target_name", ["T2", "CT"], "exactly one target channel is supported"),
        ("target_name", {"0": "T2"}, "exactly one target channel is supported"),
        ("target_name", " ", "target_name must be a short name"),
        ("target_name", 3, "target_name must be a short name"),
        ("file_ending", ".dcm", r"file_ending is '.dcm', but must be one of .nii.gz, .nii"),
        ("file_ending", ["x"], "file_ending is"),
        ("numTraining", "2", "numTraining is '2'"),
        ("numTraining", 0, "numTraining is 0"),
        ("numTraining", True, "numTraining is True"),
    ],
)
def test_a_broken_description_is_refused_by_its_key(tmp_path, key, value, words):
    _write_description(tmp_path, **{key: value})
    with pytest.raises(DatasetError, match=words) as caught:
        read_description(tmp_path)
    assert str(caught.value).startswith(str(tmp_path / "dataset.json"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[1]", "3"])
def test_what_is_no_json_object_is_refused(tmp_path, text):
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(DatasetError, match=r"dataset\.json"):
        read_description(tmp_path)


def test_a_missing_description_is_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"dataset.json: file not found"):
        read_description(tmp_path)


def test_a_sound_dataset_has_no_complaint_and_its_cases_are_matched_by_name(dataset):
    cases, complaints = _found(dataset)
    assert complaints == []
    assert [case.identifier for case in cases] == ["a", "b_0001"]
    images = dataset / "imagesTr"
    assert cases[1].sources == (images / "b_0001_0000.nii.gz", images / "b_0001_0001.nii.gz")
    assert cases[1].target == dataset / "targetsTr" / "b_0001.nii.gz"
    assert cases[1].mask is None


def test_masks_are_matched_by_name(dataset):
    _touch(dataset / "masksTr", "b_0001.nii.gz", "a.nii.gz")
    cases, complaints = _found(dataset)
    assert complaints == []
    assert [case.mask.name for case in cases] == ["a.nii.gz", "b_0001.nii.gz"]


def test_hidden_files_folders_and_other_files_are_no_matter(dataset):
    _touch(dataset / "imagesTr", ".DS_Store", "._a_0000.nii.gz", "notes.txt")
    (dataset / "imagesTr" / "old").mkdir()
    (dataset / "masksTr").mkdir()  # empty: no masks, not missing ones
    assert _found(dataset)[1] == []


def _complaints_about(dataset):
    return {(c.case, c.file): c.text for c in _found(dataset)[1]}


def test_a_missing_channel_is_named(dataset):
    (dataset / "imagesTr" / "a_0001.nii.gz").unlink()
    complaints = _complaints_about(dataset)
    assert "missing" in complaints.pop(("a", "imagesTr/a_0001.nii.gz"))
    assert complaints == {}


def test_an_extra_channel_is_named(dataset):
    _touch(dataset / "imagesTr", "a_0002.nii.gz")
    assert "too many" in _complaints_about(dataset)["a", "imagesTr/a_0002.nii.gz"]


def test_a_missing_and_a_strange_target_are_named(dataset):
    (dataset / "targetsTr" / "a.nii.gz").rename(dataset / "targetsTr" / "A.nii.gz")
    complaints = _complaints_about(dataset)
    assert "target of this case is missing" in complaints["a", "targetsTr/a.nii.gz"]
    assert "no image belongs to this target" in complaints["A", "targetsTr/A.nii.gz"]


def test_a_mask_for_some_cases_only_is_refused(dataset):
    _touch(dataset / "masksTr", "a.nii.gz", "c.nii.gz")
    complaints = _complaints_about(dataset)
    assert "mask of this case is missing" in complaints["b_0001", "masksTr/b_0001.nii.gz"]
    assert "no image belongs to this mask" in complaints["c", "masksTr/c.nii.gz"]


def test_a_second_target_channel_is_refused_in_words(dataset):
    _touch(dataset / "targetsTr", "a_0000.nii.gz", "a_0001.nii.gz")
    complaints = _complaints_about(dataset)
    words = complaints["a_0001", "targetsTr/a_0001.nii.gz"]
    assert "exactly one target channel is supported" in words
    assert "rename it to a.nii.gz" in complaints["a_0000", "targetsTr/a_0000.nii.gz"]


def test_a_file_without_a_channel_number_is_named_with_the_right_name(dataset):
    _touch(dataset / "imagesTr", "c.nii.gz")
    assert "rename it to c_0000.nii.gz" in _complaints_about(dataset)["c", "imagesTr/c.nii.gz"]


def test_another_image_format_is_named(dataset):
    _touch(dataset / "imagesTr", "c_0000.nii")
    assert "not .nii.gz" in _complaints_about(dataset)["c", "imagesTr/c_0000.nii"]


def test_capital_endings_are_read(dataset):
    (dataset / "imagesTr/a_0000.nii.gz").rename(dataset / "imagesTr/a_0000.NII.GZ")
    (dataset / "targetsTr/a.nii.gz").rename(dataset / "targetsTr/a.Nii.gz")
    cases, complaints = _found(dataset)
    assert complaints == []
    assert cases[0].sources[0].name == "a_0000.NII.GZ"
    assert cases[0].target.name == "a.Nii.gz"


def test_one_name_in_small_and_capital_letters_is_two_files(dataset):
    _touch(dataset / "imagesTr", "a_0001.NII.GZ")
    _touch(dataset / "targetsTr", "a.nii.GZ")
    complaints = _complaints_about(dataset)
    said = complaints["a", "imagesTr/a_0001.nii.gz"]
    assert said == "a_0001.NII.GZ has the same name; keep one"
    assert "keep one" in complaints["a", "targetsTr/a.nii.gz"]
    assert len(complaints) == 2


def test_what_looks_like_an_image_is_never_passed_over_in_silence(dataset):
    images = dataset / "imagesTr"
    _touch(images, "e_0000.hdr", "e_0000.img", "f_0000.mgz", "notes.pdf")
    (images / "c_0000.nii.gz").symlink_to("/nowhere/c.nii.gz")
    os.mkfifo(images / "p_0000.nii.gz")
    (images / os.fsdecode(b"M\xfcller_0000.nii.gz")).touch()
    (images / "d_0000.nii.gz").mkdir()  # as some archives unpack
    _touch(images / "d_0000.nii.gz", "d_0000.nii.gz")
    _touch(images, "a\nb_0000.nii.gz", f"{'n' * 230}_0000.nii.gz")
    complaints = _complaints_about(dataset)
    assert "a link to a file that is not there" in complaints["c", "imagesTr/c_0000.nii.gz"]
    assert "is not read; convert it to .nii.gz" in complaints["e", "imagesTr/e_0000.hdr"]
    assert "is not read" in complaints["f", "imagesTr/f_0000.mgz"]
    for name in "dp":
        assert "is no file; move it away" in complaints[name, f"imagesTr/{name}_0000.nii.gz"]
    name = "M\\udcfcller_0000.nii.gz"
    assert "not UTF-8; rename it" in complaints["M\\udcfcller", f"imagesTr/{name}"]
    assert "control characters" in complaints["a\\nb", "imagesTr/a\\nb_0000.nii.gz"]
    assert "shorten it" in complaints["n" * 230, f"imagesTr/{'n' * 230}_0000.nii.gz"]
    assert len(complaints) == 9


def test_a_name_in_two_unicode_forms_is_named_as_such(dataset):
    _touch(dataset / "imagesTr", "M\u00fcller_0000.nii.gz", "M\u00fcller_0001.nii.gz")
    _touch(dataset / "targetsTr", "Mu\u0308ller.nii.gz")
    complaints = _complaints_about(dataset)
    assert "Unicode NFC and NFD" in complaints["Mu\u0308ller", "targetsTr/Mu\u0308ller.nii.gz"]


def test_the_wrong_number_of_cases_is_named(dataset):
    _write_description(dataset, numTraining=3)
    assert "numTraining is 3, but imagesTr has 2" in _complaints_about(dataset)["", "dataset.json"]


def test_an_empty_and_a_missing_folder_are_told_apart(tmp_path):
    _write_description(tmp_path)
    assert "the folder is missing" in _complaints_about(tmp_path)["", "imagesTr"]
    (tmp_path / "imagesTr").mkdir()
    assert "it is empty" in _complaints_about(tmp_path)["", "imagesTr"]
    _touch(tmp_path / "imagesTr", "slice.dcm")
    assert "it holds .dcm files" in _complaints_about(tmp_path)["", "imagesTr"]


def test_test_cases_are_optional_and_so_are_their_targets(dataset):
    description = read_description(dataset)
    assert raw.test_cases(dataset, description) == ([], [])
    _touch(dataset / "imagesTs", "t_0000.nii.gz", "t_0001.nii.gz", "u_0000.nii.gz")
    cases, complaints = raw.test_cases(dataset, description)
    assert [(case.identifier, case.target) for case in cases] == [("t", None), ("u", None)]
    assert [(c.case, c.file) for c in complaints] == [("u", "imagesTs/u_0001.nii.gz")]


@pytest.mark.parametrize("what", ["targets", "masks"])
def test_what_belongs_to_test_images_that_are_missing_is_a_complaint(dataset, what):
    description = raw.read_description(dataset)
    (dataset / f"{what}Ts").mkdir()
    assert raw.test_cases(dataset, description) == ([], [])
    _touch(dataset / f"{what}Ts", "t.nii.gz")
    _, complaints = raw.test_cases(dataset, description)
    assert [(c.case, c.file) for c in complaints] == [("", "imagesTs"), ("t", f"{what}Ts/t.nii.gz")]


def test_a_complaint_reads_as_a_line():
    assert str(Complaint("a", "imagesTr/a.nii", "is bad")) == "a, imagesTr/a.nii: is bad"
    assert str(Complaint("", "dataset.json", "is bad")) == "dataset.json: is bad"


def test_inputs_for_prediction_are_sorted_by_name_with_channels_in_order(tmp_path):
    _touch(tmp_path, "b_0001.mha", "b_0000.mha", "a_0000.mha", "a_0001.mha")
    cases = input_cases(tmp_path, 2, ".mha")
    assert [case.identifier for case in cases] == ["a", "b"]
    assert [path.name for path in cases[0].sources] == ["a_0000.mha", "a_0001.mha"]
    assert cases[0].target is None


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "it is empty"),
        (["a.nii.gz"], "rename it to a_0000.nii.gz"),
        (["a_0000.nii.gz"], "a_0001.nii.gz: this channel is missing"),
        (["a_0000.nii.gz", "a_0001.nii.gz", "a_0002.nii.gz"], "too many"),
        (["a_0000.mha", "a_0001.mha"], r"a_0000.mha: the file ending is not .nii.gz.*1 more"),
        (["a.jpg"], "it holds .jpg files"),
        (["patient_2021.nii.gz"], "rename it to patient_2021_0000.nii.gz"),
        (
            ["a_0000.nii.gz", "a_0001.nii.gz", "b_0000.NII.GZ", "b_0001.nii.gz", "c_0000.mgz"],
            "in: 2 of 3 cases can be used; c, in/c_0000.mgz: this format is not read",
        ),
    ],
)
def test_inputs_that_do_not_fit_are_refused_in_one_line(tmp_path, names, words):
    _touch(tmp_path / "in", *names)
    with pytest.raises(DatasetError, match=words) as caught:
        input_cases(tmp_path / "in", 2, ".nii.gz")
    assert "\n" not in str(caught.value)


def test_the_folder_one_stands_in_has_no_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatasetError, match=r"^\.: no image CASE_0000.nii.gz here"):
        input_cases(Path(), 1, ".nii.gz")


def test_a_missing_input_folder_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="no such folder"):
        input_cases(tmp_path / "in", 1, ".nii.gz")


def test_nnunets_dataset_is_told_what_to_rename(tmp_path):
    data = {"channel_names": {"0": "MR"}, "labels": {"background": 0}, "file_ending": ".nii.gz"}
    (tmp_path / "dataset.json").write_text(json.dumps({**data, "numTraining": 1}))
    with pytest.raises(DatasetError, match=r"is nnU-Net's; .* rename labelsTr to targetsTr"):
        read_description(tmp_path)


def test_source_series_are_one_pattern_a_channel(tmp_path):
    description = Description(("A", "B"), "CT", ".nii.gz", 1, source_series=("MR*t1*", "MR*t2*"))
    write_description(tmp_path, description)
    assert read_description(tmp_path) == description
    path = tmp_path / "dataset.json"
    data = json.loads(path.read_text())
    for wrong in (["MR*"], "MR*", ["MR*", 3], ["MR*", ""]):
        path.write_text(json.dumps({**data, "source_series": wrong}))
        with pytest.raises(DatasetError, match="source_series must"):
            read_description(tmp_path)
