"""Patients in DICOM to a raw dataset, through main(argv), and on to the integrity check."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pydicom
import pytest
from dicoms import (
    SAGITTAL,
    make_other,
    make_registration,
    make_structures,
    save,
    turned,
    write_series,
)

from gdmnet.commands import plan_and_preprocess
from gdmnet.commands.convert import main
from gdmnet.data.check import check_dataset
from gdmnet.data.dicom import case_name, find_series, only_series, read_series
from gdmnet.data.regrid import regrid
from gdmnet.data.volume import read_volume
from gdmnet.datasets.conversion import write_dataset
from gdmnet.datasets.dicom_pairs import SeriesChoice, find_pairs, make_conversion
from gdmnet.datasets.phantom import make_patient
from gdmnet.errors import DatasetError
from gdmnet.geometry import grid_difference

SHAPE = (12, 20, 20)
NAMES = ("patient_a", "patient_b")
FRAME = "1.2.826.0.1.3680043.9999.7"


@pytest.fixture
def patients(tmp_path):
    """Two patients with an MR, a CT on its grid, a scout and an RTSTRUCT each."""
    for seed, name in enumerate(NAMES):
        (mr,), ct, _ = make_patient(np.random.default_rng(seed), SHAPE)
        folder = tmp_path / "patients" / name
        own = {"PatientID": f"SECRET-{seed}", "FrameOfReferenceUID": f"{FRAME}.{seed}"}
        write_series(folder / "mr", np.rint(mr), **own)
        planning = {"Modality": "CT", "SeriesDescription": "planning", **own}
        write_series(
            folder / "ct", np.rint(ct) + 1024, RescaleIntercept=-1024, RescaleSlope=1, **planning
        )
        write_series(folder / "mr", mr[:1], first=100, SeriesDescription="localizer", **own)
        save(folder / "rs.dcm", make_other("1.2.840.10008.5.1.4.1.1.481.3", "RTSTRUCT"))
    return tmp_path / "patients"


def call(patients, *options):
    raw = patients.parent / "raw"
    return main(["dicom", "512", "-i", str(patients), "-np", "1", f"--raw={raw}", *options])


def dataset(patients, name="MRtoCT"):
    return patients.parent / "raw" / f"Dataset512_{name}"


def refusal(patients, capsys, *options):
    assert call(patients, *options) == 2
    assert not list((patients.parent).glob("raw/*"))
    return capsys.readouterr().err


def test_patients_become_a_dataset_that_the_check_accepts(patients, capsys):
    assert call(patients) == 0
    folder = dataset(patients)
    assert check_dataset(folder, n_processes=1) == []
    cases = {}
    for name in NAMES:
        mr, ct = (only_series_of(patients / name, kind) for kind in ("mr", "ct"))
        case = cases[name] = case_name(mr)
        image = read_volume(folder / f"imagesTr/{case}_0000.nii.gz")
        target = read_volume(folder / f"targetsTr/{case}.nii.gz")
        np.testing.assert_array_equal(image.array, read_series(mr).array)
        np.testing.assert_array_equal(target.array, read_series(ct).array)
        assert grid_difference(image.geometry, read_series(mr).geometry) is None
    description = json.loads((folder / "dataset.json").read_text())
    assert description["channel_names"] == {"0": "MR"}
    assert (description["target_name"], description["numTraining"]) == ("CT", 2)
    shown = capsys.readouterr().out
    assert f"{cases['patient_a']}  patient_a  MR t1 vibe 12x20x20, 3x1.5x1.25 mm  CT planning" in (
        shown
    )
    assert "left aside: RTSTRUCT (2), scouts (2)" in shown
    assert "gdm_check 512" in shown


def only_series_of(patient, kind):
    return next(s for s in find_series(patient).series if s.modality == kind.upper())


def test_nothing_of_the_patients_is_told(patients, capsys):
    assert call(patients) == 0
    said = "".join(capsys.readouterr())
    told = said + (dataset(patients) / "dataset.json").read_text()
    names = " ".join(path.name for path in dataset(patients).rglob("*"))
    for secret in ("Doe", "Jane", "SECRET", "1950", "9999"):
        assert secret not in told
        assert secret not in names
    assert "patient" not in names


def test_values_that_no_int16_holds_are_not_cut_off(patients):
    for path in (patients / "patient_a/ct").iterdir():
        item = pydicom.dcmread(path)
        item.RescaleSlope = 90  # 1000 is refused
        save(path, item)
    assert call(patients) == 0
    ct = only_series_of(patients / "patient_a", "ct")
    case = case_name(only_series_of(patients / "patient_a", "mr"))
    target = read_volume(dataset(patients) / f"targetsTr/{case}.nii.gz")
    np.testing.assert_array_equal(target.array, read_series(ct).array)
    assert np.abs(target.array).max() > 2**15


def test_a_mapping_is_written_on_request_only(patients):
    file = patients.parent / "who.json"
    assert call(patients, "--mapping", str(file)) == 0
    assert file.stat().st_mode & 0o777 == 0o600
    told = json.loads(file.read_text())
    assert {entry["folder"] for entry in told.values()} == set(NAMES)
    assert {entry["patient_id"] for entry in told.values()} == {"SECRET-0", "SECRET-1"}
    assert all((dataset(patients) / f"targetsTr/{case}.nii.gz").is_file() for case in told)


def test_a_mapping_that_cannot_be_written_stops_before_the_dataset(patients, capsys):
    said = refusal(patients, capsys, "--mapping", str(patients / "patient_a/ct"))
    assert "cannot be written" in said


def test_a_dry_run_prints_the_table_and_writes_nothing(patients, capsys):
    assert call(patients, "--dry-run") == 0
    assert "patient_b" in capsys.readouterr().out
    assert not (patients.parent / "raw").exists()


def test_the_dataset_goes_on_into_planning(patients):
    assert call(patients) == 0
    roots = [f"--{name}={patients.parent / name}" for name in ("raw", "preprocessed", "results")]
    assert plan_and_preprocess.main(["-d", "512", "-np", "1", "--dry-run", *roots]) == 0


def test_several_fitting_series_are_refused_and_a_pattern_decides(patients, capsys):
    for name in NAMES:
        write_series(patients / name / "t2", np.ones(SHAPE), SeriesDescription="T2 space")
    said = refusal(patients, capsys)
    assert "2 complaints; nothing was written" in said
    assert (
        "  patient_a: 2 series fit the source 'MR*' (MR t1 vibe, MR T2 space); narrow it by"
        " --source" in said
    )
    assert call(patients, "--source", "mr*T1*") == 0
    description = json.loads((dataset(patients) / "dataset.json").read_text())
    assert description["source_series"] == ["mr*T1*"]
    roots = [f"--{name}={patients.parent / name}" for name in ("raw", "preprocessed", "results")]
    assert plan_and_preprocess.main(["512", "-np", "1", "--dry-run", *roots]) == 0


def test_one_of_two_acquisitions_in_a_series_is_chosen_by_its_attribute(patients, capsys):
    arrays = {}
    for name in NAMES:
        for path in (patients / name / "ct").iterdir():
            path.unlink()
        kinds = [(80, 300), (120, 0)]
        for first, (kvp, add) in enumerate(kinds):
            _, ct, _ = make_patient(np.random.default_rng(first), SHAPE)
            arrays[kvp] = np.rint(ct + add)
            how = {"Modality": "CT", "SeriesDescription": "planning", "KVP": kvp}
            uids = {"SeriesInstanceUID": f"1.2.3.{len(name)}.{name[-1] == 'a':d}"}
            write_series(patients / name / "ct", arrays[kvp], first=50 * first, **how, **uids)
    said = refusal(patients, capsys)
    assert "2 series fit the target 'CT*' (CT planning KVP=120.0, CT planning KVP=80.0)" in said
    assert call(patients, "--target", "CT*KVP=80*") == 0
    case = case_name(only_series_of(patients / "patient_a", "mr"))
    target = read_volume(dataset(patients) / f"targetsTr/{case}.nii.gz")
    np.testing.assert_array_equal(target.array[0], arrays[80])


def test_no_fitting_series_is_refused_and_what_is_there_is_listed(patients, capsys):
    said = refusal(patients, capsys, "--target", "*cbct*")
    assert "no series fits the target '*cbct*' (there: CT planning, MR t1 vibe)" in said


def test_patterns_that_fit_one_series_twice_are_refused(patients, capsys):
    said = refusal(patients, capsys, "--source", "CT*")
    assert "the patterns CT* and CT* fit the same series" in said


def test_an_unsound_series_is_refused_with_its_reason(patients, capsys):
    (patients / "patient_b/mr/IM0005").unlink()
    said = refusal(patients, capsys)
    assert "  patient_b: MR t1 vibe: slices are missing or unevenly spaced" in said
    assert "patient_a" not in said


def test_several_channels_are_several_patterns(patients):
    for seed, name in enumerate(NAMES):
        array = np.random.default_rng(seed).integers(0, 99, SHAPE)
        write_series(patients / name / "t2", array, SeriesDescription="T2 space")
    assert call(patients, "--source", "*t1*", "*t2*", "--name", "Two") == 0
    folder = dataset(patients, "Two")
    assert check_dataset(folder, n_processes=1) == []
    description = json.loads((folder / "dataset.json").read_text())
    assert description["channel_names"] == {"0": "MR 0", "1": "MR 1"}


@pytest.fixture
def apart(patients, rng):
    """The same with CTs on a grid of their own, in the frame of the MRs."""
    for seed, name in enumerate(NAMES):
        for path in (patients / name / "ct").iterdir():
            path.unlink()
        array = rng.integers(-1000, 1000, (16, 16, 16))
        write_series(
            patients / name / "ct",
            array,
            Modality="CT",
            SeriesDescription="planning",
            direction=SAGITTAL,
            origin=(-18.0, -12.0, 70.0),
            spacing=(1.5, 2.0, 2.0),
            FrameOfReferenceUID=f"{FRAME}.{seed}",
        )
    return patients


def test_other_grids_are_refused_without_a_word_to_resample(apart, capsys):
    said = refusal(apart, capsys)
    assert "CT planning is not on the grid of MR t1 vibe: shape" in said
    assert "try --resample target or --resample source" in said


@pytest.mark.parametrize("which", ["target", "source"])
def test_one_is_resampled_onto_the_other_on_request(apart, which):
    assert call(apart, "--resample", which) == 0
    folder = dataset(apart)
    assert check_dataset(folder, n_processes=1) == []
    mr, ct = (read_series(only_series_of(apart / "patient_a", kind)) for kind in ("mr", "ct"))
    case = case_name(only_series_of(apart / "patient_a", "mr"))
    image = read_volume(folder / f"imagesTr/{case}_0000.nii.gz")
    target = read_volume(folder / f"targetsTr/{case}.nii.gz")
    if which == "target":
        np.testing.assert_array_equal(image.array, mr.array)
        wanted = regrid(ct, mr.geometry, fill=-1024.0)
        np.testing.assert_array_equal(target.array, np.rint(wanted.array))
        assert (target.array == -1024).any()
    else:
        np.testing.assert_array_equal(target.array, ct.array)
        wanted = regrid(mr, ct.geometry, fill=0.0)
        np.testing.assert_allclose(image.array, wanted.array, atol=1e-3)
    assert json.loads((folder / "dataset.json").read_text())["resampled"] == which


def test_other_frames_of_reference_cannot_be_resampled(apart, capsys):
    for path in (apart / "patient_a/ct").iterdir():
        path.unlink()
    array = np.zeros((16, 16, 16))
    write_series(apart / "patient_a/ct", array, Modality="CT", FrameOfReferenceUID="1.2.3")
    said = refusal(apart, capsys, "--resample", "target")
    assert "different frames of reference and grids" in said


BIG, SIDES = (24, 48, 40), (3.0, 1.5, 1.5)
PLACED = np.array([-30.0, -35.0, 40.0])


def two_scanners(folder, degrees=6.0):
    """An MR, and its CT as a scanner with another frame of reference has it: turned and moved."""
    (mr,), ct, _ = make_patient(np.random.default_rng(2), BIG)
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turned(degrees, 4.0), (25.0, -140.0, 60.0)
    write_series(folder / "mr", np.rint(mr), origin=PLACED, spacing=SIDES)
    own = {"Modality": "CT", "SeriesDescription": "planning", "FrameOfReferenceUID": "1.2.3"}
    place = {"direction": matrix[:3, :3], "origin": matrix[:3, :3] @ PLACED + matrix[:3, 3]}
    write_series(folder / "ct", np.rint(ct), spacing=SIDES, **own, **place)
    return np.rint(ct), matrix


def test_a_registration_object_is_applied_and_shown(tmp_path, capsys):
    ct, matrix = two_scanners(tmp_path / "patients/a")
    said = refusal(tmp_path / "patients", capsys, "--resample", "target")
    assert "no REG object says how they lie to each other; add one, or --register rigid" in said
    frames = {"1.2.3": np.eye(4), "1.2.826.0.1.3680043.9999.2000": matrix}
    save(tmp_path / "patients/a/reg.dcm", make_registration(frames))
    assert call(tmp_path / "patients", "--resample", "target") == 0
    shown = capsys.readouterr().out
    assert "a: CT planning moved by " in shown
    assert "mm and 7.2 degrees (REG object)" in shown
    folder = dataset(tmp_path / "patients")
    (path,) = (folder / "targetsTr").iterdir()
    target = read_volume(path)
    np.testing.assert_allclose(target.array[0], ct, atol=1)  # the same grid: nothing is smoothed
    case = path.name.removesuffix(".nii.gz")
    assert list(json.loads((folder / "dataset.json").read_text())["registered"]) == [case]
    assert (folder / f"registered/{case}.png").stat().st_size > 1000
    assert check_dataset(folder, n_processes=1) == []


def test_all_channels_of_a_frame_are_moved(tmp_path):
    ct, matrix = two_scanners(tmp_path / "patients/a")
    t2 = np.arange(np.prod(BIG)).reshape(BIG) % 500
    write_series(
        tmp_path / "patients/a/t2", t2, origin=PLACED, spacing=SIDES, SeriesDescription="T2"
    )
    frames = {"1.2.3": np.eye(4), "1.2.826.0.1.3680043.9999.2000": matrix}
    save(tmp_path / "patients/a/reg.dcm", make_registration(frames))
    patterns = ["--source", "*t1*", "*T2", "--name", "Two"]
    assert call(tmp_path / "patients", "--resample", "source", *patterns) == 0
    folder = dataset(tmp_path / "patients", "Two")
    second = read_volume(next((folder / "imagesTr").glob("*_0001.nii.gz")))
    np.testing.assert_allclose(second.array[0], t2, atol=1)
    np.testing.assert_array_equal(read_volume(next((folder / "targetsTr").iterdir())).array[0], ct)


@pytest.mark.parametrize("which", ["target", "source"])
def test_two_scanners_are_registered_by_their_images_on_request(tmp_path, which, capsys):
    ct, _ = two_scanners(tmp_path / "patients/a")
    assert call(tmp_path / "patients", "--resample", which, "--register", "rigid") == 0
    shown = capsys.readouterr().out
    assert " degrees (registered by the images)" in shown
    folder = dataset(tmp_path / "patients")
    mr = read_volume(next((folder / "imagesTr").iterdir()))
    target = read_volume(next((folder / "targetsTr").iterdir()))
    assert grid_difference(mr.geometry, target.geometry) is None
    if which == "target":
        inside = ct > -500
        assert np.abs(target.array[0] - ct)[inside].mean() < 60  # half a voxel: 110
    else:
        np.testing.assert_array_equal(target.array[0], ct)
    assert len(list((folder / "registered").iterdir())) == 1


def drawn(ct, where):
    """Contours of all of every slice of a CT but for two voxels at its edges."""
    n_slices, rows, columns = ct.shape
    square = np.array(
        [[1.6, 1.6], [columns - 2.6, 1.6], [columns - 2.6, rows - 2.6], [1.6, rows - 2.6]]
    )
    points = [np.column_stack([square * (1.25, 1.5), np.full(4, 3.0 * k)]) for k in range(n_slices)]
    return [corner + where for corner in points]


def test_structures_become_masks_and_label_files(patients, capsys):
    where = np.array([-20.0, -15.5, 40.25])
    for seed, name in enumerate(NAMES):
        contours = drawn(np.zeros(SHAPE), where)
        structures = {"External": contours, "PTV_60": contours[3:6]}
        if seed == 0:
            structures["Bladder"] = contours[8:9]
        item = make_structures(structures, f"{FRAME}.{seed}")
        save(patients / name / "rs2.dcm", item)
    said = refusal(patients, capsys, "--body-roi", "BODY")
    assert "patient_a: no structures are called 'BODY' (there: Bladder, External, PTV_60)" in said
    assert call(patients, "--body-roi", "BODY|EXTERNAL", "--regions", "PTV*, bladder") == 0
    shown = capsys.readouterr().out
    assert "patient_b: no structure is called 'bladder'" in shown
    assert "patient_a: no structure" not in shown
    folder = dataset(patients)
    assert check_dataset(folder, n_processes=1) == []
    assert json.loads((folder / "dataset.json").read_text())["regions"] == {
        "1": "PTV*",
        "2": "bladder",
    }
    for name in NAMES:
        case = case_name(only_series_of(patients / name, "mr"))
        mask = read_volume(folder / f"masksTr/{case}.nii.gz").array[0]
        wanted = np.zeros(SHAPE)
        wanted[:, 2:-2, 2:-2] = 1
        np.testing.assert_array_equal(mask, wanted)
        labels = read_volume(folder / f"regionsTr/{case}.nii.gz").array[0]
        wanted[:3], wanted[6:] = 0, 0
        wanted[8, 2:-2, 2:-2] = 2 if name == "patient_a" else 0
        np.testing.assert_array_equal(labels, wanted)


def test_a_structure_in_two_sets_is_refused(patients, capsys):
    contours = drawn(np.zeros(SHAPE), np.array([-20.0, -15.5, 40.25]))
    for name in ("old", "new"):
        item = make_structures({"PTV": contours[3:6]}, f"{FRAME}.0")
        save(patients / "patient_a" / name, item)
    said = refusal(patients, capsys, "--regions", "PTV")
    assert "patient_a: PTV is drawn in new and old; move one away" in said


def test_structures_drawn_on_the_ct_follow_it_onto_the_mr(tmp_path):
    _, matrix = two_scanners(tmp_path / "patients/a")
    frames = {"1.2.826.0.1.3680043.9999.2000": np.eye(4), "1.2.3": np.linalg.inv(matrix)}
    save(tmp_path / "patients/a/reg.dcm", make_registration(frames))
    corners = np.array([[6.1, 9.1], [50.9, 9.1], [50.9, 60.9], [6.1, 60.9]])
    plane = [np.column_stack([corners, np.full(4, 3.0 * k)]) + PLACED for k in range(24)]
    moved = [points @ matrix[:3, :3].T + matrix[:3, 3] for points in plane]
    save(tmp_path / "patients/a/rs.dcm", make_structures({"BODY": moved}, "1.2.3"))
    assert call(tmp_path / "patients", "--resample", "target", "--body-roi", "body") == 0
    mask = read_volume(next((dataset(tmp_path / "patients") / "masksTr").iterdir())).array[0]
    wanted = np.zeros(BIG)
    wanted[:, 7:41, 5:34] = 1
    np.testing.assert_array_equal(mask, wanted)


def test_a_body_that_misses_a_slice_is_refused(patients, capsys):
    for seed, name in enumerate(NAMES):
        contours = drawn(np.zeros(SHAPE), np.array([-20.0, -15.5, 40.25]))
        del contours[5]
        save(patients / name / "rs2.dcm", make_structures({"Body": contours}, f"{FRAME}.{seed}"))
    assert "Body has no contour on slice 6 of CT planning" in refusal(
        patients, capsys, "--body-roi", "body"
    )


def test_images_that_do_not_overlap_are_refused(patients, capsys):
    for path in (patients / "patient_a/ct").iterdir():
        path.unlink()
    own = {"Modality": "CT", "FrameOfReferenceUID": f"{FRAME}.0", "origin": (500.0, 0.0, 0.0)}
    write_series(patients / "patient_a/ct", np.zeros(SHAPE), **own)
    assert "do not overlap in space" in refusal(patients, capsys, "--resample", "target")


def test_one_grid_in_two_frames_is_taken_with_a_note(patients, capsys):
    for path in (patients / "patient_a/ct").iterdir():
        path.unlink()
    _, ct, _ = make_patient(np.random.default_rng(0), SHAPE)
    write_series(patients / "patient_a/ct", np.rint(ct), Modality="CT", FrameOfReferenceUID="1.2.3")
    assert call(patients) == 0
    said = capsys.readouterr().out
    assert "1 pairs have one grid but different frames of reference (patient_a first)" in said


def test_the_same_patient_id_in_two_folders_is_noted(patients, capsys):
    for name in NAMES:
        for path in (patients / name / "ct").iterdir():
            path.unlink()
        _, ct, _ = make_patient(np.random.default_rng(len(name)), SHAPE)
        write_series(patients / name / "ct", np.rint(ct), Modality="CT", PatientID="SECRET-1")
    assert call(patients, "--dry-run") == 0
    assert "2 folders share their PatientID with another one" in capsys.readouterr().out


@pytest.mark.parametrize("options", [["--test", "patient_b"], ["--test-fraction", "0.5"]])
def test_test_cases_are_set_apart_by_patient(patients, capsys, options):
    if options[0] == "--test-fraction":
        for path in (patients / "patient_b/ct").iterdir():  # a third folder, of patient b
            item = pydicom.dcmread(path)
            item.SeriesInstanceUID += ".7"
            save(patients / "patient_c/ct" / path.name, item)
        _, mr, _ = make_patient(np.random.default_rng(5), SHAPE)
        own = {"PatientID": "SECRET-1", "FrameOfReferenceUID": f"{FRAME}.1"}
        write_series(patients / "patient_c/mr", np.rint(mr) + 1000, **own)
    assert call(patients, *options) == 0
    folder = dataset(patients)
    names = {p.name: case_name(only_series_of(p, "mr")) for p in patients.iterdir()}
    test = {path.name.removesuffix(".nii.gz") for path in (folder / "targetsTs").iterdir()}
    (told,) = (t for t in capsys.readouterr().out.splitlines() if t.startswith("for the test: "))
    assert set(told.removeprefix("for the test: ").split(", ")) == test
    if options[0] == "--test":
        assert test == {names["patient_b"]}
    assert (names["patient_a"] in test) != (names["patient_b"] in test)
    assert (names.get("patient_c", names["patient_b"]) in test) == (names["patient_b"] in test)
    count = json.loads((folder / "dataset.json").read_text())["numTraining"]
    assert count == len(names) - len(test) == len(list((folder / "imagesTr").iterdir()))
    assert check_dataset(folder, n_processes=1) == []


def test_impossible_test_cases_are_refused(patients, capsys):
    said = refusal(patients, capsys, "--test", "nobody")
    assert "--test nobody: no training case and no patient has this name" in said
    assert "no case is left for training" in refusal(patients, capsys, "--test", *NAMES)
    assert "must lie in [0, 1)" in refusal(patients, capsys, "--test-fraction", "1")


def test_a_copied_patient_is_refused(patients, capsys):
    shutil.copytree(patients / "patient_a", patients / "patient_c")
    said = refusal(patients, capsys)
    assert "patient_c: holds the same source series as patient_a; remove one" in said


def test_patients_of_other_kinds_are_refused(patients, capsys):
    for path in (patients / "patient_b/mr").iterdir():
        path.unlink()
    write_series(patients / "patient_b/pet", np.ones(SHAPE), Modality="PT")
    said = refusal(patients, capsys, "--source", "[mp][rt]*")
    assert "patient_b: is PT to CT, but patient_a is MR to CT; make a dataset of each" in said


def test_a_number_that_is_taken_is_refused(patients, capsys):
    assert call(patients) == 0
    assert call(patients, "--name", "Other") == 2
    assert "Dataset512_MRtoCT is there already; choose another number" in capsys.readouterr().err
    assert not dataset(patients, "Other").exists()


def test_an_empty_folder_and_a_missing_one_are_refused(tmp_path, capsys):
    (tmp_path / "patients").mkdir()
    assert "no folder in it holds a DICOM series" in refusal(tmp_path / "patients", capsys)
    assert "no such folder" in refusal(tmp_path / "none", capsys)


def test_a_patients_folder_in_place_of_its_parent_is_named(patients, capsys):
    said = refusal(patients / "patient_a", capsys)
    assert "its folders hold series of one patient (CT planning, MR t1 vibe)" in said
    assert "holds DICOM itself; give the folder" in refusal(patients / "patient_a/mr", capsys)


def test_a_dataset_is_whole_or_not_there(patients):
    path = patients / "patient_b/ct/IM0003"
    raw = patients.parent / "raw"
    found = find_pairs(patients, SeriesChoice())
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(DatasetError, match="truncated"):
        write_dataset(make_conversion(found.pairs, SeriesChoice()), raw / "Dataset512_X")
    assert list(raw.iterdir()) == []


@pytest.mark.parametrize("number", ["1000", "x"])
def test_an_impossible_number_is_refused(patients, capsys, number):
    assert main(["dicom", number, "-i", str(patients)]) == 2
    assert "0 to 999" in capsys.readouterr().err


def test_only_series_lists_what_a_patient_holds(patients):
    with pytest.raises(Exception, match="CT planning, 12 images; MR t1 vibe, 12 images"):
        only_series(patients / "patient_a")


@pytest.mark.parametrize("options", [(), ("--untilt",)])
def test_the_dataset_says_whether_tilted_scans_were_resampled(patients, options):
    assert call(patients, *options) == 0
    made = json.loads((dataset(patients) / "dataset.json").read_text("utf-8"))
    assert ("untilted" in made) == bool(options)
