import json
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from directions import oblique_direction
from scipy import ndimage

from gdmnet.data.case import Volume
from gdmnet.data.raw import read_description, training_cases, write_description
from gdmnet.data.volume import read_volume, write_volume
from gdmnet.datasets import soundness
from gdmnet.datasets.phantom import Scanner, make_patient, write_phantom_dataset
from gdmnet.datasets.registration import Alignment, RigidMotion, write_registered
from gdmnet.datasets.soundness import (
    contrast,
    examine_dataset,
    look_alikes,
    outliers,
    signature,
    why_not_plausible,
)

SCANNER = Scanner((3.0, 2.0, 2.0), oblique_direction(), varied_shapes=False, masks=True)
SHIFTED, MIRRORED, WRONG = "phantom_01", "phantom_02", "phantom_03"


def change(path, function):
    volume = read_volume(path)
    changed = np.ascontiguousarray(function(volume.array)).astype(np.float32)
    write_volume(path, Volume(changed, volume.geometry), integer=True)


def shift(array):
    """Three voxels to the back, 6 mm."""
    moved = np.roll(array, 3, axis=2)
    moved[:, :, :3] = array[:, :, :3]
    return moved


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five phantoms, one displaced, one mirrored, one with 200 HU too many."""
    raw = tmp_path_factory.mktemp("raw")
    folder = write_phantom_dataset(raw, n_train=5, n_test=0, shape=(20, 40, 44), scanner=SCANNER)
    change(folder / f"imagesTr/{SHIFTED}_0000.nii.gz", shift)
    change(folder / f"imagesTr/{MIRRORED}_0000.nii.gz", lambda array: array[..., ::-1])
    change(folder / f"targetsTr/{WRONG}.nii.gz", lambda array: array + 200)
    return folder


@pytest.fixture(scope="module")
def cases(folder):
    return training_cases(folder, read_description(folder))[0]


@pytest.fixture(scope="module")
def facts(folder, cases):
    found = examine_dataset(cases, read_description(folder))
    return {case.identifier: case for case in found}


def test_what_is_wrong_is_flagged_and_nothing_else(facts):
    flags = {name: case.flags for name, case in facts.items() if case.flags}
    assert set(flags) == {SHIFTED, MIRRORED, WRONG}
    (shifted,), (mirrored,), (wrong,) = (flags[name] for name in (SHIFTED, MIRRORED, WRONG))
    assert "mm (x" in shifted
    assert "off the target" in shifted
    assert mirrored == "MR: mirrored left-right against the target"
    assert wrong.startswith("CT: not in HU: air")


def test_the_shift_is_measured(facts):
    motion = facts[SHIFTED].alignments[0].motion
    assert facts[SHIFTED].alignments[0].distance == pytest.approx(6.0, abs=0.8)
    assert motion.translation[1] == pytest.approx(6.0, abs=1.0)
    assert facts["phantom_04"].alignments[0].distance < 1.0


def test_bodies_are_compared(facts):
    assert facts["phantom_04"].overlap > 0.9
    assert facts["phantom_04"].body_rules == ("otsu", "above -500 HU")


def test_the_registered_copy_mends_the_shift_and_nothing_else(folder, cases, facts, tmp_path):
    copy = tmp_path / "Dataset998_Registered"
    moved = write_registered(
        folder, copy, cases, {name: case.alignments for name, case in facts.items()}
    )
    assert moved == [f"{SHIFTED}_0000"]
    mended = training_cases(copy, read_description(copy))[0]
    (after,) = examine_dataset(mended[:1], read_description(copy))
    assert after.alignments[0].distance < 0.8
    assert not after.flags
    for path in sorted(folder.rglob("*.nii.gz")):
        same = path.read_bytes() == (copy / path.relative_to(folder)).read_bytes()
        is_moved = SHIFTED in path.name and "targets" not in str(path.parent)
        assert same != is_moved, path.name
    masks = read_volume(copy / f"masksTr/{SHIFTED}.nii.gz").array
    np.testing.assert_array_equal(np.unique(masks), (0, 1))
    assert json.loads((copy / "dataset.json").read_text())["registered"] == moved
    transform = soundness_transform(copy / "transforms" / f"{SHIFTED}_0000.tfm")
    np.testing.assert_allclose(transform, facts[SHIFTED].alignments[0].motion.translation)


@pytest.mark.parametrize("before", [{"p1": "CT moved by 3 mm"}, ["phantom_09_0000"], "elsewhere"])
def test_what_was_registered_before_is_not_forgotten(tmp_path, before):
    folder = write_phantom_dataset(tmp_path, n_train=1, n_test=0, shape=(4, 12, 13))
    description = read_description(folder)
    write_description(folder, replace(description, metadata={"registered": before}))
    (case,), _ = training_cases(folder, description)
    record = folder / "transforms/phantom_01_0000.tfm"
    record.parent.mkdir()
    turn = sitk.Euler3DTransform((0.0, 0.0, 0.0), 0.0, 0.0, np.pi / 2)
    sitk.WriteTransform(turn, str(record))
    copy = tmp_path / "Dataset998_Registered"
    write_registered(folder, copy, [case], {case.identifier: [alignment(9.0)]})
    whole_way = sitk.ReadTransform(str(copy / record.relative_to(folder)))
    np.testing.assert_allclose(whole_way.TransformPoint((0.0, 0.0, 0.0)), (0, 9, 0), atol=1e-9)
    kept = before if isinstance(before, list) else [before]
    assert read_description(copy).metadata["registered"] == [*kept, "phantom_01_0000"]


def soundness_transform(path):
    return sitk.Euler3DTransform(sitk.ReadTransform(str(path))).GetTranslation()


def alignment(distance=0.0, angle=0.0, gain=1.5, mirrored=0.5):
    motion = RigidMotion((distance, 0.0, 0.0), (angle, 0.0, 0.0), (0.0, 0.0, 0.0), gain, 1.0)
    return Alignment(motion, motion.distance, motion.angle, mirrored * gain)


@pytest.mark.parametrize(
    ("found", "is_off", "is_mirrored"),
    [
        (alignment(1.9, 1.9), False, False),
        (alignment(2.1), True, False),
        (alignment(0.0, 2.1), True, False),
        (alignment(9.0, gain=1.01), False, False),
        (alignment(9.0, mirrored=1.3), True, True),
        (alignment(0.0, mirrored=1.1), False, False),
    ],
)
def test_limits(found, is_off, is_mirrored):
    assert (found.is_off, found.is_mirrored) == (is_off, is_mirrored)
    assert found.is_movable == (is_off and not is_mirrored)


def test_a_case_that_cannot_be_read_is_a_flag_and_the_others_go_on(folder, cases, tmp_path):
    bad = tmp_path / "bad.nii.gz"
    bad.write_bytes(b"no image")
    broken = soundness.CaseFiles("broken", (bad,), cases[3].target)
    first, second = examine_dataset([broken, cases[3]], read_description(folder))
    assert "bad.nii.gz" in first.flags[0]
    assert (first.overlap, first.alignments) == (None, ())
    assert second.flags == ()


def test_a_case_without_one_of_its_channels_is_a_flag(folder, cases):
    two = replace(read_description(folder), channel_names=("MR", "CT"))
    (found,) = examine_dataset(cases[3:4], two)
    assert found.flags == ("a channel or the target is missing",)


def test_a_blank_source_is_a_flag_beside_the_others(folder, cases, tmp_path):
    volume = read_volume(cases[3].sources[0])
    write_volume(tmp_path / "blank.nii.gz", replace(volume, array=np.zeros_like(volume.array)))
    blank = replace(cases[2], identifier="blank", sources=(tmp_path / "blank.nii.gz",))
    (found,) = examine_dataset([blank], read_description(folder))
    assert found.flags[0].startswith("CT: not in HU: air")  # of the wrong target
    assert "do not overlap enough to be registered" in found.flags[-1]
    assert found.overlap is not None


def test_thin_volumes_are_not_registered(tmp_path):
    folder = write_phantom_dataset(tmp_path, n_train=1, n_test=0, shape=(1, 40, 40))
    cases, _ = training_cases(folder, read_description(folder))
    (fact,) = examine_dataset(cases, read_description(folder))
    assert fact.alignments == ()
    assert fact.overlap > 0.7


def test_a_mask_beside_the_body_or_on_another_grid_is_a_flag(folder, cases, tmp_path):
    mask = read_volume(cases[3].mask)
    beside = np.zeros_like(mask.array)
    beside[:, :, 0, 0] = 1
    files = []
    for name, array in (("beside", beside), ("short", np.ones((1, 2, 2, 2), np.float32))):
        path = tmp_path / f"{name}.nii.gz"
        write_volume(path, Volume(array, replace(mask.geometry, shape=array.shape[1:])))
        files.append(soundness.CaseFiles(name, cases[3].sources, cases[3].target, path))
    first, second = examine_dataset(files, read_description(folder))
    assert "overlap by 0.00 only" in first.flags[0]
    assert "source and mask lie on different grids" in second.flags[0]


def test_one_patient_under_two_names_is_told(folder, cases):
    again = soundness.CaseFiles("zz_again", cases[3].sources, cases[3].target)
    first, second = examine_dataset([cases[3], again], read_description(folder))
    assert first.flags == ()
    assert "same patient as phantom_04" in second.flags[0]


SHAPE = (24, 40, 40)


@pytest.fixture(scope="module")
def patients():
    return [make_patient(np.random.default_rng(seed), SHAPE) for seed in range(4)]


def test_hounsfield_units_are_plausible(patients):
    for _, ct, body in patients:
        assert why_not_plausible(ct, body) is None


def test_padding_around_the_field_of_view_is_no_air(patients):
    _, ct, body = patients[0]
    padded = np.where((body == 0) & (np.arange(40) < 20), -3024, ct)
    assert why_not_plausible(padded, body) is None


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda ct: ct + 1024, "1024"),
        (lambda ct: ct / 1000, "normalised"),
        (lambda ct: ct + 200, "air outside the body is at -"),
        (lambda ct: ct * 0.5, "air outside the body is at -"),
        (lambda ct: np.where(ct > -900, ct + 150, ct), "soft tissue is at"),
        (lambda ct: np.clip(ct, -1024, 150), "windowed"),
    ],
)
def test_other_units_are_named(patients, change, text):
    _, ct, body = patients[0]
    assert text in str(why_not_plausible(change(ct), body))


def test_contrast_does_not_depend_on_scale_and_offset(patients):
    sources, _, body = patients[0]
    first = contrast(sources[0], body)
    np.testing.assert_allclose(contrast(3 * sources[0] + 100, body), first, atol=1e-4)
    assert not np.allclose(contrast(-sources[0], body), first, atol=0.1)


def test_a_contrast_among_others_is_an_outlier(patients):
    curves = [contrast(sources[0], body) for sources, _, body in patients]
    strange = contrast(np.exp(patients[0][0][0] / 100), patients[0][2])
    assert outliers([100.0] * 4, curves) == [None] * 4
    found = outliers([100.0] * 5, [*curves, strange])
    assert found[:4] == [None] * 4
    assert "contrast" in str(found[4])


def test_a_scale_among_others_is_an_outlier(patients):
    curves = [contrast(sources[0], body) for sources, _, body in patients]
    found = outliers([100.0, 900.0, 80.0, 0.5], curves)
    assert found[:3] == [None] * 3
    assert "0.00556 times" in str(found[3])
    assert outliers([1.0, 1e6], curves[:2]) == [None, None]  # too few to tell


def test_the_same_patient_is_recognised_though_shifted_and_noisy(patients):
    rng = np.random.default_rng(0)
    images = [(sources[0], body) for sources, _, body in patients]
    image, body = images[1]
    noisy = ndimage.shift(image, (0.4, 1.3, -0.6), order=1) + rng.normal(0, 5, SHAPE)
    images.append((noisy, ndimage.shift(body, (0.4, 1.3, -0.6), order=0)))
    found = look_alikes([signature(image, body) for image, body in images])
    assert [(i, j) for i, j, _ in found] == [(1, 4)]
    assert 0.9 < found[0][2] <= 1.0
