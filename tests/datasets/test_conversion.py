import json
import subprocess
import sys

import numpy as np
import pytest

from gdmnet.data.case import Volume
from gdmnet.data.check import check_dataset
from gdmnet.data.volume import read_geometry, read_volume, write_volume
from gdmnet.datasets import conversion as module
from gdmnet.datasets.conversion import (
    CaseImages,
    Conversion,
    grid_complaints,
    new_dataset,
    own_number,
    write_dataset,
)
from gdmnet.datasets.phantom import make_patient
from gdmnet.errors import BusyError, DatasetError
from gdmnet.geometry import Geometry, grid_difference

SHAPE = (10, 20, 18)
GRID = Geometry(SHAPE, (2.5, 1.2, 1.2), (-10.0, 5.0, 40.0))


@pytest.fixture
def case(tmp_path):
    """MR, CT and mask on one grid, as MetaImages."""
    sources, ct, body = make_patient(np.random.default_rng(1), SHAPE)
    paths = [tmp_path / f"{name}.mha" for name in ("mr", "ct", "mask")]
    for path, array in zip(paths, (sources[0], ct, body * 255), strict=True):
        write_volume(path, Volume(array[None].astype(np.float32), GRID), integer=True)
    return CaseImages("p1", (paths[0],), paths[1], paths[2])


def conversion(*cases, **options):
    return Conversion(("MR",), "CT", tuple(cases), **options)


def second(case, tmp_path):
    """Another patient, that the integrity check does not take for the first one."""
    mr = read_volume(case.sources[0])
    write_volume(tmp_path / "mr2.mha", Volume(mr.array[:, :, :, ::-1] + 1, GRID), integer=True)
    return CaseImages("p2", (tmp_path / "mr2.mha",), case.target, case.mask)


def test_a_converted_dataset_is_sound_and_voxels_stay(case, tmp_path):
    dataset = tmp_path / "raw" / "Dataset511_X"
    splits = ({"train": ["p1"], "val": ["p2"]},)
    metadata = {"description": "test"}
    test = CaseImages("p3", second(case, tmp_path).sources, mask=case.mask)
    whole = conversion(case, second(case, tmp_path), testing=(), splits=splits, metadata=metadata)
    write_dataset(whole, dataset)
    assert check_dataset(dataset, n_processes=1) == []
    np.testing.assert_array_equal(
        read_volume(dataset / "targetsTr/p1.nii.gz").array, read_volume(case.target).array
    )
    written = read_volume(dataset / "masksTr/p1.nii.gz")
    np.testing.assert_array_equal(np.unique(written.array), (0, 1))  # the mask had 255
    assert grid_difference(written.geometry, GRID) is None
    description = json.loads((dataset / "dataset.json").read_text())
    assert description["channel_names"] == {"0": "MR"}
    assert (description["numTraining"], description["description"]) == (2, "test")
    assert json.loads((dataset / "splits_final.json").read_text()) == list(splits)
    with pytest.raises(DatasetError, match="there already"):
        write_dataset(whole, dataset)
    other = tmp_path / "raw" / "Dataset512_X"
    write_dataset(conversion(case, testing=(test,)), other)
    assert (other / "imagesTs/p3_0000.nii.gz").is_file()
    assert not (other / "targetsTs").exists()
    assert sorted(path.name for path in other.iterdir()) == [
        *("dataset.json", "imagesTr", "imagesTs", "masksTr", "masksTs", "targetsTr")
    ]


def test_an_interrupted_conversion_leaves_nothing(case, tmp_path, monkeypatch):
    dataset = tmp_path / "raw" / "Dataset511_X"
    real = module.write_volume

    def write(path, volume, **options):
        if "p2" in path.name:
            raise KeyboardInterrupt
        real(path, volume, **options)

    monkeypatch.setattr(module, "write_volume", write)
    with pytest.raises(KeyboardInterrupt):
        write_dataset(conversion(case, second(case, tmp_path)), dataset)
    assert list((tmp_path / "raw").iterdir()) == []


KILLED = """
import os, pathlib, sys
from gdmnet.files import whole_file, whole_folder
dataset = pathlib.Path(sys.argv[1])
with whole_folder(dataset), whole_file(dataset / "simulation/p1.npz"):
    os._exit(9)
"""


def test_what_a_killed_conversion_left_is_swept_by_the_next(tmp_path):
    dataset = tmp_path / "Dataset511_X"
    subprocess.run([sys.executable, "-c", KILLED, str(dataset)], check=False)
    assert len(list(tmp_path.rglob(".*"))) == 2
    with own_number(dataset, may_be_there=True):
        pass
    assert list(tmp_path.rglob(".*")) == []


