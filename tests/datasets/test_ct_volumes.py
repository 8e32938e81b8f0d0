import json
from pathlib import Path

import numpy as np
import pytest
from dicoms import write_series

from gdmnet.data.case import Volume
from gdmnet.data.volume import write_volume
from gdmnet.datasets.ct_volumes import CtVolume, choose_test_cases, find_ct_volumes, read_ct
from gdmnet.errors import DatasetError
from gdmnet.geometry import Geometry

NAMES = ["a", "b", "c", "d", "e"]


def choose(names=NAMES, *, split=None, fraction=0.0, seed=1):
    """Names of the training and of the test cases."""
    cts = [CtVolume(name, Path(f"{name}.nii.gz")) for name in names]
    return tuple([ct.name for ct in part] for part in choose_test_cases(cts, split, fraction, seed))


def write(path, low=-1000.0, high=60.0):
    ramp = np.linspace(low, high, 60, dtype=np.float32).reshape(1, 3, 4, 5)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_volume(path, Volume(ramp, Geometry((3, 4, 5), (3.0, 1.0, 1.0))))


def test_images_are_found_at_any_depth_and_named_as_cases(tmp_path):
    write(tmp_path / "b_0000.nii.gz")
    write(tmp_path / "deep" / "a.mha")
    write(tmp_path / ".hidden" / "x.nii.gz")
    write(tmp_path / ".y.nrrd")
    (tmp_path / "notes.txt").write_text("no image")
    found = find_ct_volumes(tmp_path)
    assert [(ct.name, ct.origin) for ct in found] == [("a", "a.mha"), ("b", "b_0000.nii.gz")]
    assert read_ct(found[0]).array.shape == (1, 3, 4, 5)


def test_dicom_series_are_found_where_there_are_no_images(tmp_path):
    ct = np.linspace(-1000, 60, 60).reshape(3, 4, 5)
    stored = np.rint(ct) + 1024
    write_series(tmp_path / "p", stored, Modality="CT", RescaleIntercept=-1024, RescaleSlope=1)
    write_series(tmp_path / "q", stored, Modality="MR", first=50)
    (only,) = find_ct_volumes(tmp_path)
    assert only.name.startswith("case_")
    assert only.origin == "DICOM series"
    assert read_ct(only).array[0] == pytest.approx(ct, abs=0.51)


def test_two_of_one_name_are_refused(tmp_path):
    write(tmp_path / "x" / "a.nii.gz")
    write(tmp_path / "y" / "a.nii.gz")
    with pytest.raises(DatasetError, match="the case a is there twice"):
        find_ct_volumes(tmp_path)


def test_nothing_found_is_said(tmp_path):
    with pytest.raises(DatasetError, match="no CT here"):
        find_ct_volumes(tmp_path)
    with pytest.raises(DatasetError, match="no such folder"):
        find_ct_volumes(tmp_path / "none")


def test_what_is_not_in_hounsfield_units_is_refused(tmp_path):
    write(tmp_path / "a.nii.gz", low=0.0, high=1.0)
    write(tmp_path / "b.nii.gz", low=5.0, high=5.0)
    scaled, empty = find_ct_volumes(tmp_path)
    with pytest.raises(DatasetError, match=r"a\.nii\.gz: not in HU"):
        read_ct(scaled)
    with pytest.raises(DatasetError, match="every voxel is 5"):
        read_ct(empty)


def test_test_cases_are_drawn_by_seed_whatever_the_order():
    train, drawn = choose(fraction=0.4)
    assert len(drawn) == 2
    assert sorted([*train, *drawn]) == NAMES
    assert choose(NAMES[::-1], fraction=0.4)[1] == drawn
    assert {tuple(choose(fraction=0.4, seed=seed)[1]) for seed in range(9)} != {tuple(drawn)}
    assert choose() == (NAMES, [])
    assert len(choose(fraction=0.99)[1]) == 4
    with pytest.raises(DatasetError, match="--test-fraction 1"):
        choose(fraction=1.0)


def test_a_split_names_the_cases(tmp_path):
    path = tmp_path / "split.json"
    path.write_text(json.dumps({"test": ["b"]}))
    assert choose(split=path) == (["a", "c", "d", "e"], ["b"])
    path.write_text(json.dumps({"train": ["c", "a"], "test": ["b"]}))
    assert choose(split=path) == (["a", "c"], ["b"])
    path.write_text(json.dumps({"train": ["a"]}))
    assert choose(split=path) == (["a"], [])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], "expected"),
        ({"val": ["a"]}, "expected"),
        ({"test": "a"}, "expected"),
        ({"test": ["x"]}, 'no case "x"'),
        ({"train": ["a"], "test": ["a"]}, "a is both"),
        ({"test": NAMES}, "no case is left"),
    ],
)
def test_wrong_splits_are_refused(tmp_path, data, words):
    path = tmp_path / "split.json"
    path.write_text(json.dumps(data))
    with pytest.raises(DatasetError, match=words):
        choose(split=path)
