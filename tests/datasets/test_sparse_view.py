import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dicoms import write_series
from directions import oblique_direction

from gdmnet.data.case import Volume
from gdmnet.data.check import check_dataset
from gdmnet.data.raw import read_description
from gdmnet.data.volume import read_geometry, read_volume, write_volume
from gdmnet.datasets.phantom import make_patient
from gdmnet.datasets.sparse_view import (
    CtVolume,
    choose_test_cases,
    find_ct_volumes,
    read_ct,
    write_sparse_view_dataset,
)
from gdmnet.errors import DatasetError, SettingError
from gdmnet.geometry import Geometry, nearest_lps
from gdmnet.planning.planner import residual_channel
from gdmnet.tomography.fbp import reconstruct
from gdmnet.tomography.projection import hounsfield
from gdmnet.tomography.scan import ScanSettings, load_acquisition, load_sinogram

SHAPE, SPACING = (4, 30, 40), (3.0, 6.0, 4.5)
QUICK = ScanSettings(views=30)


@pytest.fixture(scope="module")
def cts(tmp_path_factory):
    """Three patients on a rectangular, oblique grid, padded outside the scanner's field."""
    folder = tmp_path_factory.mktemp("cts")
    axes, flips = nearest_lps(oblique_direction())
    geometry = Geometry(SHAPE, SPACING, (-40.0, 12.0, -300.0), oblique_direction(), axes, flips)
    for seed, name in enumerate("abc"):
        _, ct, _ = make_patient(np.random.default_rng(seed), SHAPE)
        ct[:, 0, 0] = -3024
        write_volume(folder / f"{name}.nrrd", Volume(ct[None], geometry), integer=True)
    return find_ct_volumes(folder)


def write(folder, cts, settings=QUICK, **options):
    return write_sparse_view_dataset(folder, cts[:2], cts[2:], settings, **options)


def voxels(path):
    return read_volume(path).array[0]


@pytest.fixture(scope="module")
def dataset(cts, tmp_path_factory):
    """Written once; do not write into it."""
    folder = tmp_path_factory.mktemp("raw") / "Dataset502_SparseView30"
    written = write(folder, cts, keep_sinograms=True)
    assert written == ["a", "b", "c"]
    return folder


def test_a_dataset_lies_in_the_raw_layout_and_passes_the_check(dataset):
    files = sorted(str(p.relative_to(dataset)) for p in dataset.rglob("*") if p.is_file())
    assert files == [
        "dataset.json",
        "imagesTr/a_0000.nii.gz",
        "imagesTr/b_0000.nii.gz",
        "imagesTs/c_0000.nii.gz",
        *(f"simulation/{name}.{ending}" for name in "abc" for ending in ("json", "npz")),
        "targetsTr/a.nii.gz",
        "targetsTr/b.nii.gz",
        "targetsTs/c.nii.gz",
    ]
    assert check_dataset(dataset, n_processes=1) == []


def test_the_network_learns_the_difference_of_two_ct(dataset):
    description = read_description(dataset)
    assert residual_channel(description.channel_names, description.target_name) == 0
    assert description.metadata["simulation"]["views"] == 30
    assert description.metadata["simulation"]["filter"] == "hann"


def test_targets_are_the_ct_without_padding_on_its_grid(dataset, cts):
    ct = read_volume(cts[0].source)
    target = voxels(dataset / "targetsTr/a.nii.gz")
    assert ct.array.min() == -3024
    assert np.array_equal(target, np.maximum(ct.array[0], -1024))
    for path in ("targetsTr/a.nii.gz", "imagesTr/a_0000.nii.gz"):
        geometry = read_geometry(dataset / path)
        assert geometry.shape == SHAPE
        assert geometry.spacing == pytest.approx(SPACING, rel=1e-5)
        assert geometry.itk_direction == pytest.approx(oblique_direction(), abs=1e-5)


