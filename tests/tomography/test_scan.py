import json
import os

import numpy as np
import pytest

from gdmnet import codec
from gdmnet.errors import DatasetError, GdmnetError, OutputError, SettingError
from gdmnet.geometry import Geometry
from gdmnet.tomography.scan import (
    Acquisition,
    Detector,
    Grid,
    Scan,
    Simulation,
    covering_scan,
    load_acquisition,
    load_sinogram,
    save_sinogram,
)

FORMS = {"codes": [1, 0], "pixdim": [1, 1, 1, 1], "qform": [0] * 6, "sform": [0] * 12}
GRID = Grid((20, 30), (2.0, 1.5))
ACQUISITION = Acquisition(Scan(4, 180.0, Detector(5, 1.0)), Geometry((2, 3, 3), (2.0, 1.0, 1.0)))


def test_the_end_of_the_arc_is_no_view():
    scan = Scan(60, 180.0, Detector(5, 1.0), start=10.0)
    angles = np.rad2deg(scan.angles())
    assert angles[0] == pytest.approx(10)
    assert angles[-1] == pytest.approx(187)
    assert np.diff(angles) == pytest.approx(np.full(59, 3.0))


def test_bins_are_centred_and_shifted_by_the_offset():
    assert Scan(1, 180.0, Detector(4, 2.0)).positions() == pytest.approx([-3, -1, 1, 3])
    shifted = Scan(1, 180.0, Detector(4, 2.0, offset=0.25))
    assert shifted.positions() == pytest.approx([-2.5, -0.5, 1.5, 3.5])


@pytest.mark.parametrize("shape", ["flat", "curved"])
def test_the_rays_of_a_fan_pass_the_isocentre_at_their_distance(shape):
    scan = Scan(8, 360.0, Detector(9, 10.0, shape), source_distance=100.0, start=20.0)
    for angle in scan.angles():
        source = 100 * np.array([np.sin(angle), -np.cos(angle)])
        for position, gamma, distance in zip(
            scan.positions(), scan.fan_angles(), scan.distances(), strict=True
        ):
            if shape == "flat":
                bin_place = position * np.array([np.cos(angle), np.sin(angle)])
            else:  # on the arc about the source, as many mm along it
                turned = angle - position / 100
                bin_place = source + 100 * np.array([-np.sin(turned), np.cos(turned)])
            direction = bin_place - source
            normal = np.array([direction[1], -direction[0]]) / np.linalg.norm(direction)
            assert normal @ source == pytest.approx(distance)
            theta = angle - gamma
            assert normal == pytest.approx([np.cos(theta), np.sin(theta)])


def test_a_detector_behind_the_patient_is_magnified():
    near = Scan(4, 360.0, Detector(9, 1.0), source_distance=500.0)
    far = Scan(4, 360.0, Detector(9, 2.0), source_distance=500.0, detector_distance=1000.0)
    assert far.positions() == pytest.approx(near.positions())
    assert far.distances() == pytest.approx(near.distances())


@pytest.mark.parametrize(
    ("source", "shape"), [(None, "flat"), (60.0, "flat"), (60.0, "curved"), (595.0, "curved")]
)
def test_a_covering_scan_sees_the_corners_and_hardly_more(source, shape):
    scan = covering_scan(GRID, 10, arc=360.0, source_distance=source, shape=shape)
    assert GRID.radius() == pytest.approx(np.hypot(20, 22.5))
    assert GRID.radius() <= scan.radius()
    assert np.abs(scan.distances()[1:-1]).max() < GRID.radius()


def test_a_finer_detector_sees_as_much():
    scan = covering_scan(GRID, 10, arc=180.0, pitch=0.5)
    assert scan.pitch() == 0.5
    assert GRID.radius() <= scan.radius() < GRID.radius() + 1


def test_the_radius_ends_where_the_nearer_end_of_the_detector_does():
    assert Scan(4, 180.0, Detector(10, 2.0)).radius() == pytest.approx(10)
    assert Scan(4, 180.0, Detector(10, 2.0, offset=2.0)).radius() == pytest.approx(6)


