import csv
import json

import numpy as np
import pytest

from gdmnet.commands.evaluate import main
from gdmnet.data.case import Volume
from gdmnet.data.volume import write_volume
from gdmnet.geometry import Geometry
from gdmnet.metrics.conventions import EvaluationSettings
from gdmnet.metrics.evaluation import EvaluationFolders, evaluate_folders

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
    titles = ["case", "MAE", "PSNR", "[dB]", "SSIM", "MS-SSIM", "bias", "sharpness"]
    assert lines[0].split()[: len(titles)] == titles
    assert max(map(len, lines[:13])) <= 100
    assert [line.split()[0] for line in lines if line.startswith(("alpha", "b ", "mean"))] == [
        "alpha",
        "b",
        "mean",
    ]
    assert len({len(line) for line in lines[:13]}) == 1  # columns are aligned
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
    targets = folders / "targets"
    summary = evaluate_folders(EvaluationFolders(targets, targets), EvaluationSettings())
    assert summary.aggregate["psnr"]["count"] == 0
    assert call(folders, "-p", str(folders / "targets")) == 0
    mean = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("mean"))
    assert mean.split()[:6] == ["mean", "0", "-", "1", "1", "0"]


def test_refusals_are_one_line_and_status_two(folders, capsys):
    (folders / "out" / "b.nii.gz").unlink()
    assert call(folders, "--all") == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("error: ")
    assert not (folders / "out" / "summary.json").exists()


def test_unknown_options_are_refused(folders, capsys):
    with pytest.raises(SystemExit) as stop:
        call(folders, "--match-intensity", "cubic")
    assert stop.value.code == 2
    assert "linear" in capsys.readouterr().err


def test_the_table_stays_within_100_columns(folders, capsys):
    for folder in ("out", "targets"):
        path = folders / folder / "b.nii.gz"
        path.rename(path.with_name("a_very_long_name_of_a_patient_" + 3 * "0123456789" + ".nii.gz"))
    assert call(folders) == 0
    lines = capsys.readouterr().out.splitlines()[:13]
    assert max(map(len, lines)) <= 100
    assert "MS-SSIM" in lines[0]
    assert any(line.startswith("a_very_long_nam..") for line in lines)


def test_a_convention_is_named_and_its_range_printed(folders, capsys):
    assert call(folders, "--convention", "synthrad2025-3000") == 0
    text = capsys.readouterr().out
    assert "convention: synthrad2025-3000" in text
    assert "data range: 4024" in text
    assert "note: synthrad2025-3000 is for CT in HU" in text
    data = json.loads((folders / "out" / "summary.json").read_text())
    assert data["convention"] == "synthrad2025-3000"
    assert data["ranges"]["ms_ssim"] == "4024, -1024 to 3000, clipped to it"


def test_a_table_is_written_as_csv(folders):
    assert call(folders, "--csv", str(folders / "scores.csv"), "--no-plausibility") == 0
    rows = list(csv.DictReader((folders / "scores.csv").open()))
    data = json.loads((folders / "out" / "summary.json").read_text())
    assert [row["case"] for row in rows] == ["alpha", "b"]
    assert float(rows[0]["mae"]) == data["cases"]["alpha"]["mae"]
    assert set(rows[0]) == {"case", *data["cases"]["alpha"]}
    assert "histogram_w1" not in rows[0]
    for path in (folders / "scores.csv", folders / "out" / "summary.json"):
        assert path.stat().st_mode & 0o777 == 0o600  # it names patients


def test_segmentations_show_in_the_table(folders, capsys):
    for folder in ("seg_out", "seg_targets"):
        (folders / folder).mkdir()
        labels = np.zeros(SHAPE, dtype=np.float32)
        labels[1:3, 2:6, 2:8] = 1
        for name in ("alpha", "b"):
            volume = Volume(labels[None], Geometry(SHAPE, (1.0, 1.0, 1.0)))
            write_volume(folders / folder / f"{name}.nii.gz", volume, integer=True)
    both = ("--seg-pred", str(folders / "seg_out"), "--seg-ref", str(folders / "seg_targets"))
    assert call(folders, *both) == 0
    assert "Dice  HD95 [mm]" in capsys.readouterr().out
    assert call(folders, *both[:2]) == 2
    assert "belong together" in capsys.readouterr().err


def test_it_keeps_going_and_says_so_with_status_one(folders, capsys):
    volume = Volume(np.full((1, *SHAPE), 3.0, dtype=np.float32), Geometry(SHAPE, (1.0, 1.0, 1.0)))
    write_volume(folders / "out" / "alpha.nii.gz", volume)
    assert call(folders) == 2
    assert "alpha" in capsys.readouterr().err
    assert call(folders, "--keep-going") == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("not evaluated: ")
    assert captured.err.count("\n") == 1
    data = json.loads((folders / "out" / "summary.json").read_text())
    assert list(data["cases"]) == ["b"]
    assert "alpha" in data["failed"]["alpha"]
    assert call(folders, "--allow-constant") == 0


def test_depths_and_regions_of_a_ct(folders, capsys):
    """A slab of water 40 mm thick; where label 2 lies the prediction is 5 % denser."""
    shape, spacing = (3, 60, 50), (3.0, 1.0, 1.5)
    reference = np.full(shape, -1000.0, dtype=np.float32)
    reference[:, 10:50] = 0.0
    labels = np.zeros(shape, dtype=np.float32)
    labels[1, 20:30, 5:45] = 2
    prediction = reference + np.where(labels == 2, 50.0, 0.0).astype(np.float32)
    table = folders / "scanner.csv"
    table.write_text("HU,density\n-1000,0\n0,1\n1000,2\n", encoding="utf-8")
    for folder, array in (("out", prediction), ("targets", reference), ("labels", labels)):
        (folders / folder).mkdir(exist_ok=True)
        (folders / folder / "b.nii.gz").unlink(missing_ok=True)
        volume = Volume(array[None], Geometry(shape, spacing))
        write_volume(folders / folder / "alpha.nii.gz", volume)
    options = ("--regions", str(folders / "labels"), "--density-table", str(table))
    assert call(folders, *options, "--wepl", "0,90", "--no-plausibility") == 0
    values = json.loads((folders / "out" / "summary.json").read_text())["cases"]["alpha"]
    assert values["mae_region_2"] == values["bias_region_2"] == pytest.approx(50.0)
    # From the front: 10 of 40 rows are 5 % too dense under 40 of 50 columns of one slice of three.
    assert values["wepl_p95_0"] == pytest.approx(0.5, abs=1e-3)
    assert values["wepl_bias_0"] == pytest.approx(0.5 * 40 / 50 / 3, abs=1e-3)
    # To the middle of the region at row 24.5: rows 20 to 24.5 of it lie before.
    assert values["wepl_region_2_0"] == pytest.approx(0.05 * 5.0, abs=0.03)
    assert values["wepl_region_2_90"] == pytest.approx(0.05 * 20 * 1.5, abs=0.05)
    told = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert "depth p95 [mm]" in " ".join(told[0])
    assert ["0", "0.1", "0.5"] in [line[:3] for line in told]  # of the angle, in mm
    assert ["2", "50.0", "50.0"] in told
    with pytest.raises(SystemExit, match="2"):
        call(folders, "--wepl", "0,x")
    assert "wepl must be a number, not 'x'" in capsys.readouterr().err


def test_depths_need_hounsfield_units(folders, capsys):
    assert call(folders, "--wepl", "0") == 2
    assert "is no CT in HU" in capsys.readouterr().err