def test_sources_look_like_their_targets(dataset):
    for part, name in (("Tr", "a"), ("Ts", "c")):
        source = voxels(dataset / f"images{part}/{name}_0000.nii.gz")
        target = voxels(dataset / f"targets{part}/{name}.nii.gz")
        errors = {
            turn: np.abs(turned - target).mean()
            for turn, turned in (
                ("as it is", source),
                ("upside down", source[::-1]),
                ("front to back", source[:, ::-1]),
                ("left to right", source[:, :, ::-1]),
            )
        }
        assert min(errors, key=errors.get) == "as it is"
        assert errors["as it is"] < 120


def test_the_record_and_the_sinogram_give_the_source_again(dataset):
    acquisition = load_acquisition(dataset / "simulation/b.json")
    sinogram = load_sinogram(dataset / "simulation/b.npz", acquisition)
    grid = acquisition.slice_grid
    mu = reconstruct(sinogram, grid, acquisition.scan, window="hann")
    source = voxels(dataset / "imagesTr/b_0000.nii.gz")
    difference = np.abs(hounsfield(mu, acquisition.mu_water) - source)
    assert difference.max() < 6  # the sinogram is kept in half precision
    assert difference.mean() < 1
    assert acquisition.scan.detector.pitch == 1.0  # and not the pixels' 4.5 mm
    assert acquisition.simulation.source == "b.nrrd"
    assert acquisition.simulation.photons == 1e5
    assert (acquisition.scan.n_views, acquisition.scan.arc) == (30, 180)


def test_a_rerun_keeps_what_is_there_and_mends_what_is_missing(dataset, cts, tmp_path):
    folder = tmp_path / "Dataset502_Again"
    write(folder, cts, keep_sinograms=True)
    (folder / "imagesTr/b_0000.nii.gz").unlink()
    (folder / "dataset.json").unlink()
    untouched = (folder / "imagesTr/a_0000.nii.gz").stat().st_mtime_ns
    again = write(folder, cts, keep_sinograms=True)
    assert again == ["b"]
    assert (folder / "imagesTr/a_0000.nii.gz").stat().st_mtime_ns == untouched
    assert (folder / "dataset.json").is_file()
    name = "imagesTr/b_0000.nii.gz"
    assert np.array_equal(voxels(folder / name), voxels(dataset / name))


def test_order_and_processes_do_not_change_the_noise(dataset, cts, tmp_path):
    folder = tmp_path / "Dataset502_Order"
    write_sparse_view_dataset(folder, [cts[1], cts[0]], [cts[2]], QUICK, n_processes=2)
    for name in ("imagesTr/a_0000.nii.gz", "imagesTr/b_0000.nii.gz", "imagesTs/c_0000.nii.gz"):
        assert np.array_equal(voxels(folder / name), voxels(dataset / name))
    assert not (folder / "simulation/a.npz").exists()


def test_seed_and_case_decide_the_noise(dataset, cts, tmp_path):
    twin = replace(cts[0], name="twin")
    write_sparse_view_dataset(tmp_path / "Dataset502_Twin", [twin], [], QUICK)
    write_sparse_view_dataset(tmp_path / "Dataset503_Seed", cts[:1], [], replace(QUICK, seed=1))
    first = voxels(dataset / "imagesTr/a_0000.nii.gz")
    assert not np.array_equal(voxels(tmp_path / "Dataset502_Twin/imagesTr/twin_0000.nii.gz"), first)
    assert not np.array_equal(voxels(tmp_path / "Dataset503_Seed/imagesTr/a_0000.nii.gz"), first)


def test_other_settings_in_the_same_folder_are_refused(dataset, cts):
    with pytest.raises(DatasetError, match=r"a\.json: was made with simulation\.photons 100000\.0"):
        write(dataset, cts, ScanSettings(views=30, photons=1e4))
    with pytest.raises(DatasetError, match=r"scan\.n_views 30 instead of 20"):
        write(dataset, cts, ScanSettings(views=20))


def test_other_cases_in_the_same_folder_are_refused(dataset, cts):
    with pytest.raises(DatasetError, match=r"b_0000\.nii\.gz: is no case of this simulation"):
        write_sparse_view_dataset(dataset, cts[:1], cts[1:], QUICK)


