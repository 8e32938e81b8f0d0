import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from report.phantoms import SHAPE, target, unpack, write, write_case, write_record

from gdmnet.commands.report import main
from gdmnet.geometry import Geometry
from gdmnet.metrics.conventions import EvaluationSettings
from gdmnet.metrics.evaluation import EvaluationFolders, evaluate_folders

ODD = "A&B 'c'"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A report of two cases with everything, made by the command."""
    home = tmp_path_factory.mktemp("made")
    write_case(home, "a", 0, error=50, spread=5)
    write_case(home, ODD, 1, error=200, spread=5)
    write_record(home, {"a": {"warnings": ["odd spacing"], "inputs": {}}})
    assert call(home) == 0
    return home


def call(home, *options):
    folders = ("-p", "out", "-r", "targets", "-s", "in")
    given = [str(home / word) if not word.startswith("-") else word for word in folders]
    return main([*given, "-np", "1", *options])


def html_of(home):
    return (home / "out/report.html").read_text("utf-8")


def views_of(html):
    return [json.loads(t) for t in re.findall(r'id="case-\d+">(.+?)</script>', html)]


def test_the_table_is_that_of_gdm_evaluate(made):
    summary = evaluate_folders(
        EvaluationFolders(made / "out", made / "targets"), EvaluationSettings()
    )
    html = html_of(made)
    for case in summary.cases.values():
        for metric in ("mae", "bias", "ms_ssim", "mae_bone", "histogram_w1"):
            assert re.search(rf'title="{case[metric]}">([-\d.]+)', html)[1] in (
                f"{case[metric]:.{decimals}f}" for decimals in range(7)
            )
    assert f"<td>{summary.aggregate['mae']['mean']:.4g}" in html


def test_the_report_holds_the_images(made):
    view = views_of(html_of(made))[0]
    assert view["identifier"] == ODD
    packed = view["pictures"][2]["packed"]
    shown = unpack(packed["text"], packed["step"], tuple(view["shape"]))
    assert shown.shape == SHAPE
    assert shown[4, 7, 17] == pytest.approx(900, abs=40)


def test_it_says_how_it_was_made(made):
    html = html_of(made)
    assert "gdm_report -p " in html
    assert "ab" * 32 in html
    assert "odd spacing" in html.split('<section id="viewer"')[0]


def test_nobody_else_may_read_it(made):
    assert (made / "out/report.html").stat().st_mode & 0o777 == 0o600


def test_predictions_alone_are_enough(tmp_path, capsys):
    write_case(tmp_path, "a", 0, error=0)
    output = tmp_path / "elsewhere/r.html"
    assert main(["-p", str(tmp_path / "out"), "-o", str(output), "-np", "1"]) == 0
    assert f"written: {output}" in capsys.readouterr().out
    assert "No targets were given" in output.read_text("utf-8")


def test_a_map_of_which_nothing_is_recorded_is_told(tmp_path, capsys):
    write_case(tmp_path, "a", 0, error=50, spread=40)
    assert call(tmp_path) == 0
    assert "a: no predictions.json tells what the map" in capsys.readouterr().err
    write_record(tmp_path, {"a": {"inputs": {}}})  # of a model that states no half-widths
    assert call(tmp_path) == 0
    assert not capsys.readouterr().err


def test_depths_regions_and_the_expected_error_have_their_place(tmp_path, capsys):
    write_case(tmp_path, "a", 0, error=50, spread=40)
    stated = {"coverage": 0.9, "expected_mae": 17.25, "validation_mae": [20.0, 31.5]}
    write_record(tmp_path, {"a": {"inputs": {}, "uncertainty": stated}})
    write(tmp_path / "labels/a.nii.gz", np.where(target(0) > 500, 3, 0))
    options = ("--regions", str(tmp_path / "labels"), "--wepl", "0,90")
    assert call(tmp_path, *options) == 0
    html = html_of(tmp_path)
    places = EvaluationFolders(tmp_path / "out", tmp_path / "targets", regions=tmp_path / "labels")
    values = evaluate_folders(places, EvaluationSettings(wepl=(0.0, 90.0))).cases["a"]
    depth = [values[f"wepl_{kind}_90"] for kind in ("bias", "p95", "region_3")]
    section = re.search('<section id="depths".+?</section>', html, re.S)[0]
    row = "<td>".join(["90", *(f"{value:.1f}" for value in depth)])
    assert section.count(f"<tr><th scope=row>{row}</tr>") == 2  # the mean, and the only case
    assert "<tr><th scope=row>3<td>50.0<td>50.0</tr>" in section
    assert "wepl bias" not in html
    assert '<a href="#depths">' in html
    assert "expected MAE 17.25 HU, without a target; the model's validation cases had 20 to" in html
    assert 'title="17.25">17.25' in html.split("</table>")[0]
    assert views_of(html)[0]["pictures"][-1]["title"] == "90 % within +-"
    assert "is within it for" in html
    assert main(["-p", str(tmp_path / "out"), *options]) == 2
    assert "give them by -r" in capsys.readouterr().err


def test_a_match_is_applied_to_pictures_and_table(tmp_path):
    write_case(tmp_path, "a", 0, error=0)
    write(tmp_path / "out/a.nii.gz", 2 * target(0))
    assert call(tmp_path, "--match-intensity", "linear") == 0
    (view,) = views_of(html_of(tmp_path))
    packed = view["pictures"][1]["packed"]
    prediction = unpack(packed["text"], packed["step"], SHAPE)
    assert prediction[4, 7, 17] == pytest.approx(900, abs=40)
    assert "matched first (linear)" in html_of(tmp_path)


@pytest.mark.parametrize("fault", ["no target", "other grid", "no folder", "empty mask", "damaged"])
def test_refusals_are_one_line_and_write_nothing(tmp_path, capsys, fault):
    write_case(tmp_path, "a", 0, error=0)
    options: list[str] = []
    if fault == "no target":
        write(tmp_path / "out/b.nii.gz", np.zeros(SHAPE))
    elif fault == "other grid":
        write(
            tmp_path / "in/a_0000.nii.gz", np.zeros((1, 1, 1)), Geometry((1, 1, 1), (1.0, 1.0, 1.0))
        )
    elif fault == "no folder":
        options = ["--masks", str(tmp_path / "masks")]
    elif fault == "empty mask":
        write(tmp_path / "masks/a.nii.gz", np.zeros(SHAPE))
        options = ["--masks", str(tmp_path / "masks")]
    else:
        (tmp_path / "out/predictions.json").write_text("{")
    assert call(tmp_path, *options) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("error: ")
    assert not (tmp_path / "out/report.html").exists()


def test_it_starts_without_torch():
    code = "import sys, gdmnet.commands.report; sys.exit('torch' in sys.modules)"
    root = Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
