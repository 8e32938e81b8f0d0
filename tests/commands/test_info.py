import json

import gdmnet
from gdmnet import folders
from gdmnet.commands.info import main, run
from gdmnet.folders import find_roots


def summary(mae):
    return {
        "convention": "gdmnet",
        "units": "HU",
        "data_range": 4095.0,
        "mask": "the body",
        "match_intensity": None,
        "cases": {},
        "aggregate": {"mae": {"mean": mae}},
    }


def lines(text, word):
    return [line for line in text.splitlines() if word in line]


def test_finished_models_are_listed_with_folds_size_and_error(tmp_path, models):
    folder = models.make_model(tmp_path, {"0": 0.0, "1": 0.0, "2": 0.0})
    models.make_model(tmp_path, objective="gdm", finished=False)
    for fold, mae in enumerate((30.0, 40.0)):  # the third fold has no validation
        path = folder / f"fold_{fold}" / folders.SUMMARY_JSON
        path.write_text(json.dumps(summary(mae)))
    n_bytes = sum(path.stat().st_size for path in folder.rglob("*.*"))
    shown = run(find_roots(results=tmp_path))
    (row,) = lines(shown, "Dataset501_Test")
    assert row.split()[:6] == ["Dataset501_Test", "regression", "3d_fullres", "0,", "1,", "2"]
    assert f"{n_bytes / 2**20:.1f} MiB" in row
    assert row.endswith("35 HU")


def test_a_damaged_validation_does_not_hide_the_model(tmp_path, models):
    folder = models.make_model(tmp_path)
    (folder / "fold_0" / folders.SUMMARY_JSON).write_text("{damaged")
    (row,) = lines(run(find_roots(results=tmp_path)), "Dataset501_Test")
    assert row.endswith("-")


def test_folders_are_shown_with_their_origin(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine" / "Dataset501_A").mkdir(parents=True)
    monkeypatch.setenv("gdmnet_raw", str(tmp_path / "mine"))
    assert main([f"--results={tmp_path}"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    for name, origin, content in (
        ("gdmnet_raw", "environment variable", "1 dataset"),
        ("gdmnet_preprocessed", "current directory", "no such folder"),
        ("gdmnet_results", "given", "0 datasets"),
    ):
        (row,) = lines(captured.out, f"  {name}")
        assert row.index(f"({origin})") < row.index(content)
    assert lines(captured.out, "none is finished")


def test_versions_and_the_cpu_are_shown():
    shown = run(find_roots())
    assert lines(shown, "gdmnet ")[0].split() == ["gdmnet", gdmnet.__version__]
    assert lines(shown, "  cpu ")[0].split("threads")[0].split()[-1] == "1"
