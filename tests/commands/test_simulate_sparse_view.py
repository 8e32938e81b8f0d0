import json

import numpy as np
import pytest
from ellipses import MU, inside, line_integrals, water_and_air

from gdmnet import codec
from gdmnet.commands import plan_and_preprocess
from gdmnet.commands.simulate_sparse_view import main
from gdmnet.data.case import Volume
from gdmnet.data.volume import read_volume, write_volume
from gdmnet.datasets.phantom import make_patient
from gdmnet.geometry import Geometry
from gdmnet.tomography.scan import Acquisition, Grid, covering_scan

SHAPE = (6, 24, 24)


@pytest.fixture
def home(tmp_path):
    (tmp_path / "ct").mkdir()
    for seed, name in enumerate(("p1", "p2", "p3")):
        _, ct, _ = make_patient(np.random.default_rng(seed), SHAPE)
        volume = Volume(ct[None], Geometry(SHAPE, (4.0, 5.0, 5.0)))
        write_volume(tmp_path / "ct" / f"{name}.nii.gz", volume, integer=True)
    return tmp_path


def call(home, *options):
    return main(
        ["-i", str(home / "ct"), "-d", "502", f"--raw={home / 'raw'}", "-np", "1", *options]
    )


def description(home, name):
    return json.loads((home / "raw" / name / "dataset.json").read_text())


def test_one_call_makes_a_dataset_that_can_be_planned(home, capsys):
    assert call(home, "--views", "20") == 0
    said = capsys.readouterr().out
    assert "Dataset502_SparseView20: 3 cases simulated, 0 there already" in said
    assert "next: gdm_plan_and_preprocess 502" in said
    settings = description(home, "Dataset502_SparseView20")["simulation"]
    assert settings["geometry"] == "parallel"
    assert settings["arc"] == 180
    assert settings["photons"] == 1e5
    assert settings["electronic_noise"] == 0
    assert settings["filter"] == "hann"
    assert settings["mu_water"] == 0.0192
    assert settings["seed"] == 0
    roots = [f"--{root}={home / root}" for root in ("raw", "preprocessed", "results")]
    assert plan_and_preprocess.main(["-d", "502", "--dry-run", "-np", "1", *roots]) == 0
    assert "is the same quantity as the target" in capsys.readouterr().out
    assert call(home, "--views", "20") == 0
    assert "0 cases simulated, 3 there already" in capsys.readouterr().out


def test_several_views_make_consecutive_datasets(home):
    assert call(home, "--views", "10,20", "--name", "Few") == 0
    for name, views in (("Dataset502_Few10", 10), ("Dataset503_Few20", 20)):
        assert description(home, name)["simulation"]["views"] == views
        tests = list((home / "raw" / name / "imagesTs").iterdir())
        assert len(tests) == 1  # a fifth of three, rounded


def test_defaults_follow_the_geometry_and_the_noise(home):
    assert call(home, "--views", "9", "--geometry", "fan", "--photons", "inf") == 0
    settings = description(home, "Dataset502_SparseView9")["simulation"]
    assert (settings["arc"], settings["filter"], settings["photons"]) == (360, "ram-lak", None)


def test_the_pitch_is_an_option(home):
    assert call(home, "--views", "9", "--pitch", "3") == 0
    record = next((home / "raw/Dataset502_SparseView9/simulation").glob("*.json"))
    assert json.loads(record.read_text())["scan"]["detector"]["pitch"] == 3


def test_a_split_is_followed(home):
    split = home / "split.json"
    split.write_text(json.dumps({"train": ["p3"], "test": ["p1"]}))
    assert call(home, "--views", "5", "--split", str(split), "--keep-sinograms") == 0
    folder = home / "raw" / "Dataset502_SparseView5"
    assert [p.name for p in (folder / "imagesTr").iterdir()] == ["p3_0000.nii.gz"]
    assert [p.name for p in (folder / "targetsTs").iterdir()] == ["p1.nii.gz"]
    assert sorted(p.name for p in (folder / "simulation").glob("*.npz")) == ["p1.npz", "p3.npz"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--test-fraction", "1.5"], "--test-fraction 1.5"),
        (["--name", "a/b"], "'a/b' is no name for a dataset: use letters"),
        (["--name", "x" * 150], "use letters, digits and _ - . +, at most 100"),
        (["--views", "5", "--arc", "500"], "arc must be above 0 and at most 360"),
        (["--geometry", "fan", "--source-distance", "50"], "--source-distance"),
        (["--split", "none.json"], "none.json: file not found"),
    ],
)
def test_refusals_are_one_line_and_status_two(home, capsys, options, words):
    try:
        status = call(home, *options)
    except SystemExit as stop:  # what the parser refuses
        status = stop.code
    assert status == 2
    told = capsys.readouterr().err.strip()
    assert told.count("\n") == 0
    assert told.startswith("error: ")
    assert words in told


