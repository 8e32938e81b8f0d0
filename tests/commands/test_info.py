import csv
import io
import json
import subprocess
import sys
from pathlib import Path

from arguments import COMMANDS as INSTALLED

import gdmnet
from gdmnet import folders
from gdmnet.commands.info import COMMANDS, main, run
from gdmnet.folders import find_roots

ROOT = Path(__file__).resolve().parents[2]


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
    found, row = lines(shown, "Dataset501_Test")
    assert found.split() == ["Dataset501_Test", "-", "-", "1"]
    assert row.split()[:6] == ["Dataset501_Test", "regression", "3d_fullres", "0,", "1,", "2"]
    assert f"{n_bytes / 2**20:.1f} MiB" in row
    assert row.endswith("35 HU, mask: the body")


def test_a_damaged_validation_does_not_hide_the_model(tmp_path, models):
    folder = models.make_model(tmp_path)
    (folder / "fold_0" / folders.SUMMARY_JSON).write_text("{damaged")
    _, row = lines(run(find_roots(results=tmp_path)), "Dataset501_Test")
    assert row.endswith("-")


def test_a_file_that_goes_while_its_size_is_asked_counts_nothing(tmp_path, models, monkeypatch):
    folder, is_file = models.make_model(tmp_path), Path.is_file
    part = folder / "fold_1" / ".checkpoint_latest.pt.part"
    part.parent.mkdir()
    part.symlink_to("gone")
    monkeypatch.setattr(Path, "is_file", lambda path: path == part or is_file(path))
    _, row = lines(run(find_roots(results=tmp_path)), "Dataset501_Test")
    assert "MiB" in row


def test_folders_are_shown_with_their_origin(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine" / "Dataset501_A").mkdir(parents=True)
    monkeypatch.setenv("gdmnet_raw", str(tmp_path / "mine"))
    assert main([f"--results={tmp_path}"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    for name, origin in (
        ("gdmnet_raw", "(environment variable)"),
        ("gdmnet_preprocessed", "(current directory; no such folder)"),
        ("gdmnet_results", "(given)"),
    ):
        (row,) = lines(captured.out, f"  {name}")
        assert row.endswith(origin)
    (row,) = lines(captured.out, "Dataset501_A")
    assert row.split() == ["Dataset501_A", "-", "-", "0"]
    assert lines(captured.out, "none is finished")


def test_datasets_are_listed_with_what_is_there_of_each(prepared, capsys):
    assert main([f"--{n}={prepared / n}" for n in ("raw", "preprocessed", "results")]) == 0
    (row,) = lines(capsys.readouterr().out, "Dataset999_Phantom")
    assert row.split() == ["Dataset999_Phantom", "3", "3d_fullres", "0"]


def test_the_commands_are_shown_in_order_of_use_with_what_each_does(tmp_path):
    shown = run(find_roots(tmp_path, tmp_path, tmp_path)).splitlines()
    names = [line.split()[0] for line in shown[1 : 1 + len(COMMANDS)]]
    assert names == [f"gdm_{name}" for name in COMMANDS]
    assert lines("\n".join(shown), "gdm_predict ")[0].endswith("images with a trained model")
    assert lines("\n".join(shown), "none is here; make one")
    assert set(COMMANDS) == set(INSTALLED)


def test_without_arguments_torch_is_not_needed():
    code = (
        "import sys; from gdmnet.commands.info import main; main([]); print('torch' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
    assert ended.stdout.endswith(b"False\n")


def test_versions_and_the_cpu_are_shown(capsys):
    assert main(["--devices"]) == 0
    shown = capsys.readouterr().out
    assert lines(shown, "gdmnet ")[0].split() == ["gdmnet", gdmnet.__version__]
    assert lines(shown, "  cpu ")[0].split("threads")[0].split()[-1] == "1"


def test_a_log_is_printed_as_csv(trained, capsys, tmp_path):
    fold = trained / "results/Dataset999_Phantom/gdm__3d_fullres/fold_0"
    assert main(["--log", str(fold)]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    records = [json.loads(line) for line in (fold / "log.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[1]["validation_mae"]) == records[1]["validation_mae"]
    assert set(rows[0]) == {name for record in records for name in record}
    assert main(["--log", str(tmp_path)]) == 2
    assert "no log.jsonl here" in capsys.readouterr().err
