import json

import numpy as np
import pytest
from directions import oblique_direction

from gdmnet.data.case_files import FORMATS
from gdmnet.data.volume import read_geometry, read_volume
from gdmnet.datasets.phantom import (
    KINDS,
    TISSUES,
    Scanner,
    coarsen,
    is_body,
    look_up,
    make_patient,
    patient,
    smooth_noise,
    write_phantom_dataset,
)

TINY = (24, 24, 24)


def write(folder, **options):
    return write_phantom_dataset(folder, n_train=2, n_test=1, shape=TINY, **options)


def voxels(path):
    return read_volume(path).array


def test_a_dataset_lies_in_the_raw_layout(tmp_path):
    folder = write(tmp_path, scanner=Scanner(masks=True))
    assert folder == tmp_path / "Dataset999_Phantom"
    files = sorted(str(p.relative_to(folder)) for p in folder.rglob("*.nii.gz"))
    assert files == [
        "imagesTr/phantom_01_0000.nii.gz",
        "imagesTr/phantom_02_0000.nii.gz",
        "imagesTs/phantom_03_0000.nii.gz",
        "masksTr/phantom_01.nii.gz",
        "masksTr/phantom_02.nii.gz",
        "masksTs/phantom_03.nii.gz",
        "targetsTr/phantom_01.nii.gz",
        "targetsTr/phantom_02.nii.gz",
        "targetsTs/phantom_03.nii.gz",
    ]
    description = json.loads((folder / "dataset.json").read_text())
    assert description["channel_names"] == {"0": "MR"}
    assert description["target_name"] == "CT"
    assert description["numTraining"] == 2


def test_the_same_seed_gives_the_same_voxels_and_another_seed_others(tmp_path):
    first, again = write(tmp_path / "a", seed=3), write(tmp_path / "b", seed=3)
    other = write(tmp_path / "c", seed=4)
    name = "targetsTr/phantom_01.nii.gz"
    assert np.array_equal(voxels(first / name), voxels(again / name))
    assert not np.array_equal(voxels(first / name), voxels(other / name))


def test_patients_differ_from_each_other(rng):
    first, second = (make_patient(rng, TINY)[1] for _ in range(2))
    assert np.abs(first - second).mean() > 20