def test_a_number_that_is_taken_is_refused(home, capsys):
    (home / "raw" / "Dataset502_Other").mkdir(parents=True)
    assert call(home) == 2
    assert "Dataset502_Other is there already" in capsys.readouterr().err
    (home / "raw" / "Dataset502_Other").rmdir()
    (home / "raw" / "Dataset503_Other").mkdir()
    assert call(home, "--views", "5,6") == 2
    assert not (home / "raw" / "Dataset502_SparseView5").exists()


@pytest.mark.parametrize(
    "option",
    [
        "--views=100000000000",
        "--pitch=1e-9",
        "--views=0",
        "--views=20,20",
        "--views=a",
        "--views=-3",
        "--photons=-5",
        "--scan=x",
    ],
)
def test_impossible_options_are_refused(home, option, capsys):
    try:
        status = call(home, option)
    except SystemExit as stop:  # what the parser refuses
        status = stop.code
    assert status == 2
    assert capsys.readouterr().err.count("\n") == 1


GRID = Grid((40, 48), (2.0, 1.75))
SHAPES = water_and_air(30.0)


@pytest.fixture
def measured(tmp_path):
    """The line integrals of a water cylinder with air in it and of an empty slice."""
    scan = covering_scan(GRID, 180, arc=180.0)
    geometry = Geometry((2, 40, 48), (3.0, 2.0, 1.75), (-20.0, 5.0, 100.0))
    codec.save(Acquisition(scan, geometry, MU), tmp_path / "scan.json")
    sinogram = line_integrals(SHAPES, scan)
    np.save(tmp_path / "sinogram.npy", np.concatenate([sinogram, 0 * sinogram]))
    return tmp_path


def reconstruct(home, *options, output="out/ct.nii.gz", sinogram="sinogram.npy"):
    files = ["-i", home / sinogram, "--scan", home / "scan.json", "-o", home / output]
    return main(["--from-sinograms", *(str(item) for item in files), *options])


@pytest.mark.parametrize("options", [[], ["--filter", "ram-lak"]])
def test_a_sinogram_becomes_a_ct_in_hounsfield_units(measured, capsys, options):
    assert reconstruct(measured, *options) == 0
    assert "written: " in capsys.readouterr().out
    volume = read_volume(measured / "out/ct.nii.gz")
    assert volume.geometry.itk_origin == pytest.approx((-20, 5, 100))
    assert volume.geometry.spacing == pytest.approx((3, 2, 1.75))
    y, x = GRID.coordinates()
    water, air = SHAPES
    hu = volume.array[0]
    deep = inside(water, y[:, None], x, 5) & ~inside(air, y[:, None], x, -5)
    assert abs(hu[0][deep].mean()) < 5
    assert abs(hu[0][inside(air, y[:, None], x, 4)].mean() + 1000) < 15
    assert (hu[1] == -1000).all()
    assert (hu == np.rint(hu)).all()


def test_the_scan_lies_beside_the_sinogram_unless_it_is_named(measured):
    (measured / "scan.json").rename(measured / "sinogram.json")
    files = ["-i", str(measured / "sinogram.npy"), "-o", str(measured / "ct.mha")]
    assert main(["--from-sinograms", *files]) == 0
    assert read_volume(measured / "ct.mha").geometry.shape == (2, 40, 48)


def test_sinograms_that_do_not_fit_are_refused_in_one_line(measured, capsys):
    for change, words in (
        ({"output": "ct.dcm"}, "unknown file ending"),
        ({"sinogram": "none.npy"}, "none.npy: file not found"),
        ({"sinogram": "scan.json"}, "not a .npy or .npz"),
    ):
        assert reconstruct(measured, **change) == 2
        told = capsys.readouterr().err.strip()
        assert told.startswith("error: ")
        assert told.count("\n") == 0
        assert words in told
    data = json.loads((measured / "scan.json").read_text())
    data["scan"]["n_views"] = 90
    (measured / "scan.json").write_text(json.dumps(data))
    assert reconstruct(measured) == 2
    assert "(2, 180, 69), but its geometry says (2, 90, 69)" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["502"], ["--views", "20"], ["--keep-sinograms"]])
def test_what_is_simulated_has_no_place_in_a_reconstruction(measured, words):
    assert reconstruct(measured, *words) == 2