def test_a_number_belongs_to_one_writer_at_a_time(case, tmp_path):
    raw = tmp_path / "raw"
    with (
        own_number(raw / "Dataset511_X"),
        pytest.raises(BusyError, match="Dataset511: this very process is at work here"),
    ):
        write_dataset(conversion(case), raw / "Dataset511_Other")
    (raw / "Dataset511_Mine").mkdir()  # by somebody who was quicker
    with pytest.raises(DatasetError, match="Dataset511_Mine is there already"):
        write_dataset(conversion(case), raw / "Dataset511_X")


@pytest.fixture
def finer(case, tmp_path):
    """The case with its CT on a finer, shorter grid in the same space."""
    grid = Geometry((12, 22, 20), (1.5, 1.0, 1.0), (-9.0, 6.0, 42.0))
    ct = module.regrid(read_volume(case.target), grid, fill=-1024.0)
    write_volume(tmp_path / "fine.mha", ct, integer=True)
    return CaseImages("p1", case.sources, tmp_path / "fine.mha", case.mask)


def test_grids_that_differ_are_refused_unless_resampling_is_asked_for(finer, tmp_path):
    (complaint,) = grid_complaints(conversion(finer))
    assert "p1: fine.mha on another grid" in complaint
    assert "--resample" in complaint
    with pytest.raises(DatasetError, match="another grid"):
        write_dataset(conversion(finer), tmp_path / "Dataset511_X")
    assert grid_complaints(conversion(finer, resample="target")) == []


@pytest.mark.parametrize(("resample", "stays"), [("target", "mr.mha"), ("source", "fine.mha")])
def test_only_the_one_that_was_named_is_resampled(finer, tmp_path, resample, stays):
    dataset = tmp_path / "Dataset511_X"
    write_dataset(conversion(finer, resample=resample), dataset)
    grid = read_geometry(tmp_path / stays)
    paths = [
        dataset / f"{name}.nii.gz" for name in ("imagesTr/p1_0000", "targetsTr/p1", "masksTr/p1")
    ]
    for path in paths:
        assert grid_difference(read_geometry(path), grid) is None
    kept = paths[0 if resample == "target" else 1]
    np.testing.assert_array_equal(read_volume(kept).array, read_volume(tmp_path / stays).array)
    ct = read_volume(paths[1]).array
    assert ct.min() >= -1024
    if resample == "target":  # the fine CT ends before the MR does
        assert (ct[0, -1] == -1024).all()
    assert set(np.unique(read_volume(paths[2]).array)) <= {0, 1}


@pytest.mark.parametrize("name", ["", " ", "two\nlines", "x" * 101])
def test_names_that_no_dataset_can_have_are_refused(case, name):
    with pytest.raises(DatasetError, match="cannot be called"):
        Conversion(("MR",), name, (case,))
    with pytest.raises(DatasetError, match="cannot be called"):
        Conversion((name,), "CT", (case,))


def test_images_apart_in_space_are_not_resampled(case, tmp_path):
    far = Geometry(SHAPE, GRID.spacing, (900.0, 5.0, 40.0))
    write_volume(tmp_path / "far.mha", Volume(read_volume(case.target).array, far), integer=True)
    apart = CaseImages("p1", case.sources, tmp_path / "far.mha")
    (complaint,) = grid_complaints(conversion(apart, resample="target"))
    assert "does not overlap" in complaint


def test_a_file_that_cannot_be_read_is_a_complaint(case, tmp_path):
    (tmp_path / "bad.mha").write_bytes(b"no image")
    (complaint,) = grid_complaints(conversion(CaseImages("p1", case.sources, tmp_path / "bad.mha")))
    assert complaint.startswith("p1: ")


def test_a_new_dataset_needs_a_free_number_and_a_plain_name(tmp_path):
    assert new_dataset(tmp_path, 7, "A").name == "Dataset007_A"
    assert new_dataset(tmp_path, "Dataset008_B", "A").name == "Dataset008_B"
    (tmp_path / "Dataset511_Mine").mkdir()
    assert new_dataset(tmp_path, 511, "Mine", may_be_there=True).is_dir()
    for dataset, name, text in (
        (511, "X", "there already"),
        ("Dataset511_X", "X", "there already"),
        (1000, "X", "0 to 999"),
        (-1, "X", "0 to 999"),
        ("x", "X", "0 to 999"),
        (5, "a/b", "use letters"),
    ):
        with pytest.raises(DatasetError, match=text):
            new_dataset(tmp_path, dataset, name)
