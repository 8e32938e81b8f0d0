import json

import numpy as np
import pytest

from gdmnet.commands.evaluate import main, run
from gdmnet.data.case import Volume
from gdmnet.data.volume import write_volume
from gdmnet.geometry import Geometry

SHAPE = (4, 9, 10)


@pytest.fixture
def folders(tmp_path, rng):
    for name in ("alpha", "b"):
        reference = rng.uniform(100, 200, SHAPE)
        for folder, array in (("out", 2 * reference + 5), ("targets", reference)):
            (tmp_path / folder).mkdir(exist_ok=True)
            volume = Volume(array.astype(np.float32)[None], Geometry(SHAPE, (1.0, 1.0, 1.0)))
            write_volume(tmp_path / folder / f"{name}.nii.gz", volume)
    return tmp_path


def call(folders, *options):
    out, targets = str(folders / "out"), str(folders / "targets")
    return main(["-p", out, "-r", targets, "-np", "1", *options])


def test_a_table_is_printed_and_json_written(folders, capsys):
    assert call(folders) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["case", "MAE", "PSNR", "[dB]", "SSIM", "sharpness"]
    assert [line.split()[0] for line in lines if line.startswith(("alpha", "b ", "mean"))] == [
        "alpha",
        "b",
        "mean",
    ]
    assert len({len(line) for line in lines[:11]}) == 1  # columns are aligned
    data = json.loads((folders / "out" / "summary.json").read_text())
    assert set(data) >= {"convention", "data_range", "mask", "cases", "aggregate"}
    assert data["cases"]["alpha"]["sharpness"] == pytest.approx(2, rel=1e-3)
    assert data["aggregate"]["mae"]["count"] == 2
    assert f"{data['aggregate']['mae']['mean']:.4g}" in "\n".join(lines)


def test_matching_is_said_in_the_table(folders, capsys):
    assert call(folders, "--match-intensity", "linear", "-o", str(folders / "x" / "s.json")) == 0
    assert "intensities matched: linear" in capsys.readouterr().out
    case = json.loads((folders / "x" / "s.json").read_text())["cases"]["b"]
    assert case["gain"] == pytest.approx(0.5, rel=1e-3)
    assert case["mae"] == pytest.approx(0, abs=1e-3)


def test_a_perfect_prediction_has_a_dash_for_psnr(folders, capsys):
    summary = run(folders / "targets", folders / "targets")
    assert summary.aggregate["psnr"]["count"] == 0
    assert call(folders, "-p", str(folders / "targets")) == 0
    mean = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("mean"))
    assert mean.split() == ["mean", "0", "-", "1", "1"]


def test_refusals_are_one_line_and_status_two(folders, capsys):
    (folders / "out" / "b.nii.gz").unlink()
    assert call(folders) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("error: ")
    assert not (folders / "out" / "summary.json").exists()


def test_unknown_options_are_refused(folders, capsys):
    with pytest.raises(SystemExit) as stop:
        call(folders, "--match-intensity", "cubic")
    assert stop.value.code == 2
    assert "linear" in capsys.readouterr().err
