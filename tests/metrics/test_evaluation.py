import subprocess
import sys

import numpy as np
import pytest

from gdmnet.arrays.body import inscribed_circle
from gdmnet.data.case import Volume
from gdmnet.data.volume import read_volume, write_volume
from gdmnet.errors import DatasetError, SettingError
from gdmnet.geometry import Geometry
from gdmnet.metrics.conventions import EvaluationSettings
from gdmnet.metrics.evaluation import (
    METRICS,
    EvaluationFolders,
    ImagePair,
    evaluate_folders,
    evaluate_pairs,
    score,
)
from gdmnet.metrics.plausibility import PLAUSIBILITY
from gdmnet.metrics.structures import score_structures

SHAPE, SPACING = (8, 12, 14), (20.0, 10.0, 15.0)


def write(path, array, *, spacing=SPACING, origin=(0.0, 0.0, 0.0)):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.asarray(array, dtype=np.float32)
    write_volume(path, Volume(array[None], Geometry(array.shape, spacing, origin)))


def evaluate(folders, *, segmentations=None, n_processes=1, **settings):
    compared = EvaluationFolders(*folders, segmentations=segmentations)
    return evaluate_folders(compared, EvaluationSettings(**settings), n_processes=n_processes)


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
    summary = evaluate((out, targets, masks))
    assert summary.convention == "gdmnet"
    assert summary.data_range == 4095
    assert summary.mask == str(masks)
    assert summary.match_intensity is None
    assert list(summary.cases) == ["a", "b"]
    assert summary.cases["b"]["mae"] == pytest.approx(20, abs=1e-4)
    assert summary.cases["a"]["psnr"] == pytest.approx(20 * np.log10(4095 / 10), abs=1e-3)
    assert summary.cases["a"]["data_range"] == 4095
    assert set(summary.aggregate) == set(summary.cases["a"]) - {"data_range"}
    assert {*METRICS, *PLAUSIBILITY, "mae_soft"} <= set(summary.aggregate)
    aggregate = summary.aggregate["mae"]
    wanted = {"mean": 15, "std": 5, "median": 15, "min": 10, "max": 20, "count": 2}
    assert {name: aggregate[name] for name in wanted} == pytest.approx(wanted, abs=1e-4)
    assert aggregate["ci95_low"] == pytest.approx(10, abs=1e-4)
    assert summary.ranges["psnr"] == "each case's data_range, nothing clipped"
    assert summary.failed == {}


def test_files_give_what_arrays_give(folders, rng):
    out, targets, masks = folders
    reference = rng.uniform(50, 90, SHAPE).astype(np.float32)
    prediction = reference + rng.normal(0, 5, SHAPE).astype(np.float32)
    mask = np.ones(SHAPE)
    for folder, array in ((out, prediction), (targets, reference), (masks, mask)):
        for path in folder.iterdir():
            path.unlink()
        write(folder / "c.nii", array)
    summary = evaluate((out, targets, masks))
    assert summary.cases["c"] == score(prediction, reference, mask, SPACING)
    assert str(summary.data_range).startswith("per case")


def test_processes_give_what_one_gives(folders):
    assert evaluate(folders, n_processes=2) == evaluate(folders)


def test_without_masks_the_body_of_the_reference_counts(folders):
    out, targets, _ = folders
    summary = evaluate((out, targets))
    assert summary.mask.startswith("the body, computed from the reference (above -500 HU")
    assert summary.cases["a"]["mae"] == pytest.approx(10, abs=2)


def test_matching_removes_gain_and_offset_and_writes_both(folders):
    out, targets, masks = folders
    for path in out.iterdir():
        path.unlink()
    for path in targets.iterdir():
        write(out / path.name, (read_volume(path).array[0] + 7) / 4)
    summary = evaluate((out, targets, masks), match_intensity="linear")
    assert summary.match_intensity == "linear"
    case = summary.cases["a"]
    assert case["mae"] == pytest.approx(0, abs=1e-2)
    assert case["gain"] == pytest.approx(4, rel=1e-3)
    assert case["offset"] == pytest.approx(-7, abs=0.1)
    assert evaluate((out, targets, masks)).cases["a"]["mae"] > 10


def test_the_linear_match_does_not_dull_what_is_judged_by_its_looks(folders):
    out, targets, masks = folders
    for path in out.iterdir():
        path.unlink()
    for path in targets.iterdir():  # as real as the targets, and at odds with them everywhere
        write(out / path.name, read_volume(path).array[0][::-1, ::-1, ::-1] * 3 + 5)
    case = evaluate((out, targets, masks), match_intensity="linear").cases["a"]
    assert case["gain"] < 0.25
    assert case["sharpness"] == pytest.approx(1, abs=0.2)