def test_test_patients_do_not_depend_on_the_images_that_are_stored_around_them(tmp_path):
    zipped = write(tmp_path / "a")
    plain = write(tmp_path / "b", scanner=Scanner(file_ending=".mha", masks=True))
    assert np.array_equal(
        voxels(zipped / "targetsTs/phantom_03.nii.gz"), voxels(plain / "targetsTs/phantom_03.mha")
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_its_channels_and_some_contrast(kind, rng):
    sources, target, body = make_patient(rng, TINY, kind=kind)
    assert sources.shape == (1, *TINY)
    assert target.shape == body.shape == TINY
    assert 0.2 < body.mean() < 0.8
    for image in (*sources, target):
        assert np.isfinite(image).all()
        assert image[body > 0].std() > 0.2 * abs(image[body > 0].mean())


def test_ct_is_in_hu_with_air_lung_soft_tissue_and_bone(rng):
    _, ct, body = make_patient(rng, (24, 48, 48))
    assert abs(np.median(ct[body == 0]) + 1000) < 10
    assert np.percentile(ct[body > 0], 5) < -700
    assert -30 < np.median(ct[body > 0]) < 90
    assert ct.max() > 700


def test_ct_has_texture_that_the_mr_does_not_show(rng):
    # inside one organ, neighbouring voxels of the CT differ by about the organ's own texture
    _, ct, body = make_patient(rng, (24, 48, 48))
    soft = (ct > 20) & (ct < 120) & (body > 0)
    pairs = soft[:, :, 1:] & soft[:, :, :-1]
    assert 10 < np.abs(np.diff(ct, axis=2))[pairs].mean() < 40


def test_mr_air_is_noise_and_zero_background_kinds_have_exact_zeros(rng):
    mr, _, body = make_patient(rng, TINY, kind="mr2ct")
    assert (mr[0][body == 0] > 0).mean() > 0.99
    t1, t2, body = make_patient(rng, TINY, kind="t1tot2")
    assert (t1[0][body == 0] == 0).all()
    assert (t2[body == 0] == 0).all()


def test_up_is_up_and_left_is_left(rng):
    # lungs above, liver below and on the patient's right, spine at the back: LPS, (z, y, x)
    for _ in range(3):
        sources, ct, body = make_patient(rng, (32, 48, 48))
        z, y, x = (axis - np.mean(axis[body > 0]) for axis in np.indices(ct.shape))
        lung = (ct < -600) & (body > 0)
        spine = (ct > 500) & (np.abs(x) < 6)
        assert z[lung].mean() > 3
        assert y[spine].mean() > 3
        below = z < -10
        bright = (sources[0] > 0) & below & (np.abs(ct - 70) < 30) & (body > 0)
        weights = sources[0][bright]
        assert np.average(x[bright], weights=weights) < x[bright].mean()


def test_a_single_slice_is_a_patient_too(tmp_path):
    folder = write_phantom_dataset(tmp_path, n_train=1, n_test=0, shape=(1, 32, 32))
    assert voxels(folder / "targetsTr/phantom_01.nii.gz").shape[1] == 1


def test_shapes_vary_unless_asked_not_to(tmp_path):
    varied = write_phantom_dataset(tmp_path / "a", n_train=4, n_test=0, shape=(24, 30, 40))
    equal = write_phantom_dataset(
        tmp_path / "b",
        n_train=4,
        n_test=0,
        shape=(24, 30, 40),
        scanner=Scanner(varied_shapes=False),
    )
    shapes = {read_geometry(p).shape for p in (varied / "targetsTr").iterdir()}
    assert len(shapes) > 1
    assert all(22 <= z <= 24 and 27 <= y <= 30 and 36 <= x <= 40 for z, y, x in shapes)
    assert {read_geometry(p).shape for p in (equal / "targetsTr").iterdir()} == {(24, 30, 40)}


@pytest.mark.parametrize("ending", FORMATS)
def test_an_oblique_grid_is_stored_in_every_format(tmp_path, ending):
    scanner = Scanner((3.0, 1.5, 1.25), oblique_direction(15), ending)
    folder = write(tmp_path, scanner=scanner)
    geometry = read_geometry(folder / f"imagesTr/phantom_01_0000{ending}")
    assert np.allclose(geometry.spacing, (3.0, 1.5, 1.25), atol=1e-5)
    assert np.allclose(geometry.itk_direction, oblique_direction(15), atol=1e-5)


def test_a_patient_stored_in_other_axes_is_the_same_patient(tmp_path):
    name = "targetsTr/phantom_01.mha"
    straight = write(tmp_path / "a", scanner=Scanner(file_ending=".mha"))
    sagittal = (0.0, 0.0, -1.0, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0)
    turned = write(tmp_path / "b", scanner=Scanner(itk_direction=sagittal, file_ending=".mha"))
    assert read_geometry(turned / name).axes != (0, 1, 2)
    assert np.array_equal(voxels(straight / name), voxels(turned / name))


def test_an_oblique_direction_is_a_rotation():
    matrix = np.reshape(oblique_direction(20), (3, 3))
    assert np.allclose(matrix @ matrix.T, np.eye(3))
    assert np.isclose(np.linalg.det(matrix), 1)


def test_coarsening_takes_means_of_blocks():
    fine = np.arange(2 * 4 * 4, dtype=np.float32).reshape(2, 4, 4)
    coarse = coarsen(fine, (1, 2, 2))
    expected = [
        [fine[:, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].mean() for x in range(2)] for y in range(2)
    ]
    assert np.allclose(coarse[0], expected)


def test_a_patient_is_painted_twice_as_fine_as_it_is_scanned(rng):
    assert patient(rng, (24, 26, 28)).shape == (48, 52, 56)
    assert patient(rng, (1, 26, 28)).shape == (1, 52, 56)


def test_every_tissue_is_found_in_a_few_patients(rng):
    found = set()
    for _ in range(3):
        found |= set(np.unique(patient(rng, (24, 40, 40))))
    assert found == set(range(len(TISSUES)))


def test_looking_up_lays_values_over_numbers():
    tissue = np.array([[0, 2], [1, 0]], dtype=np.uint8)  # air, muscle; fat, air
    assert np.array_equal(look_up(tissue, "CT"), [[-1000, 55], [-105, -1000]])
    assert np.array_equal(look_up(tissue, "T2"), np.float32([[0.0, 0.25], [0.6, 0.0]]))


def test_only_air_is_outside_the_body(rng):
    tissue = patient(rng, (24, 24, 24))
    assert np.array_equal(is_body(tissue), tissue > 0)


def test_smooth_noise_has_unit_spread_and_neighbours_alike(rng):
    noise = smooth_noise(rng, (32, 32, 32), 1.5)
    assert abs(noise.std() - 1) < 1e-3
    assert np.mean(noise[1:] * noise[:-1]) > 0.7
    assert abs(np.mean(noise[8:] * noise[:-8])) < 0.1