def test_a_source_inside_the_slice_is_refused():
    with pytest.raises(DatasetError, match=r"30 mm from its middle.*--source-distance"):
        covering_scan(GRID, 10, arc=360.0, source_distance=30.0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n_views": 0}, "n_views must be at least 1 and"),
        ({"n_views": 10**11}, r"n_views must be .* at most 10000, not"),
        ({"arc": 0.0}, "arc must be above 0"),
        ({"arc": 400.0}, r"arc must be .* at most 360"),
        ({"source_distance": 0.0}, "source_distance must be at least 1 "),
        ({"detector": Detector(5, 1.0, "curved")}, "parallel beam has a flat detector"),
        ({"detector_distance": 900.0}, "parallel beam has a flat detector"),
        ({"detector": Detector(999, 1.0, "curved"), "source_distance": 100.0}, "behind the source"),
    ],
)
def test_impossible_scans_are_refused_in_words(options, words):
    with pytest.raises(GdmnetError, match=words):
        Scan(**{"n_views": 4, "arc": 180.0, "detector": Detector(5, 1.0), **options})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ((1, 1.0), "n_bins must be at least 2 "),
        ((10**12, 1.0), r"n_bins must be .* at most 10000"),
        ((5, -1.0), r"pitch must be at least 0\.001 "),
        ((5, 1e-300), r"pitch must be at least 0\.001"),
        ((5, float("nan")), "pitch"),
        ((5, 1.0, "round"), "'round' is unknown; take one of flat, curved"),
        ((5, 1.0, "flat", float("inf")), "offset"),
    ],
)
def test_impossible_detectors_are_refused_in_words(values, words):
    with pytest.raises(SettingError, match=words):
        Detector(*values)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("scan.n_views", 10**11),
        ("scan.start", 1e300),
        ("scan.detector.n_bins", 2**31),
        ("scan.detector.offset", 1e12),
        ("grid.shape", [1, 2**31, 2]),
        ("grid.shape", [0, 3, 3]),
        ("grid.spacing", [1.0, 1e-12, 1.0]),
        ("grid.spacing", [1.0, 1e12, 1.0]),
        ("grid.itk_origin", [1e400, 0, 0]),
        ("grid.itk_direction", [0] * 9),
        ("grid.itk_direction", [1, 0, 0]),
        ("grid.axes", [0, 0, 7]),
        ("grid.forms", {**FORMS, "codes": [70000, 1]}),
        ("grid.forms", {**FORMS, "qform": [0]}),
        ("grid.forms", {**FORMS, "sform": [1e300] * 12}),
        ("mu_water", 1e-40),
    ],
)
def test_a_geometry_that_would_exhaust_or_crash_is_refused_where_it_is_read(tmp_path, path, value):
    data = codec.encode(ACQUISITION)
    *parents, key = path.split(".")
    place = data
    for name in parents:
        place = place[name]
    place[key] = value
    (tmp_path / "scan.json").write_text(json.dumps(data))
    with pytest.raises(DatasetError, match=r"scan\.json") as told:
        load_acquisition(tmp_path / "scan.json")
    assert "\n" not in str(told.value)


def test_a_scan_goes_to_json_and_back():
    scan = Scan(7, 200.0, Detector(9, 1.25, "curved", 0.25), 595.0, 1085.6, 3.0)
    assert codec.decode(Scan, codec.encode(scan)) == scan


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
        (
            {"scan": {"n_views": 4, "arc": 500, "detector": {"n_bins": 5, "pitch": 1}}},
            "at most 360",
        ),
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
        (np.full((2, 4, 5), 1e300), "no line integral has"),
        (np.array(["a"]), "exactly one array of numbers"),
    ],
)
def test_wrong_sinograms_are_refused(tmp_path, array, words):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(DatasetError, match=words):
        load_sinogram(tmp_path / "a.npy", ACQUISITION)


def test_what_is_no_array_is_refused(tmp_path):
    (tmp_path / "text.npy").write_text("no array")
    os.mkfifo(tmp_path / "pipe.npy")
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 broken")
    np.savez(tmp_path / "two.npz", a=np.zeros(3), b=np.zeros(3))
    for name, words in (
        ("text.npy", "not a .npy or .npz"),
        ("broken.npz", "not a .npy or .npz"),
        ("two.npz", "exactly one array"),
        ("none.npy", "file not found"),
        ("pipe.npy", "file not found"),
    ):
        with pytest.raises(DatasetError, match=words):
            load_sinogram(tmp_path / name, ACQUISITION)


def test_a_sinogram_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        save_sinogram(tmp_path / "file" / "a.npz", np.zeros(3))
