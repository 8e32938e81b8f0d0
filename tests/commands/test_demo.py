"""The demo at its smallest; that it reaches its acceptance is for a person to see."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from gdmnet import codec
from gdmnet.commands import demo
from gdmnet.commands.demo import DemoCheck, DemoResult, DemoSettings, acceptance, describe
from gdmnet.data.volume import read_volume
from gdmnet.errors import OutputError

SMALLEST = DemoSettings(epochs=1, iterations=2, shape=(24, 24, 24), n_train=2, n_test=1)
GOOD = {
    "mean target": {"mae": 300.0, "psnr": 10.0, "ssim": 0.1, "sharpness": 0.0},
    "regression": {"mae": 100.0, "psnr": 20.0, "ssim": 0.6, "sharpness": 0.6},
    "gdm": {"mae": 104.0, "psnr": 20.0, "ssim": 0.6, "sharpness": 0.8},
}


def changed(method, **values):
    return {**GOOD, method: {**GOOD[method], **values}}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "out"
    return folder, demo.run(folder, SMALLEST)


def test_the_demo_leaves_a_picture_a_table_and_both_models(finished):
    folder, result = finished
    assert Image.open(folder / "demo.png").width > 1000
    assert codec.load(DemoResult, folder / "demo.json") == result
    assert (folder / "demo.md").read_text() == f"```\n{describe(result)}```\n"
    models = folder / "gdmnet_results" / demo.DATASET
    for method in demo.METHODS:
        assert (models / f"{method}__3d_fullres/fold_0/checkpoint_final.pt").is_file()


def test_both_trainings_have_equal_steps(finished):
    folder, _ = finished
    models = folder / "gdmnet_results" / demo.DATASET
    recipes = [
        json.loads((models / f"{method}__3d_fullres/fold_0/run.json").read_text())["recipe"]
        for method in demo.METHODS
    ]
    assert recipes[0] == recipes[1]
    assert recipes[0]["iterations"] == 2


def test_the_mean_target_is_the_mean_inside_the_body(finished):
    folder, result = finished
    (path,) = (folder / "predictions" / "mean target").glob("*.nii.gz")
    constant = read_volume(path).array
    assert constant.min() == constant.max()
    facts = json.loads(
        (folder / "gdmnet_preprocessed" / demo.DATASET / "fingerprint.json").read_text()
    )
    means = [case["target"]["mean"] for case in facts["cases"]]
    assert np.isclose(constant.max(), np.mean(means), atol=1)
    assert result.methods["mean target"]["mae"] > 100


def test_every_step_is_timed(finished):
    _, result = finished
    assert len(result.seconds) == demo.N_STEPS
    assert min(result.seconds.values()) >= 0


def test_an_earlier_demo_is_not_thrown_away_unasked(finished, capsys):
    folder, _ = finished
    with pytest.raises(OutputError, match="--overwrite"):
        demo.run(folder, SMALLEST)
    assert demo.main(["-o", str(folder)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert (folder / "demo.json").is_file()


def test_overwriting_removes_only_what_the_demo_made(tmp_path):
    raw = tmp_path / "gdmnet_raw"
    mine = [raw / "Dataset501_Mine", tmp_path / "gdmnet_results/Dataset501_Mine"]
    mine.append(tmp_path / "predictions" / "mine")
    made = [raw / demo.DATASET, tmp_path / "predictions" / "gdm"]
    for folder in (*mine, *made):
        folder.mkdir(parents=True)
    options = demo._fresh_folders(tmp_path, overwrite=True)
    assert options[0] == f"--raw={raw}"
    assert all(folder.is_dir() for folder in mine)
    assert not any(folder.exists() for folder in made)


@pytest.mark.parametrize(
    ("methods", "expected"),
    [
        (GOOD, [True, True, True]),
        (changed("mean target", mae=200.0), [False, True, True]),
        (changed("regression", mae=99.0), [True, False, True]),
        (changed("gdm", sharpness=1.41), [True, True, False]),
        (changed("gdm", sharpness=1.39), [True, True, True]),
        (changed("gdm", sharpness=0.6), [True, True, False]),
    ],
)
def test_the_acceptance_compares_with_the_mean_target_and_with_regression(methods, expected):
    assert [check.passed for check in acceptance(methods)] == expected


@pytest.mark.parametrize("passed", [True, False])
def test_the_exit_status_tells_whether_the_acceptance_holds(monkeypatch, tmp_path, passed):
    asked = []

    def run(output, options):
        asked.append((output, options))
        return DemoResult(GOOD, (DemoCheck("it works", passed),))

    monkeypatch.setattr(demo, "run", run)
    assert demo.main(["-o", str(tmp_path), "--seed", "3"]) == (0 if passed else 1)
    assert asked == [(tmp_path, DemoSettings(seed=3))]


def test_a_command_that_fails_ends_the_demo(monkeypatch, tmp_path):
    monkeypatch.setattr(demo.importlib, "import_module", lambda name: SimpleNamespace(main=len))
    with pytest.raises(SystemExit) as stopped:
        demo._call("train", 1, 2)
    assert stopped.value.code == 2


def test_the_table_has_a_row_a_method_and_a_line_a_check():
    checks = (DemoCheck("first", True), DemoCheck("second", False))
    lines = describe(DemoResult(GOOD, checks, {"a": 61.0})).splitlines()
    assert lines[0].split("  ")[-1] == "sharpness"
    assert lines[3].split() == ["gdm", "104", "20", "0.6000", "0.8000"]
    assert [line[:11].strip() for line in lines[1:4]] == list(GOOD)
    assert "- yes: first" in lines
    assert "- NO : second" in lines
    assert lines[-1] == "61 s in all"
