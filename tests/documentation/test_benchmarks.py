"""The scripts of documentation/benchmarks at tiny size: they run, and say what they ought to."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from gdmnet import codec, folders
from gdmnet.arrays.body import body_mask
from gdmnet.commands import simulate_sparse_view
from gdmnet.data.case import Volume
from gdmnet.data.volume import read_volume, write_volume
from gdmnet.datasets.phantom import make_patient, write_phantom_dataset
from gdmnet.geometry import Geometry
from gdmnet.models import checkpoint
from gdmnet.plan import Plan

DOCUMENTATION = Path(__file__).resolve().parents[2] / "documentation"


@pytest.fixture
def script(monkeypatch):
    """A script by its name; they import each other as they do beside each other."""
    monkeypatch.syspath_prepend(DOCUMENTATION / "benchmarks")
    monkeypatch.setattr("gdmnet.compare.verdict.N_PATCHES", 64)  # judges look at 2000
    return importlib.import_module


def table(path):
    """Rows of a Markdown table: first cell -> the others."""
    lines = [line for line in path.read_text("utf-8").splitlines() if line.startswith("| ")]
    cells = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return {name: others for name, *others in cells}


def test_sparse_view_compares_all_methods_and_keeps_what_is_finished(
    script, tmp_path, models, capsys
):
    shape, spacing = (4, 24, 32), (3.0, 6.0, 4.5)
    for seed, name in enumerate("abc"):
        _, ct, _ = make_patient(np.random.default_rng(seed), shape)
        (tmp_path / "ct").mkdir(exist_ok=True)
        path = tmp_path / "ct" / f"{name}.nii.gz"
        write_volume(path, Volume(ct[None], Geometry(shape, spacing)), integer=True)
    codec.save({"train": ["a", "b"], "test": ["c"]}, tmp_path / "split.json")
    words = ["-i", tmp_path / "ct", "-d", "502", "--views", "30", "--keep-sinograms", "-np", "1"]
    words += ["--split", tmp_path / "split.json", "--raw", tmp_path / "raw"]
    assert simulate_sparse_view.main([str(word) for word in words]) == 0
    (raw,) = (tmp_path / "raw").iterdir()
    configuration = models.make_configuration(spacing=spacing)
    model = models.make_model(
        tmp_path, {"all": -30.0}, objective="gdm", configuration=configuration
    )
    final = folders.fold_folder(model, "all") / folders.FINAL
    twin = models.shifted_weights(configuration, 0.0)
    checkpoint.save(final, {**checkpoint.load(final), "twin": twin})

    chains = script("task_chains")
    words = ["sparse-view", raw, "-m", model, "-o", tmp_path / "out", "--judge-iterations", "2"]
    words = [str(word) for word in words]
    assert chains.main(words) == 0
    home = tmp_path / "out" / raw.name
    rows = table(home / "table.md")
    header = rows.pop(raw.name)
    assert list(rows) == [chains.FBP, chains.VARIATION, *chains.MODEL_ROWS]
    mae = {name: float(cells[header.index("MAE")]) for name, cells in rows.items()}
    assert mae["regression (T = 0)"] == pytest.approx(mae[chains.FBP], rel=0.2)  # adds nothing
    assert mae["gdm (T = 1.5)"] > mae["gdm (T = 1)"] > mae["regression (T = 0)"]  # 45, 30, 0 HU
    assert mae["gdm (T = 1) + data consistency"] < mae["gdm (T = 1)"]
    capsys.readouterr()
    assert chains.main(words) == 0
    assert capsys.readouterr().out == ""


def test_dicom_checks_every_series(script, tmp_path, models, capsys, monkeypatch):
    model = models.make_model(tmp_path, {"0": 50.0})
    plan = codec.load(Plan, model / folders.PLAN_JSON)
    codec.save(replace(plan, channel_names=("MR",)), model / folders.PLAN_JSON)
    for seed in (0, 1):
        models.write_ct(tmp_path / f"in/case_{seed}_0000.nii.gz", seed=seed)
    chains = script("task_chains")
    words = ["dicom", str(tmp_path / "in"), str(tmp_path / "out"), "-m", str(model)]
    assert chains.main(words) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| case_")]
    assert len(rows) == 4  # an axial and an oblique scan, on both grids
    assert all("24 + 17: all there | 0 |" in row for row in rows)

    monkeypatch.setattr(chains, "TYPE_1", [*chains.TYPE_1, "ContrastBolusAgent"])
    assert chains.main(words) == 1
    assert "ContrastBolusAgent (type 1)" in capsys.readouterr().out


def test_slices_keep_their_place(script, tmp_path):
    raw = write_phantom_dataset(tmp_path, n_train=1, n_test=1, shape=(5, 12, 12))
    out = tmp_path / "Dataset504_Slices"
    assert script("task_chains").main(["slices", str(raw), str(out)]) == 0
    paths = sorted(path.relative_to(raw) for path in raw.rglob("*") if path.is_file())
    assert paths == sorted(path.relative_to(out) for path in out.rglob("*") if path.is_file())
    (whole, part) = (
        sitk.ReadImage(str(home / "imagesTr/phantom_01_0000.nii.gz")) for home in (raw, out)
    )
    middle = whole.GetSize()[2] // 2
    assert part.GetSize() == (*whole.GetSize()[:2], 1)
    assert part.GetSpacing() == whole.GetSpacing()
    assert part.GetOrigin() == pytest.approx(whole.TransformIndexToPhysicalPoint((0, 0, middle)))
    assert (sitk.GetArrayFromImage(part)[0] == sitk.GetArrayFromImage(whole)[middle]).all()


def test_method_study_makes_rows_of_one_start_and_goes_on(script, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("gdmnet.training.loop._draw", lambda *_: None)  # slower than steps
    raw = write_phantom_dataset(tmp_path / "raw", n_train=2, n_test=2, shape=(10, 24, 24))
    study, home = script("method_study"), tmp_path / "study"
    words = ["999", "-o", str(home), "--raw", str(raw.parent), "--small", "--base-steps", "2"]
    words += ["--steps", "2", "--encoder-steps", "2", "--judge-steps", "2"]
    assert study.main([*words, "--rows", "regression"]) == 0
    before = {path: path.read_text("utf-8") for path in home.glob("rows/*/row.json")}
    assert not (home / "front.png").exists()  # two points are no curve
    made = ["pooled@0.5", "stretch_1", "pooled@0.5+finish_0.25", "flow_steps_1"]
    assert study.main([*words, "--rows", *made]) == 0  # of regression, pooled and flow
    assert (home / "front.png").stat().st_size > 0
    assert len(before) == 1
    assert before == {path: path.read_text("utf-8") for path in before}
    rows = table(home / "table.md")
    header = rows.pop("Dataset999_Phantom, 2 + 2 steps")
    assert rows["within so much MAE"] == ["seeds", *study.JUDGED.values()]
    rows = {name: cells for name, cells in rows.items() if len(cells) == len(header)}
    assert list(rows) == ["regression", "pooled", "pooled@0.5", made[2], *made[1::2]]
    figures = [cells[: header.index("s/step")] for cells in rows.values()]
    assert len(set(map(tuple, figures))) == 6
    assert all("-" not in cells[: header.index("MAE matched")] for cells in figures)
    assert rows["pooled@0.5"][header.index("s/step")] == "-"
    assert study.main([*words, "--pictures", "regression", "pooled"]) == 0
    assert (home / "pictures.png").stat().st_size > 0
    capsys.readouterr()
    assert study.main([*words[:-1], "3"]) == 2
    assert "its rows were made with" in capsys.readouterr().err


def test_base_study_compares_what_was_tried_on_validation_cases(script, tmp_path, monkeypatch):
    monkeypatch.setattr("gdmnet.training.loop._draw", lambda *_: None)
    raw = write_phantom_dataset(tmp_path / "raw", n_train=3, n_test=0, shape=(10, 24, 24))
    study, home = script("base_study"), tmp_path / "study"
    words = ["999", "-o", str(home), "--raw", str(raw.parent), "--steps", "2", "--folds", "0"]
    assert study.main([*words, "--rows", "gradients", "nyul", "lowres + fullres"]) == 0
    rows = table(home / "table.md")
    assert list(rows) == ["row", "regression", "gradients", "nyul", "lowres", "lowres + fullres"]
    assert len({cells[1] for cells in rows.values()}) == 6
    assert rows["regression"][2] == "1.0000"
    images = [
        [read_volume(path) for path in sorted((place / raw.name / "imagesTr").iterdir())]
        for place in (raw.parent, home / "raw")
    ]
    inside = [body_mask(image.array, image.geometry.spacing, [False])[0] > 0 for image in images[0]]
    found = [study.landmarks(v.array[0], body) for v, body in zip(images[1], inside, strict=True)]
    np.testing.assert_allclose(found, [found[0]] * 3, atol=2.0)  # of 1000: between two voxels


def test_methods_are_compared_where_their_fronts_have_equal_error(script):
    study = script("method_study")
    found = {
        name: {"mae": mae, "frechet_self": distance}
        for name, mae, distance in (
            ("regression", 10.0, 4.0), ("a", 9.9, 3.0), ("b", 10.1, 2.0), ("c", 10.3, 1.0),
        )
    }  # fmt: skip
    at = partial(study.at_equal_error, found, ["regression", "a", "b", "c"], "frechet_self")
    assert at(1.0) == pytest.approx(2.5 / 4)  # between a and b, not at regression itself
    assert at(1.02) == pytest.approx(1.5 / 4)
    assert at(1.05) == pytest.approx(1 / 4)  # c stays below: not extrapolated
    assert study.at_equal_error(found, ["regression", "d"], "frechet_self", 1.0) is None


def test_fronts_of_several_seeds_are_averaged_each_over_its_own_regression(script):
    study = script("method_study")
    figures = {"regression": (10.0, 4.0), "pooled": (10.2, 2.0)}
    figures |= {
        "regression_seed1": (20.0, 10.0),
        "pooled_seed1": (20.4, 7.0),
        "coupled": (9.0, 1.0),
    }
    found = {
        name: dict.fromkeys(study.JUDGED, distance) | {"mae": mae}
        for name, (mae, distance) in figures.items()
    }
    pooled = [line.split("|") for line in study.equal_error_table(found) if "pooled, 1.01 " in line]
    assert [cell.strip() for cell in pooled[0][1:4]] == ["pooled, 1.01", "2", "0.800 +- 0.071"]


def test_the_front_never_mixes_matched_and_unmatched(script):
    panels = script("method_study").PANELS.values()
    assert len(panels) == 2
    assert {"matched" in error for error, _ in panels} == {True, False}
    assert all(("matched" in error) == ("matched" in distance) for error, distance in panels)


def test_expected_errors_are_held_against_true_ones_of_held_out_cases(script, tmp_path):
    shape = (6, 24, 32)
    (tmp_path / "ct").mkdir()
    for seed in range(8):
        _, ct, _ = make_patient(np.random.default_rng(seed), shape)
        volume = Volume(ct[None], Geometry(shape, (3.0, 6.0, 4.5)))
        write_volume(tmp_path / "ct" / f"{seed}.nii.gz", volume, integer=True)
    words = [str(tmp_path / "ct"), "-o", str(tmp_path / "out"), "--epochs", "1"]
    assert script("expected_error").main(words) == 0
    rows = table(tmp_path / "out/table.md")
    assert {name: rows[name][0] for name in ("Mixed", "Plain")} == {"Mixed": "4", "Plain": "4"}
    assert rows["0"][0] == "60"
    assert all(float(rows[name][1]) > 0 for name in "0257")


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks need Linux")
def test_rivals_measures_gdmnet_alone(script, tmp_path, capsys, monkeypatch):
    rivals = script("rivals")
    for name in rivals.VARIABLES:
        monkeypatch.setenv(name, "1")  # taken back when the test ends
    monkeypatch.setattr("gdmnet.models.precision.cpu_has_bf16", lambda: True)
    raw = write_phantom_dataset(tmp_path / "raw", n_train=2, n_test=1, shape=(10, 24, 24))
    words = [str(raw), str(tmp_path / "scratch"), "--cases", "phantom_01", "phantom_02"]
    rivals.main([*words, "--rounds", "1"])
    printed = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in printed[2:19]]
    assert next(row[0] for row in rows if row[0].startswith("- ")) == "- on disk [MiB]"
    assert all(float(row[2].split(" ")[0]) > 0 for row in rows), rows
    assert {row[3] for row in rows} == {"-"}  # no ratio without nnU-Net
    with pytest.raises(SystemExit):  # what is there stays
        rivals.main(words)
    (plan,) = (tmp_path / "scratch").glob("**/preprocessed/*/plan.json")
    assert script("step_cost").main([str(plan.parent), "-n", "1"]) == 0
    *_, header, _, first, pooled, coupled, paired, both = capsys.readouterr().out.splitlines()
    assert header == "| step in fp32 | CPU s | over regression's |"
    assert first.endswith("| 1.000 |")
    assert all(float(line.split("|")[3]) > 0 for line in (pooled, coupled, paired, both))


def test_a_ratio_above_one_means_that_gdmnet_is_cheaper(script):
    found = script("rivals").Measurement(2)
    for theirs, ours in ((4.0, 1.0), (9.0, 3.0)):
        for tool, seconds in (("nnunet", theirs), ("gdmnet", ours)):
            found.add("work", tool, {"cpu": seconds, "wall": 2 * seconds, "peak": 100 * seconds})
    assert list(found.lines()) == ["| work | 6.5 (13) | 2 (4) | 3.5 | 3.5 | 650 / 200 |"]


def test_rivals_starts_in_an_environment_without_gdmnet(script):
    tree = ast.parse(Path(script("rivals").__file__).read_text("utf-8"))
    names = [node.module for node in tree.body if isinstance(node, ast.ImportFrom)]
    names += [
        alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names
    ]
    assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names


def test_commands_of_the_pages_are_understood(script):
    pages = [DOCUMENTATION / "benchmarks.md", *(DOCUMENTATION / "benchmarks").glob("*.md")]
    text = "\n".join(page.read_text("utf-8") for page in pages)
    lines = re.findall(r"^python documentation/benchmarks/(\w+)\.py (.*)$", text, re.M)
    assert {name for name, _ in lines} >= {"method_study", "rivals", "task_chains"}
    for name, arguments in lines:
        script(name).build_parser().parse_args(shlex.split(arguments, comments=True))
    scripts = {path.stem for path in (DOCUMENTATION / "benchmarks").glob("*.py")}
    assert scripts == {
        *("base_study", "engines", "expected_error", "judging", "large_volume", "method_study"),
        *("rivals", "simulated_memory", "step_cost", "task_chains"),
    }


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells the peak")
def test_a_large_volume_is_measured_part_by_part(script, capsys):
    assert script("large_volume").main(["--shape", "20", "64", "70"]) == 0
    parts = [line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines()[2:]]
    assert (parts[0], parts[-1], len(parts)) == ("read", "write", 7)


def test_engines_are_timed_and_agree(script, tmp_path, models, capsys):
    for package in ("onnx", "onnxruntime", "openvino"):
        pytest.importorskip(package)
    assert script("engines").main([str(models.make_model(tmp_path, {"0": 50.0})), "-n", "1"]) == 0
    *_, by_torch, half, onnxruntime, openvino = capsys.readouterr().out.splitlines()
    assert by_torch.startswith("| torch, fp32 |")
    assert half.startswith("| torch, bf16 |")
    for line, name in ((onnxruntime, "onnxruntime"), (openvino, "openvino")):
        assert line.startswith(f"| {name} |")
        assert float(line.split("|")[4]) < 1e-4