@pytest.mark.parametrize("detector", ["flat", "curved"])
def test_fans_are_simulated_too(dataset, cts, tmp_path, detector):
    folder = tmp_path / "Dataset502_Fan"
    settings = ScanSettings(views=60, geometry="fan", arc=360.0, detector=detector, photons=None)
    write_sparse_view_dataset(folder, cts[:1], [], settings)
    scan = load_acquisition(folder / "simulation/a.json").scan
    assert (scan.source_distance, scan.detector.shape) == (595.0, detector)
    fan, parallel = (voxels(f / "imagesTr/a_0000.nii.gz") for f in (folder, dataset))
    target = voxels(dataset / "targetsTr/a.nii.gz")
    assert np.abs(fan - target).mean() < 1.1 * np.abs(parallel - target).mean()
    description = json.loads((folder / "dataset.json").read_text())
    assert description["simulation"]["photons"] is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"geometry": "cone"}, "geometry 'cone' is unknown; take one of parallel, fan"),
        ({"filter": "box"}, "filter 'box' is unknown; take one of ram-lak"),
        ({"photons": 0.0}, "photons must be above 0 and at most 1e12, not 0"),
        ({"mu_water": -1.0}, "mu_water must be at least 0.001 and"),
        ({"pitch": 0.0}, "pitch must be at least 0.01 and"),
        ({"electronic_noise": -1.0}, "electronic_noise must be at least 0 and"),
    ],
)
def test_impossible_settings_are_refused_by_name(options, words):
    with pytest.raises(SettingError, match=words):
        ScanSettings(**options)


@pytest.mark.real
def test_a_real_ct_keeps_its_grid_and_its_values(shared, tmp_path):
    found = {ct.name: ct for ct in find_ct_volumes(shared / "data/ct/train")}
    folder = tmp_path / "Dataset502_Real"
    write_sparse_view_dataset(folder, [found["ct_msd_spleen_crop"]], [], ScanSettings(views=60))
    source = read_volume(folder / "imagesTr/ct_msd_spleen_crop_0000.nii.gz")
    target = read_volume(folder / "targetsTr/ct_msd_spleen_crop.nii.gz")
    assert source.geometry == target.geometry
    body = target.array > -500  # reaches the corners of this crop
    assert np.abs(source.array - target.array)[body].mean() < 40


NAMES = ["a", "b", "c", "d", "e"]


def choose(names=NAMES, *, split=None, fraction=0.0, seed=1):
    """Names of the training and of the test cases."""
    cts = [CtVolume(name, Path(f"{name}.nii.gz")) for name in names]
    return tuple([ct.name for ct in part] for part in choose_test_cases(cts, split, fraction, seed))


def write_ramp(path, low=-1000.0, high=60.0):
    ramp = np.linspace(low, high, 60, dtype=np.float32).reshape(1, 3, 4, 5)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_volume(path, Volume(ramp, Geometry((3, 4, 5), (3.0, 1.0, 1.0))))


def test_images_are_found_at_any_depth_and_named_as_cases(tmp_path):
    write_ramp(tmp_path / "b_0000.nii.gz")
    write_ramp(tmp_path / "deep" / "a.mha")
    write_ramp(tmp_path / ".hidden" / "x.nii.gz")
    write_ramp(tmp_path / ".y.nrrd")
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
    write_ramp(tmp_path / "x" / "a.nii.gz")
    write_ramp(tmp_path / "y" / "a.nii.gz")
    with pytest.raises(DatasetError, match="the case a is there twice"):
        find_ct_volumes(tmp_path)


def test_nothing_found_is_said(tmp_path):
    with pytest.raises(DatasetError, match="no CT here"):
        find_ct_volumes(tmp_path)
    with pytest.raises(DatasetError, match="no such folder"):
        find_ct_volumes(tmp_path / "none")


def test_what_is_not_in_hounsfield_units_is_refused(tmp_path):
    write_ramp(tmp_path / "a.nii.gz", low=0.0, high=1.0)
    write_ramp(tmp_path / "b.nii.gz", low=5.0, high=5.0)
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
