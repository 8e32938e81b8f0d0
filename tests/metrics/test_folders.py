import subprocess
import sys

import numpy as np
import pytest

from gdmnet.data.case import Volume
from gdmnet.data.volume import read_volume, write_volume
from gdmnet.errors import DatasetError
from gdmnet.geometry import Geometry
from gdmnet.metrics.folders import aggregate, evaluate_folders, images_by_case
from gdmnet.metrics.score import METRICS, score

SHAPE, SPACING = (8, 12, 14), (20.0, 10.0, 15.0)


def write(path, array, *, spacing=SPACING, origin=(0.0, 0.0, 0.0)):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.asarray(array, dtype=np.float32)
    write_volume(path, Volume(array[None], Geometry(array.shape, spacing, origin)))


@pytest.fixture
def folders(tmp_path, rng):
    """Two CT cases, predictions 10 and 20 HU too high, masks, and the arrays."""
    mask = np.zeros(SHAPE)
    mask[2:6, 2:10, 2:12] = 1
    for name, error in (("a", 10), ("b", 20)):
        reference = np.where(mask, rng.normal(0, 100, SHAPE), -1000)
        write(tmp_path / "out" / f"{name}.nii.gz", np.where(mask, reference + error, 77))
        write(tmp_path / "targets" / f"{name}.mha", reference)
        write(tmp_path / "masks" / f"{name}.nrrd", mask)
    return tmp_path / "out", tmp_path / "targets", tmp_path / "masks"


def test_cases_are_scored_and_summarised(folders):
    out, targets, masks = folders
    summary = evaluate_folders(out, targets, masks)
    assert summary.convention == "gdmnet"
    assert summary.data_range == 4095
    assert summary.mask == str(masks)
    assert summary.match_intensity is None
    assert list(summary.cases) == ["a", "b"]
    assert summary.cases["b"]["mae"] == pytest.approx(20, abs=1e-4)
    assert summary.cases["a"]["psnr"] == pytest.approx(20 * np.log10(4095 / 10), abs=1e-3)
    assert summary.cases["a"]["data_range"] == 4095
    assert set(summary.aggregate) == set(METRICS)
    assert summary.aggregate["mae"] == pytest.approx(
        {"mean": 15, "std": 5, "median": 15, "min": 10, "max": 20, "count": 2}, abs=1e-4
    )


def test_files_give_what_arrays_give(folders, rng):
    out, targets, masks = folders
    reference = rng.uniform(50, 90, SHAPE).astype(np.float32)
    prediction = reference + rng.normal(0, 5, SHAPE).astype(np.float32)
    mask = np.ones(SHAPE)
    for folder, array in ((out, prediction), (targets, reference), (masks, mask)):
        for path in folder.iterdir():
            path.unlink()
        write(folder / "c.nii", array)
    summary = evaluate_folders(out, targets, masks)
    assert summary.cases["c"] == score(prediction, reference, mask, SPACING)
    assert str(summary.data_range).startswith("per case")


def test_processes_give_what_one_gives(folders):
    assert evaluate_folders(*folders, n_processes=2) == evaluate_folders(*folders)


def test_without_masks_the_body_of_the_reference_counts(folders):
    out, targets, _ = folders
    summary = evaluate_folders(out, targets)
    assert summary.mask.startswith("the body, computed from the reference (above -500 HU")
    assert summary.cases["a"]["mae"] == pytest.approx(10, abs=2)


def test_matching_removes_gain_and_offset_and_writes_both(folders):
    out, targets, masks = folders
    for path in out.iterdir():
        path.unlink()
    for path in targets.iterdir():
        write(out / path.name, (read_volume(path).array[0] + 7) / 4)
    summary = evaluate_folders(out, targets, masks, match_intensity="linear")
    assert summary.match_intensity == "linear"
    case = summary.cases["a"]
    assert case["mae"] == pytest.approx(0, abs=1e-2)
    assert case["gain"] == pytest.approx(4, rel=1e-3)
    assert case["offset"] == pytest.approx(-7, abs=0.1)
    assert evaluate_folders(out, targets, masks).cases["a"]["mae"] > 10


def test_all_missing_partners_are_listed_in_one_line(folders):
    out, targets, masks = folders
    (out / "a.nii.gz").unlink()
    (targets / "b.mha").unlink()
    (masks / "a.nrrd").unlink()
    with pytest.raises(DatasetError) as error:
        evaluate_folders(out, targets, masks)
    text = str(error.value)
    assert f"{out}: no image of a" in text
    assert f"{targets}: no image of b" in text
    assert f"{masks}: no image of a" in text
    assert "\n" not in text


def test_unequal_grids_are_refused_before_anything_is_scored(folders):
    out, targets, masks = folders
    (out / "a.nii.gz").unlink()
    write(out / "a.nii.gz", np.zeros(SHAPE), spacing=(20.0, 10.0, 14.0))
    write(masks / "b.nrrd", np.ones(SHAPE), origin=(50.0, 0.0, 0.0))
    with pytest.raises(DatasetError) as error:
        evaluate_folders(out, targets, masks)
    assert "spacing" in str(error.value)
    assert "origin" in str(error.value)


def test_spare_masks_and_other_files_are_left_alone(folders):
    out, targets, masks = folders
    write(masks / "z.nrrd", np.ones(SHAPE))
    (out / "predictions.json").write_text("{}")
    (out / ".c.partial.nii.gz").write_text("")
    assert list(evaluate_folders(out, targets, masks).cases) == ["a", "b"]


def test_an_empty_mask_is_refused(folders):
    out, targets, masks = folders
    write(masks / "a.nrrd", np.zeros(SHAPE))
    with pytest.raises(DatasetError, match="the mask is empty"):
        evaluate_folders(out, targets, masks)


def test_folders_without_images_are_refused(tmp_path):
    with pytest.raises(DatasetError, match="no such folder"):
        images_by_case(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="no image here"):
        images_by_case(tmp_path)


def test_a_case_in_two_formats_is_refused(folders):
    out, *_ = folders
    write(out / "a.mha", np.zeros(SHAPE))
    with pytest.raises(DatasetError, match="keep one"):
        images_by_case(out)


def test_an_unknown_match_is_misuse(folders):
    with pytest.raises(ValueError, match="cubic"):
        evaluate_folders(*folders, match_intensity="cubic")


def test_undefined_values_are_not_averaged():
    assert aggregate([1.0, None, 3.0])["mean"] == 2
    assert aggregate([1.0, None, 3.0])["count"] == 2
    assert aggregate([None])["mean"] is None
    assert aggregate([None])["count"] == 0


def test_the_metrics_start_without_torch():
    code = (
        "import sys, gdmnet.metrics.folders, gdmnet.commands.evaluate;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
