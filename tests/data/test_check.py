"""The integrity check: every fault is found, all at once, and a sound dataset has none."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest

from gdmnet.data.case import Volume
from gdmnet.data.check import check_dataset, require_sound
from gdmnet.data.hounsfield import why_not_hounsfield
from gdmnet.data.volume import read_volume, write_volume
from gdmnet.errors import DatasetError
from gdmnet.geometry import Geometry

SHAPE = (10, 24, 28)
GEOMETRY = Geometry(SHAPE, (3.0, 1.5, 1.5), itk_origin=(-20.0, 10.0, 5.0))


def make_patient(seed):
    """MR with a noisy background and CT in HU of a small ellipsoid patient, and its body."""
    rng = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    radius = np.sqrt((z / 1.5) ** 2 + (y / 0.7) ** 2 + (x / (0.6 + 0.02 * seed)) ** 2)
    body, bone = radius < 1, radius < 0.5
    mr = np.where(body, 400, 20) + np.where(bone, -300, 0) + rng.normal(0, 8, SHAPE)
    ct = np.where(body, 30, -1000) + np.where(bone, 700, 0) + rng.normal(0, 20, SHAPE)
    return np.abs(mr), ct, body


def write(path, array, geometry=GEOMETRY, *, integer=False):
    path.parent.mkdir(exist_ok=True)
    write_volume(path, Volume(array[None].astype(np.float32), geometry), integer=integer)


@pytest.fixture(scope="module")
def sound_dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw") / "Dataset501_Sound"
    folder.mkdir()
    description = {
        "channel_names": {"0": "MR"},
        "target_name": "CT",
        "file_ending": ".mha",
        "numTraining": 2,
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    for seed, name in enumerate(["a", "b", "t"]):
        suffix = "Ts" if name == "t" else "Tr"
        mr, ct, body = make_patient(seed)
        write(folder / f"images{suffix}" / f"{name}_0000.mha", mr)
        write(folder / f"targets{suffix}" / f"{name}.mha", ct, integer=True)
        write(folder / f"masks{suffix}" / f"{name}.mha", body, integer=True)
    return folder


@pytest.fixture
def dataset(sound_dataset, tmp_path):
    return shutil.copytree(sound_dataset, tmp_path / sound_dataset.name)


def complaints_about(folder):
    return {(c.case, c.file): c.text for c in check_dataset(folder, n_processes=1)}


def change(path, function):
    volume = read_volume(path)
    write(path, function(volume.array[0]), volume.geometry)


def test_a_sound_dataset_has_no_complaint(sound_dataset):
    assert check_dataset(sound_dataset, n_processes=2) == []
    description, cases = require_sound(sound_dataset, n_processes=1)
    assert description.target_name == "CT"
    assert [case.identifier for case in cases] == ["a", "b"]  # not the test case


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shape": (9, 24, 28)}, r"shape \(9, 24, 28\) against \(10, 24, 28\)"),
        ({"spacing": (3.0, 1.5, 1.6)}, r"spacing \(3, 1.5, 1.6\) against \(3, 1.5, 1.5\)"),
        ({"itk_origin": (-20.0, 11.0, 5.0)}, r"origin \(-20, 11, 5\) against \(-20, 10, 5\)"),
        ({"itk_direction": (1.0, 0, 0, 0, 0.8, 0.6, 0, -0.6, 0.8)}, "direction"),
    ],
)
@pytest.mark.parametrize("which", ["masksTr", "targetsTr"])
def test_another_grid_inside_a_case_is_named_with_both_values(dataset, changes, words, which):
    geometry = replace(GEOMETRY, **changes)
    _, ct, body = make_patient(0)
    array = body if which == "masksTr" else ct
    write(dataset / which / "a.mha", array[: geometry.shape[0]], geometry)
    complaints = complaints_about(dataset)
    assert list(complaints) == [("a", f"{which}/a.mha")]
    text = complaints["a", f"{which}/a.mha"]
    assert text.startswith("another grid than imagesTr/a_0000.mha: ")
    assert re.search(words, text)


def test_nan_and_inf_are_found(dataset):
    def spoil(value):
        def function(array):
            array[1, 2, 3] = value
            return array

        return function

    change(dataset / "imagesTr" / "a_0000.mha", spoil(np.nan))
    change(dataset / "targetsTr" / "b.mha", spoil(np.inf))
    complaints = complaints_about(dataset)
    assert set(complaints) == {("a", "imagesTr/a_0000.mha"), ("b", "targetsTr/b.mha")}
    assert all("NaN or Inf" in text for text in complaints.values())


def test_constant_images_are_found(dataset):
    change(dataset / "imagesTr" / "a_0000.mha", np.zeros_like)
    change(dataset / "targetsTr" / "b.mha", lambda array: np.full_like(array, -1000))
    complaints = complaints_about(dataset)
    assert "every voxel is 0" in complaints["a", "imagesTr/a_0000.mha"]
    assert "every voxel is -1000" in complaints["b", "targetsTr/b.mha"]


def test_an_unreadable_and_a_truncated_file_do_not_stop_the_check(dataset):
    (dataset / "imagesTr" / "a_0000.mha").write_bytes(b"this is no image")
    path = dataset / "targetsTr" / "b.mha"
    path.write_bytes(path.read_bytes()[:-300])
    change(dataset / "targetsTr" / "a.mha", np.zeros_like)  # still found beside the unreadable one
    complaints = complaints_about(dataset)
    assert set(complaints) == {
        ("a", "imagesTr/a_0000.mha"),
        ("a", "targetsTr/a.mha"),
        ("b", "targetsTr/b.mha"),
    }
    assert str(dataset) not in complaints["b", "targetsTr/b.mha"]  # the file is named once


def test_bad_masks_are_found(dataset):
    change(dataset / "masksTr" / "a.mha", np.zeros_like)
    change(dataset / "masksTr" / "b.mha", lambda array: 255 * array)
    corner = np.zeros(SHAPE)
    corner[:, :2, :2] = 1
    write(dataset / "masksTs" / "t.mha", corner)
    complaints = complaints_about(dataset)
    assert "the mask is empty" in complaints["a", "masksTr/a.mha"]
    assert "holds 0 and 1 only, this one 0, 255;" in complaints["b", "masksTr/b.mha"]
    assert "outside the body" in complaints["t", "masksTs/t.mha"]


def test_a_mask_with_many_values_shows_a_few(dataset):
    shutil.copy(dataset / "targetsTr" / "a.mha", dataset / "masksTr" / "a.mha")
    assert complaints_about(dataset)["a", "masksTr/a.mha"].count(",") == 6


def test_one_image_under_two_names_is_found_also_across_the_test_set(dataset):
    shutil.copy(dataset / "imagesTr" / "b_0000.mha", dataset / "imagesTs" / "t_0000.mha")
    complaints = complaints_about(dataset)
    assert "the same image as case b" in complaints["t", "first channel"]


def test_a_target_that_is_no_ct_may_have_any_unit(dataset):
    text = (dataset / "dataset.json").read_text().replace('"CT"', '"T2"')
    (dataset / "dataset.json").write_text(text)
    change(dataset / "targetsTr" / "a.mha", lambda array: (array + 1000) / 4000)
    assert complaints_about(dataset) == {}


def test_splits_beside_the_dataset_are_checked(dataset):
    path = dataset / "splits_final.json"
    path.write_text(json.dumps([{"train": ["a"], "val": ["c"]}]))
    assert "unknown cases c" in complaints_about(dataset)["", "splits_final.json"]
    path.write_text(json.dumps([{"train": ["a"], "val": ["b"]}]))
    assert complaints_about(dataset) == {}
    path.write_text("[")
    assert "not valid JSON" in complaints_about(dataset)["", "splits_final.json"]


def test_a_broken_description_is_the_only_complaint(dataset):
    (dataset / "dataset.json").write_text("{}")
    assert complaints_about(dataset) == {
        ("", "dataset.json"): "the key channel_names is missing; add it"
    }


def test_all_complaints_come_at_once_one_a_line(dataset):
    (dataset / "imagesTr" / "a_0000.mha").unlink()
    change(dataset / "targetsTr" / "b.mha", lambda array: array + 1024)
    with pytest.raises(DatasetError) as caught:
        require_sound(dataset, n_processes=2)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{dataset}: 4 complaints; nothing was written"
    assert len(lines) == 5
    assert any("a, masksTr/a.mha: no image belongs to this mask" in line for line in lines)
    assert any("b, targetsTr/b.mha: not in HU" in line for line in lines)
    assert any("numTraining is 2, but imagesTr has 1 cases" in line for line in lines)


def _ct(*, noise=20.0, bone=700.0):
    _, ct, body = make_patient(0)
    rng = np.random.default_rng(1)
    clean = np.where(body, 30.0, -1000.0)
    clean[ct > 500] = bone
    return clean + rng.normal(0, noise, SHAPE)


@pytest.mark.parametrize("bone", [500, 700, 1000, 1024, 1100, 2000])
@pytest.mark.parametrize("noise", [0, 20])
def test_a_ct_in_hounsfield_units_passes_whatever_its_bone(bone, noise):
    assert why_not_hounsfield(_ct(noise=noise, bone=bone)) is None


@pytest.mark.parametrize(
    ("change_units", "words"),
    [
        (lambda ct: (ct + 1024) / 4095, "the values lie between .* and 0.*normalised"),
        (lambda ct: ct / 1024, "normalised"),
        (lambda ct: ct + 1024, "soft tissue lies near 1024 instead of 0; subtract 1024"),
        (lambda ct: np.clip(ct, -160, 240), "lowest value is -160, but air is -1000"),
        (lambda ct: (np.clip(ct, -160, 240) + 160) / 400 * 255, "lowest value is 0"),
    ],
)
def test_a_ct_in_other_units_is_found(change_units, words):
    assert re.search(words, why_not_hounsfield(change_units(_ct())))


def test_a_shift_behind_padding_is_found():
    padded = _ct() + 1024
    padded[:, :4, :6] = padded[:, -4:, -6:] = -2000
    assert "soft tissue lies near 1024" in why_not_hounsfield(padded)
    in_units = _ct()
    in_units[:, :4, :6] = in_units[:, -4:, -6:] = -2000
    assert why_not_hounsfield(in_units) is None


@pytest.mark.parametrize("axis", [1, 2])
def test_a_single_slice_of_any_orientation_is_judged_by_the_ends_that_it_has(axis):
    slab = [slice(None)] * 3
    slab[axis] = slice(SHAPE[axis] // 2, SHAPE[axis] // 2 + 1)
    assert why_not_hounsfield(_ct(noise=40)[tuple(slab)]) is None
    filling = np.where(_ct()[tuple(slab)] > -500, 1040.0, -1000.0)  # bone all through
    filling += np.random.default_rng(0).normal(0, 20, filling.shape)
    assert why_not_hounsfield(filling) is None


def fill(folder, value, n_rows=9):
    """Fill rows at the back of case a, as a resampling does."""

    def function(array):
        array[:, -n_rows:] = value
        return array

    change(folder, function)


def test_what_a_resampling_filled_is_named(dataset, caplog):
    fill(dataset / "targetsTr" / "a.mha", 0)
    assert "filled with exactly 0 HU" in complaints_about(dataset)["a", "targetsTr/a.mha"]
    (dataset / "masksTr" / "a.mha").unlink()
    fill(dataset / "targetsTr" / "a.mha", -1024, n_rows=12)
    fill(dataset / "imagesTr" / "b_0000.mha", -1000, n_rows=6)
    (dataset / "masksTr" / "b.mha").unlink()
    (dataset / "masksTs" / "t.mha").unlink()
    caplog.clear()
    assert check_dataset(dataset, n_processes=1) == []
    assert [record.getMessage()[:60] for record in caplog.records] == [
        "a: more than 2% of the body in the source is filled with -10",
        "b: filled with -1000 in part, far below the rest: this part ",
    ]


def test_hounsfield_units_are_asked_of_every_ct_channel(dataset):
    text = (dataset / "dataset.json").read_text().replace('"MR"', '"CT"')
    (dataset / "dataset.json").write_text(text)
    for name in ("Tr/a", "Tr/b", "Ts/t"):
        _, ct, _ = make_patient(5 + ord(name[-1]))
        write(dataset / f"images{name}_0000.mha", ct, integer=True)
    assert complaints_about(dataset) == {}
    change(dataset / "imagesTr" / "a_0000.mha", lambda array: array + 1024)
    fill(dataset / "imagesTr" / "b_0000.mha", 0)
    complaints = complaints_about(dataset)
    assert "subtract 1024" in complaints["a", "imagesTr/a_0000.mha"]
    assert "filled with exactly 0 HU" in complaints["b", "imagesTr/b_0000.mha"]
    assert len(complaints) == 2


def test_a_channel_is_judged_by_its_own_number(dataset):
    text = (dataset / "dataset.json").read_text().replace('"0": "MR"', '"0": "CT", "1": "MR"')
    (dataset / "dataset.json").write_text(text)
    for name in ("Tr/a", "Tr/b", "Ts/t"):
        path = dataset / f"images{name}_0000.mha"
        path.rename(path.with_name(path.name.replace("_0000", "_0001")))
    complaints = complaints_about(dataset)
    assert len(complaints) == 3
    assert all("this channel is missing" in text for text in complaints.values())


@pytest.mark.real
@pytest.mark.parametrize("dataset", ["501_BrainT1toT2", "503_BrainT1FlairToT2"])
def test_the_shared_datasets_are_sound(shared, dataset):
    assert check_dataset(shared / "data" / "raw" / f"Dataset{dataset}", n_processes=1) == []


@pytest.mark.real
def test_real_ct_passes_and_a_shifted_one_is_found(shared):
    folder = shared / "data" / "raw" / "Dataset510_SimulatedMRtoCT" / "targetsTr"
    paths = sorted(folder.glob("*.nii.gz"))[:6]
    assert paths
    for path in paths:
        ct = read_volume(path).array[0]
        assert why_not_hounsfield(ct) is None
        shifted = ct + 1024
        y, x = (2 * (np.arange(n) + 0.5) / n - 1 for n in ct.shape[1:])
        shifted[:, y[:, None] ** 2 + x**2 > 1] = -1024  # the round field of view of a scanner
        assert "soft tissue lies near 1024" in why_not_hounsfield(shifted)