def test_all_missing_partners_are_listed_in_one_line(folders):
    out, targets, masks = folders
    (out / "a.nii.gz").unlink()
    (targets / "b.mha").unlink()
    (masks / "a.nrrd").unlink()
    with pytest.raises(DatasetError) as error:
        evaluate((out, targets, masks), every_reference=True)
    text = str(error.value)
    assert f"{out}: no image of a" in text
    assert f"{targets}: no image of b" in text
    assert f"{masks}: no image of a" in text
    assert "\n" not in text


def test_references_without_a_prediction_are_a_note_unless_all_are_asked_for(folders):
    whole = evaluate(folders)
    (folders[0] / "a.nii.gz").unlink()
    part = evaluate(folders)
    assert part.note == "1 of 2 references used: the others have no prediction"
    assert part.cases == {"b": whole.cases["b"]}
    assert whole.note is None
    with pytest.raises(DatasetError, match="out: no image of a"):
        evaluate(folders, every_reference=True)


def test_references_without_a_prediction_are_noted_beside_cases_that_fail(folders):
    out, targets, _ = folders
    write(targets / "c.mha", read_volume(targets / "a.mha").array[0])
    write(out / "a.nii.gz", np.zeros(SHAPE))
    summary = evaluate(folders, keep_going=True)
    assert set(summary.failed) == {"a"}
    assert summary.note == "2 of 3 references used: the others have no prediction"


def test_a_pair_on_two_grids_of_one_shape_is_never_scored(folders):
    out, targets, masks = folders
    pair = ImagePair("a", *(next(folder.glob("a.*")) for folder in (out, targets, masks)))
    (found,) = evaluate_pairs([pair], EvaluationSettings())
    assert found.values["mae"] == pytest.approx(10, abs=1e-4)
    write(targets / "a.mha", read_volume(targets / "a.mha").array[0], spacing=SPACING[::-1])
    with pytest.raises(DatasetError, match=r"is not on the grid of .*a\.mha"):
        evaluate_pairs([pair], EvaluationSettings())


@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_values_beyond_what_can_be_scored_are_one_line(folders, rng):
    write(folders[0] / "a.nii.gz", 1e25 * rng.normal(size=SHAPE))
    with pytest.raises(DatasetError, match=r"a\.nii\.gz: its values are too large for sharpness"):
        evaluate(folders)
    assert set(evaluate(folders, keep_going=True).failed) == {"a"}


def test_unequal_grids_are_refused_before_anything_is_scored(folders):
    out, targets, masks = folders
    (out / "a.nii.gz").unlink()
    write(out / "a.nii.gz", np.zeros(SHAPE), spacing=(20.0, 10.0, 14.0))
    write(masks / "b.nrrd", np.ones(SHAPE), origin=(50.0, 0.0, 0.0))
    with pytest.raises(DatasetError) as error:
        evaluate((out, targets, masks))
    assert "spacing" in str(error.value)
    assert "origin" in str(error.value)


def test_spare_masks_and_other_files_are_left_alone(folders):
    out, targets, masks = folders
    write(masks / "z.nrrd", np.ones(SHAPE))
    (out / "predictions.json").write_text("{}")
    (out / ".c.partial.nii.gz").write_text("")
    assert list(evaluate((out, targets, masks)).cases) == ["a", "b"]


def damage(folders, kind):
    """Spoil case a; returns what is said about it."""
    out, targets, masks = folders
    prediction = out / "a.nii.gz"
    if kind == "a mask without voxels":
        write(masks / "a.nrrd", np.zeros(SHAPE))
        return "the mask is empty"
    if kind == "no partner":
        (targets / "a.mha").unlink()
        return f"{targets}: no image of a"
    if kind == "another grid":
        write(prediction, np.zeros((8, 12, 15)))
        return "not on the grid"
    if kind == "a constant":
        write(prediction, np.full(SHAPE, 42.0))
        return "is 42 everywhere inside the mask"
    if kind == "no image":
        prediction.write_bytes(b"nothing")
        return str(prediction)
    array = np.zeros(SHAPE)
    array[3, 4, 5] = np.nan
    write(prediction, array)
    return "NaN"


DAMAGES = [
    "a mask without voxels",
    "no partner",
    "another grid",
    "a constant",
    "no image",
    "not a number",
]


@pytest.mark.parametrize("kind", DAMAGES)
def test_what_cannot_be_scored_is_refused_in_one_line_that_names_the_case(folders, kind):
    said = damage(folders, kind)
    with pytest.raises(DatasetError) as error:
        evaluate(folders)
    assert said in str(error.value)
    assert "a." in str(error.value) or "of a" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kind", "n_processes"), [*((kind, 1) for kind in DAMAGES), ("a constant", 2)]
)
def test_the_other_cases_are_scored_when_it_keeps_going(folders, kind, n_processes):
    whole = evaluate(folders)
    said = damage(folders, kind)
    summary = evaluate(folders, keep_going=True, n_processes=n_processes)
    assert summary.cases == {"b": whole.cases["b"]}
    assert summary.aggregate["mae"]["count"] == 1
    assert list(summary.failed) == ["a"]
    assert said in summary.failed["a"]


