"""gdm_predict from DICOM and to DICOM, through main(argv), with models known by arithmetic."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

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

from gdmnet import codec, folders
from gdmnet.commands import evaluate, report
from gdmnet.commands.predict import main
from gdmnet.data.dicom import case_name, find_series, only_series, read_series
from gdmnet.data.regrid import axial_grid, regrid
from gdmnet.data.volume import read_volume, write_volume
from gdmnet.geometry import grid_difference
from gdmnet.inference import load_model
from gdmnet.plan import Plan

TESTS = Path(__file__).parents[1]
HOWTO = TESTS.parent / "documentation/how-to/dicom.md"
SHAPE = (11, 21, 25)


def make_model(results, models, name="MR", target="CT"):
    """A model that adds 50 HU to its source, which its plan calls `name`."""
    model = models.make_model(results, {"0": 50.0})
    plan = codec.load(Plan, model / folders.PLAN_JSON)
    plan = replace(plan, channel_names=(name,), target_name=target)
    codec.save(plan, model / folders.PLAN_JSON)
    return model


def write_scan(folder, models, *, seed=0, **options):
    """A phantom with values of a CT as a series of MR."""
    return write_series(folder, models.make_ct(SHAPE, seed=seed), **options)


@pytest.fixture
def place(tmp_path, models):
    """A model of MR, a patient with an MR and a CT, and another one with a scout and RTSTRUCT."""
    make_model(tmp_path / "results", models)
    write_scan(tmp_path / "in/one/mr", models, spacing=(2.0, 1.0, 1.0))
    write_scan(tmp_path / "in/one/ct", models, Modality="CT", SeriesDescription="planning")
    two = {"PatientID": "SECRET-7", "FrameOfReferenceUID": "1.2.3.4"}
    write_scan(tmp_path / "in/two", models, seed=1, direction=turned(), first=50, **two)
    write_series(tmp_path / "in/two", np.ones((3, 9, 9)), SeriesDescription="localizer")
    save(tmp_path / "in/rs.dcm", make_other("1.2.840.10008.5.1.4.1.1.481.3", "RTSTRUCT"))
    return tmp_path


def call(place, *options):
    arguments = ["-i", str(place / "in"), "-o", str(place / "out"), "--device", "cpu"]
    return main([*arguments, f"--results={place / 'results'}", f"--raw={place}", *options])


def refusal(place, capsys, *options):
    assert call(place, *options) == 2
    assert not (place / "out").exists()
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:]
    return lines[-1]


def mr_of(place, patient):
    return next(s for s in find_series(place / "in" / patient).series if s.modality == "MR")


def read_slices(folder):
    return [pydicom.dcmread(path) for path in sorted(folder.iterdir())]


def test_every_fitting_series_of_a_tree_becomes_a_case(place, models, capsys, caplog):
    with caplog.at_level("INFO"):
        assert call(place) == 0
    names = {patient: case_name(mr_of(place, patient)) for patient in ("one", "two")}
    for patient, seed in (("one", 0), ("two", 1)):
        result = read_volume(place / f"out/{names[patient]}.nii.gz")
        source = read_series(mr_of(place, patient))
        assert grid_difference(result.geometry, source.geometry) is None
        inside = models.core(SHAPE)
        shift = (result.array[0] - models.make_ct(SHAPE, seed=seed))[inside].mean()
        assert shift == pytest.approx(50, abs=1)
    said = caplog.text + "".join(capsys.readouterr())
    assert (
        "3 DICOM series; left aside: RTSTRUCT (1), scouts (3); 1 that the model does not take"
        in said
    )
    assert f"{names['one']}: MR t1 vibe, 11 images in one/mr" in said
    record = (place / "out/predictions.json").read_text()
    for secret in ("Doe", "Jane", "SECRET", "1950", "9999"):
        assert secret not in said
        assert secret not in record
    inputs = json.loads(record)["cases"][names["one"]]["inputs"]
    assert list(inputs) == [f"{names['one']}_0000"]
    (series,) = json.loads(record)["cases"][names["one"]]["series"]
    assert series["folder"] == str(place / "in/one/mr")
    assert series["description"] == "MR t1 vibe"


def test_what_is_there_is_kept_unless_the_series_has_changed(place, capsys, caplog):
    assert call(place) == 0
    assert call(place) == 0
    assert "0 predicted, 2 there already" in capsys.readouterr().out
    file = place / "in/one/mr/IM0003"
    item = pydicom.dcmread(file)
    item.PixelData = bytes(len(item.PixelData))
    save(file, item)
    assert call(place) == 1
    assert "predicted from other files" in caplog.text


def test_an_unsound_series_fails_alone(place, capsys, caplog):
    (place / "in/one/mr/IM0005").unlink()
    assert call(place, "--dicom-out") == 1
    captured = capsys.readouterr()
    assert "1 predicted, 0 there already, 1 failed" in captured.out
    assert "1 CT series" in captured.out
    assert "in/one/mr: MR t1 vibe: slices are missing or unevenly spaced" in caplog.text


@pytest.mark.parametrize("grid", ["axial", "source"])
def test_predictions_become_ct_series(place, grid, capsys):
    assert call(place, "--dicom-out", "--dicom-grid", grid) == 0
    assert "2 CT series" in capsys.readouterr().out
    for patient in ("one", "two"):
        source = mr_of(place, patient)
        name = case_name(source)
        written = only_series(place / f"out/{name}_dicom")
        assert written.label == "CT sCT of t1 vibe"
        assert (written.study, written.frame, written.patient) == (
            source.study,
            source.frame,
            source.patient,
        )
        result, prediction = read_series(written), read_volume(place / f"out/{name}.nii.gz")
        wanted = source.geometry if grid == "source" else axial_grid(source.geometry)
        assert grid_difference(result.geometry, wanted) is None
        np.testing.assert_allclose(result.geometry.itk_origin, wanted.itk_origin, atol=1e-4)
        moved = regrid(replace(prediction, geometry=source.geometry), wanted, fill=-1024.0)
        np.testing.assert_array_equal(result.array, np.rint(moved.array))
        first = read_slices(place / f"out/{name}_dicom")[0]
        assert "Dataset501_Test regression__3d_fullres" in first.DerivationDescription
        assert "final checkpoints: 0 " in first.DerivationDescription


def test_series_are_added_to_predictions_that_are_there_and_then_kept(place, capsys):
    assert call(place) == 0
    assert call(place, "--dicom-out") == 0
    folder = place / f"out/{case_name(mr_of(place, 'one'))}_dicom"
    before = read_slices(folder)[0].SeriesInstanceUID
    assert call(place, "--dicom-out") == 0
    assert read_slices(folder)[0].SeriesInstanceUID == before
    assert call(place, "--dicom-out", "--overwrite") == 0
    assert read_slices(folder)[0].SeriesInstanceUID != before


def test_series_on_another_grid_than_the_one_asked_for_are_not_kept(place):
    assert call(place, "--dicom-out") == 0
    uids = []
    for grid in ("axial", "source"):
        assert call(place, "--dicom-out", "--dicom-grid", grid) == 0
        oblique = mr_of(place, "two")
        written = only_series(place / f"out/{case_name(oblique)}_dicom")
        wanted = axial_grid(oblique.geometry) if grid == "axial" else oblique.geometry
        assert grid_difference(written.geometry, wanted) is None
        uids.append(only_series(place / f"out/{case_name(mr_of(place, 'one'))}_dicom").uid)
    assert uids[0] == uids[1]  # is axial, with square pixels


def test_a_model_that_makes_no_ct_is_refused(place, models, capsys):
    model = make_model(place / "results", models, target="T2")
    plan = codec.load(Plan, model / folders.PLAN_JSON)
    one = plan.configurations["3d_fullres"]
    other = replace(one, target=replace(one.target, scheme="none"))
    plan = replace(plan, configurations={"3d_fullres": other})
    codec.save(plan, model / folders.PLAN_JSON)
    said = refusal(place, capsys, "--dicom-out")
    assert "--dicom-out is for CT in Hounsfield units, but the model makes T2" in said


@pytest.mark.parametrize("name", ["CT", "CBCT"])
def test_a_model_of_ct_takes_the_ct_series(place, models, name):
    make_model(place / "results", models, name)
    assert call(place) == 0
    (result,) = (place / "out").glob("case_*")
    ct = only_series(place / "in/one/ct")
    assert result.name == f"{case_name(ct)}.nii.gz"


def test_a_tree_without_a_fitting_series_is_refused(place, models, capsys):
    shutil.rmtree(place / "in/one/mr")
    shutil.rmtree(place / "in/two")
    assert "no series for a model that takes MR (1 DICOM series" in refusal(place, capsys)


def test_several_series_of_a_study_fail_alone_until_a_pattern_tells_them_apart(
    place, models, capsys, caplog
):
    write_scan(place / "in/one/t2", models, seed=2, SeriesDescription="T2 space", SeriesNumber=8)
    assert call(place) == 1
    assert "1 predicted, 0 there already, 2 failed" in capsys.readouterr().out
    assert "2 series of one study fit the model (MR t1 vibe, MR T2 space); name one" in caplog.text
    shutil.rmtree(place / "out")
    assert call(place, "--source", "mr*T2*", "--dicom-out") == 0
    t2 = only_series(place / "in/one/t2")
    (written,) = (place / "out").glob("*_dicom")
    assert written.name == f"{case_name(t2)}_dicom"
    first = read_slices(written)[0]
    assert (first.SeriesDescription, first.SeriesNumber) == ("sCT of T2 space", 1008)


def test_the_plan_knows_which_series_the_model_was_trained_on(place, models):
    write_scan(place / "in/one/t2", models, seed=2, SeriesDescription="T2 space")
    model = make_model(place / "results", models)
    plan = codec.load(Plan, model / folders.PLAN_JSON)
    codec.save(replace(plan, source_series=("MR*t1*",)), model / folders.PLAN_JSON)
    assert call(place) == 0
    names = {case_name(mr) for mr in (only_series(place / "in/one/mr"), mr_of(place, "two"))}
    assert {path.name for path in (place / "out").glob("*.nii.gz")} == {
        f"{n}.nii.gz" for n in names
    }
    shutil.rmtree(place / "out")
    assert call(place, "--source", "*t2*") == 0
    (path,) = (place / "out").glob("*.nii.gz")
    assert path.name == f"{case_name(only_series(place / 'in/one/t2'))}.nii.gz"


def test_channels_are_told_apart_by_patterns(place, models, capsys, caplog):
    configuration = models.make_configuration(n_sources=2)
    models.make_model(place / "results", configuration=configuration)
    assert "the model takes 2 channels (CT 0, CT 1)" in refusal(place, capsys)
    write_scan(place / "in/one/t2", models, seed=2, SeriesDescription="T2", spacing=(2.0, 1.0, 1.0))
    assert call(place, "--source", "*t1*", "*T2") == 1  # patient two has no T2
    assert "1 predicted, 0 there already, 1 failed" in capsys.readouterr().out
    assert "no series of its study fits '*T2'; name one by --source" in caplog.text


def test_one_series_is_not_taken_for_two_channels(place, models, caplog):
    configuration = models.make_configuration(n_sources=2)
    models.make_model(place / "results", configuration=configuration)
    assert call(place, "--source", "MR*", "*t1*") == 2  # neither patient has another MR
    assert caplog.text.count("one series of its study fits several channels; name one by") == 2
    assert not list((place / "out").glob("case_*"))


def test_a_new_prediction_does_not_lie_beside_the_series_of_the_one_before(place):
    assert call(place, "--dicom-out") == 0
    folder = place / f"out/{case_name(mr_of(place, 'one'))}_dicom"
    assert folder.is_dir()
    assert call(place, "--overwrite") == 0
    assert not folder.exists()
    assert call(place, "--dicom-out") == 0
    assert folder.is_dir()


def test_predictions_are_judged_against_the_trees_they_come_from(place, capsys):
    one, out = place / "in/one", place / "out"
    assert call(place, "-i", str(one)) == 0
    assert evaluate.main(["-p", str(out), "-r", str(one), "-np", "1"]) == 0
    (prediction,) = out.glob("*.nii.gz")
    said = capsys.readouterr().out
    assert f"CT planning is resampled onto the grid of {prediction.name}" in said
    summary = json.loads((out / "summary.json").read_text())
    name = prediction.name.removesuffix(".nii.gz")
    write_volume(place / "refs" / prediction.name, moved_ct(one, prediction))
    assert evaluate.main(["-p", str(out), "-r", str(place / "refs"), "-np", "1"]) == 0
    again = json.loads((out / "summary.json").read_text())
    assert summary["cases"][name]["mae"] == pytest.approx(again["cases"][name]["mae"], rel=1e-5)
    words = ["-p", str(out), "-s", str(one), "-r", str(one), "-np", "1"]
    assert report.main(words) == 0
    page = (out / "report.html").read_text()
    assert "DICOM series" in page
    assert f"MR t1 vibe in {one / 'mr'}" in page


def test_a_reference_of_another_scanner_is_registered(place, models, capsys):
    one, out = place / "in/one", place / "out"
    assert call(place, "-i", str(one)) == 0
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turned(5.0, 4.0), (80.0, -30.0, 12.0)
    shutil.rmtree(one / "ct")
    write_scan(one / "t2", models, SeriesDescription="T2 space")  # no reference of a CT
    origin = matrix[:3, :3] @ (-20.0, -15.5, 40.25) + matrix[:3, 3]
    there = {"direction": matrix[:3, :3], "origin": origin, "spacing": (2.0, 1.0, 1.0)}
    write_scan(one / "ct", models, Modality="CT", FrameOfReferenceUID="1.2.3", **there)
    assert evaluate.main(["-p", str(out), "-r", str(one), "-np", "1"]) == 2
    assert "no REG object beside its source links one" in capsys.readouterr().err
    frames = {"1.2.3": np.eye(4), "1.2.826.0.1.3680043.9999.2000": matrix}
    save(one / "reg", make_registration(frames))
    assert evaluate.main(["-p", str(out), "-r", str(one), "-np", "1"]) == 0
    (values,) = json.loads((out / "summary.json").read_text())["cases"].values()
    assert values["bias"] == pytest.approx(50, abs=3)  # the model adds 50 HU to the same voxels


def moved_ct(one, prediction):
    grid = read_volume(prediction).geometry
    return regrid(read_series(only_series(one / "ct")), grid, fill=-1024.0)


def test_a_reference_that_cannot_be_told_is_refused(place, models, capsys):
    one, out = place / "in/one", place / "out"
    assert call(place, "-i", str(one)) == 0
    write_scan(one / "ct2", models, Modality="CT", SeriesDescription="later")
    assert evaluate.main(["-p", str(out), "-r", str(one)]) == 2
    assert "2 CTs in its frame of reference may be the reference (CT planning" in (
        capsys.readouterr().err
    )
    assert evaluate.main(["-p", str(out), "-r", str(place / "in/two")]) == 2
    assert "no CT lies in its frame of reference" in capsys.readouterr().err
    assert report.main(["-p", str(out), "-s", str(place / "in/two")]) == 2
    assert "its source MR t1 vibe is not here" in capsys.readouterr().err
    (out / "predictions.json").unlink()
    assert evaluate.main(["-p", str(out), "-r", str(one)]) == 2
    assert "names no DICOM series of this case" in capsys.readouterr().err


def test_an_output_inside_the_scans_is_refused(place, capsys):
    options = ["--dicom-out", "-o", str(place / "in/out")]
    assert call(place, *options) == 2
    assert "lies among the scans" in capsys.readouterr().err
    assert not (place / "in/out").exists()


@pytest.fixture
def nifti(place):
    """The MR of patient one as a NIfTI file instead of the tree."""
    (place / "in").rename(place / "scans")
    source = read_series(only_series(place / "scans/one/mr"))
    (place / "in").mkdir()
    write_volume(place / "in/scan_0000.nii.gz", source)
    return place


def test_nifti_needs_a_template_and_takes_its_patient(nifti, capsys):
    assert "give the series that it was made from by --dicom-template" in refusal(
        nifti, capsys, "--dicom-out"
    )
    template = only_series(nifti / "scans/one/mr")
    options = ["--dicom-out", "--dicom-template", str(nifti / "scans/one/mr")]
    assert call(nifti, *options) == 0
    written = only_series(nifti / "out/scan_dicom")
    assert (written.study, written.frame) == (template.study, template.frame)
    prediction = read_volume(nifti / "out/scan.nii.gz")
    np.testing.assert_array_equal(read_series(written).array, prediction.array)
    np.testing.assert_allclose(
        written.geometry.itk_origin, template.geometry.itk_origin, rtol=0, atol=1e-9
    )


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("one", "one series is needed, but here are 2 DICOM series"),
        ("far", "scan_0000.nii.gz does not lie where this series does"),
        ("none", "no such folder"),
        ("headless", "has no StudyInstanceUID or FrameOfReferenceUID"),
    ],
)
def test_a_template_of_another_scan_is_refused(nifti, models, capsys, template, text):
    write_scan(nifti / "scans/far", models, origin=(200.0, 0.0, 0.0))
    write_scan(nifti / "scans/headless", models, FrameOfReferenceUID=None)
    options = ["--dicom-out", "--dicom-template", str(nifti / "scans" / template)]
    assert text in refusal(nifti, capsys, *options)


def test_one_template_is_not_for_several_images(nifti, capsys):
    shutil.copy(nifti / "in/scan_0000.nii.gz", nifti / "in/other_0000.nii.gz")
    options = ["--dicom-out", "--dicom-template", str(nifti / "scans/one/mr")]
    assert "a template is for one image that is not DICOM" in refusal(nifti, capsys, *options)


def test_a_template_for_dicom_is_refused(place, capsys):
    options = ["--dicom-out", "--dicom-template", str(place / "in/one/mr")]
    assert "a template is for one image that is not DICOM" in refusal(place, capsys, *options)


@pytest.mark.parametrize("option", [["--dicom-template", "x"], ["--dicom-grid", "source"]])
def test_options_of_dicom_out_without_it_are_refused(place, capsys, option):
    assert "--dicom-out" in refusal(place, capsys, *option)


def test_python_translates_a_series(place, models):
    translator = load_model(place / "results/Dataset501_Test/regression__3d_fullres", device="cpu")
    translator.translate_files(place / "in/one/mr", place / "ct.nii.gz")
    source = read_series(only_series(place / "in/one/mr"))
    result = read_volume(place / "ct.nii.gz")
    assert grid_difference(result.geometry, source.geometry) is None
    inside = models.core(SHAPE)
    assert (result.array - source.array)[0][inside].mean() == pytest.approx(50, abs=1)


def box_on(series):
    """Structures on every slice of a series: one box for all names of the how-to."""
    direction = np.reshape(series.geometry.itk_direction, (3, 3))
    heights, rows, columns = series.geometry.stored_shape
    spacing = series.geometry.itk_spacing
    corners = np.array([[2, 2], [columns - 3, 2], [columns - 3, rows - 3], [2, rows - 3]])
    contours = [
        [
            np.array([*corner, height]) * spacing @ direction.T + series.geometry.itk_origin
            for corner in corners
        ]
        for height in range(heights)
    ]
    names = dict.fromkeys(("BODY", "PTV1", "Bladder"), contours)
    return make_structures(names, series.frame, series.uid)


def test_the_how_to_works(tmp_path, models, monkeypatch):
    """Its commands as they stand, in a folder with patients, scans and a model."""
    make_model(tmp_path / "gdmnet_results", models)
    for seed, patient in enumerate(("anna", "bert")):
        write_scan(tmp_path / f"patients/{patient}/mr", models, seed=seed)
        ct = {"Modality": "CT", "SeriesDescription": "planning", "direction": SAGITTAL}
        write_scan(tmp_path / f"patients/{patient}/ct", models, seed=seed, **ct)
        drawn = box_on(only_series(tmp_path / f"patients/{patient}/ct"))
        save(tmp_path / f"patients/{patient}/rs.dcm", drawn)
    shutil.copytree(tmp_path / "patients/anna/mr", tmp_path / "scans")
    write_volume(tmp_path / "scan_0000.nii.gz", read_series(only_series(tmp_path / "scans")))
    monkeypatch.chdir(tmp_path)
    for block in re.findall(r"^```bash\n(.*?)^```$", HOWTO.read_text("utf-8"), re.M | re.S):
        for line in block.splitlines():
            program, *arguments = shlex.split(line)
            command = importlib.import_module(f"gdmnet.commands.{program.removeprefix('gdm_')}")
            assert command.main(arguments) == 0, line
    assert (tmp_path / "gdmnet_raw/Dataset512_MRtoCT/dataset.json").is_file()
    assert len(list((tmp_path / "out").glob("case_*_dicom/CT_*.dcm"))) == SHAPE[0]
    assert len(list((tmp_path / "out2/scan_dicom").iterdir())) == SHAPE[0]
