import json

import numpy as np
import pytest

from gdmnet import codec
from gdmnet.errors import DatasetError, OutputError
from gdmnet.geometry import Geometry
from gdmnet.tomography.record import (
    Acquisition,
    Simulation,
    load_acquisition,
    load_sinogram,
    save_sinogram,
)
from gdmnet.tomography.scan import Detector, Scan

ACQUISITION = Acquisition(Scan(4, 180.0, Detector(5, 1.0)), Geometry((2, 3, 3), (2.0, 1.0, 1.0)))


def test_an_acquisition_comes_back_from_its_file(tmp_path):
    simulation = Simulation("ct.nii.gz", "ab", None, 0.0, "hann", 3, "0")
    path = tmp_path / "scan.json"
    for acquisition in (
        ACQUISITION,
        Acquisition(ACQUISITION.scan, ACQUISITION.grid, 0.02, simulation),
    ):
        codec.save(acquisition, path)
        assert load_acquisition(path) == acquisition


def test_a_short_file_suffices(tmp_path):
    path = tmp_path / "scan.json"
    scan = {"n_views": 4, "arc": 180, "detector": {"n_bins": 5, "pitch": 1}}
    path.write_text(json.dumps({"scan": scan, "grid": {"shape": [2, 3, 3], "spacing": [2, 1, 1]}}))
    assert load_acquisition(path) == ACQUISITION


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scan": {"n_views": 4, "arc": 180}}, r"scan\.detector: this key is missing"),
        ({"scan": {"n_views": 4, "arc": 500, "detector": {"n_bins": 5, "pitch": 1}}}, "500 deg"),
        ({"schema": 9}, "schema 9"),
        ({"speed": 1}, r"\.speed: unknown key"),
    ],
)
def test_wrong_geometries_are_named_with_file_and_key(tmp_path, change, words):
    path = tmp_path / "scan.json"
    path.write_text(json.dumps({**codec.encode(ACQUISITION), **change}))
    with pytest.raises(DatasetError, match=words) as told:
        load_acquisition(path)
    assert str(path) in str(told.value)


def test_a_missing_geometry_is_named(tmp_path):
    with pytest.raises(DatasetError, match=r"none\.json: file not found"):
        load_acquisition(tmp_path / "none.json")


def test_sinograms_come_back_from_both_formats(tmp_path, rng):
    sinogram = rng.random((2, 4, 5)).astype(np.float32)
    save_sinogram(tmp_path / "a.npz", sinogram)
    np.save(tmp_path / "a.npy", sinogram.astype(np.float64))
    for name in ("a.npz", "a.npy"):
        found = load_sinogram(tmp_path / name, ACQUISITION)
        assert found.dtype == np.float32
        assert np.array_equal(found, sinogram)
    save_sinogram(tmp_path / "half.npz", 4 * sinogram, noisy=True)
    half = load_sinogram(tmp_path / "half.npz", ACQUISITION)
    assert half.dtype == np.float32
    assert half == pytest.approx(4 * sinogram, abs=0.002)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_single_slice_may_lack_its_axis(tmp_path, rng):
    one = Acquisition(ACQUISITION.scan, Geometry((1, 3, 3), (2.0, 1.0, 1.0)))
    np.save(tmp_path / "a.npy", rng.random((4, 5)))
    assert load_sinogram(tmp_path / "a.npy", one).shape == (1, 4, 5)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((2, 5, 4)), r"\(2, 5, 4\), but its geometry says \(2, 4, 5\)"),
        (np.full((2, 4, 5), np.nan), "NaN"),
        (np.array(["a"]), "exactly one array of numbers"),
    ],
)
def test_wrong_sinograms_are_refused(tmp_path, array, words):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(DatasetError, match=words):
        load_sinogram(tmp_path / "a.npy", ACQUISITION)


def test_what_is_no_array_is_refused(tmp_path):
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 broken")
    np.savez(tmp_path / "two.npz", a=np.zeros(3), b=np.zeros(3))
    for name, words in (
        ("text.npy", "not a .npy or .npz"),
        ("broken.npz", "not a .npy or .npz"),
        ("two.npz", "exactly one array"),
        ("none.npy", "file not found"),
    ):
        with pytest.raises(DatasetError, match=words):
            load_sinogram(tmp_path / name, ACQUISITION)


def test_a_sinogram_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        save_sinogram(tmp_path / "file" / "a.npz", np.zeros(3))