def test_nothing_left_to_score_is_an_error_all_the_same(folders):
    out, targets, masks = folders
    for path in masks.iterdir():
        write(path, np.zeros(SHAPE))
    with pytest.raises(DatasetError, match="no case could be evaluated"):
        evaluate((out, targets, masks), keep_going=True)


def test_a_constant_is_scored_as_a_baseline_when_allowed(folders):
    damage(folders, "a constant")
    found = evaluate(folders, allow_constant=True).cases["a"]
    assert found["mae"] > 10
    assert found["sharpness"] < 1
    assert evaluate(folders, allow_constant=True, match_intensity="linear").cases["a"]["gain"] == 0


def test_the_convention_reaches_the_scores_and_the_papers(folders, rng):
    targets = folders[1]
    bright = np.where(np.arange(SHAPE[0])[:, None, None] == 3, 4000, rng.normal(0, 50, SHAPE))
    write(targets / "a.mha", np.where(bright < -90, -1000, bright))
    found = {name: evaluate(folders, convention=name) for name in ("synthrad2023", "synthrad2025")}
    assert found["synthrad2023"].data_range == 4024
    assert found["synthrad2025"].data_range == 4095
    assert found["synthrad2025"].convention == "synthrad2025"
    assert found["synthrad2025"].ranges["psnr"] == "4095, -1024 to 3071, clipped to it"
    psnrs = {name: summary.cases["a"]["psnr"] for name, summary in found.items()}
    assert psnrs["synthrad2023"] != psnrs["synthrad2025"]


def test_sparse_ct_counts_in_the_circle_where_no_masks_are_given(folders):
    out, targets, masks = folders
    summary = evaluate((out, targets), convention="sparse-ct")
    assert summary.mask.startswith("the field of view")
    circle = inscribed_circle(SHAPE, SPACING)
    arrays = (read_volume(next(f.glob("a.*"))).array[0] for f in (out, targets))
    expected = score(*arrays, circle, SPACING, convention="sparse-ct")
    assert summary.cases["a"] == expected
    assert evaluate(folders, convention="sparse-ct").mask == str(masks)


def test_a_circle_that_holds_no_voxel_is_one_line(folders, rng):
    out, targets, _ = folders
    for folder in (out, targets):
        write(folder / "a.nii.gz", rng.normal(0, 400, (3, 2, 2)), spacing=(3.0, 1.0, 2.0))
        for path in folder.glob("[ab].[!n]*"):
            path.unlink()
        (folder / "b.nii.gz").unlink(missing_ok=True)
    with pytest.raises(DatasetError, match="largest circle in each axial slice: the mask is empty"):
        evaluate((out, targets), convention="sparse-ct")


def test_references_that_are_no_ct_are_noted_where_the_range_is_fixed(folders):
    out, targets, masks = folders
    write(targets / "a.mha", np.abs(read_volume(targets / "a.mha").array[0]))
    assert "a" in evaluate((out, targets, masks), convention="synthrad2025").note
    assert evaluate((out, targets, masks)).note is None


def test_segmentations_add_dice_and_distances(folders, tmp_path, rng):
    labels = {}
    for side in ("predicted", "true"):
        for name in ("a", "b"):
            labels[side, name] = rng.integers(0, 3, SHAPE)
            write(tmp_path / side / f"{name}.nii.gz", labels[side, name])
    summary = evaluate(folders, segmentations=(tmp_path / "predicted", tmp_path / "true"))
    expected = score_structures(labels["predicted", "a"], labels["true", "a"], SPACING)
    assert {name: summary.cases["a"][name] for name in expected} == expected
    assert summary.aggregate["dice_2"]["count"] == 2
    for wrong in (0.5, -1):
        write(tmp_path / "true" / "b.nii.gz", labels["true", "b"] + wrong)
        with pytest.raises(DatasetError, match="whole numbers"):
            evaluate(folders, segmentations=(tmp_path / "predicted", tmp_path / "true"))
    (tmp_path / "true" / "b.nii.gz").unlink()
    with pytest.raises(DatasetError, match="no image of b"):
        evaluate(folders, segmentations=(tmp_path / "predicted", tmp_path / "true"))


def test_an_unknown_match_is_misuse(folders):
    with pytest.raises(SettingError, match="cubic"):
        evaluate(folders, match_intensity="cubic")


def test_an_unknown_convention_is_misuse():
    with pytest.raises(SettingError, match="synthrad2025"):
        EvaluationSettings(convention="synthrad2024")


def test_the_metrics_start_without_torch():
    code = (
        "import sys, gdmnet.metrics.evaluation, gdmnet.commands.evaluate;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
