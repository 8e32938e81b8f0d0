import json

import numpy as np
import pytest
from report.cases import SHAPE, target, write, write_case

from gdmnet.geometry import Geometry
from gdmnet.report import case as module
from gdmnet.report.case import case_page
from gdmnet.report.collect import ReportFolders, find_cases


def page_of(home, *folders):
    (case,) = find_cases(ReportFolders(home / "out", *folders))
    return case_page(case)


def test_a_case_with_everything(tmp_path):
    write_case(tmp_path, "a", 0, error=300, spread=5)
    page = page_of(tmp_path, tmp_path / "targets", tmp_path / "in")
    assert len(page.figures) == 5
    assert json.loads(page.view)["identifier"] == "a"
    assert "signed error" in page.thumbnail


def test_a_case_without_a_target(tmp_path):
    write_case(tmp_path, "a", 0, error=0)
    page = page_of(tmp_path)
    assert len(page.figures) == 1
    assert json.loads(page.view)["worst"] == []
    inside = target(0)[target(0) > -500]
    assert page.values["prediction"][0] == pytest.approx(inside.mean(), rel=0.05)
    assert "middle axial slice" in page.thumbnail


def test_a_name_cannot_end_the_script(tmp_path):
    write_case(tmp_path, "a", 0, error=0)
    (case,) = find_cases(ReportFolders(tmp_path / "out"))
    view = case_page(module.ReportCase("</script>", case.predictions)).view
    assert "<" not in view
    assert json.loads(view)["identifier"] == "</script>"


def test_a_case_keeps_to_its_bytes(tmp_path, monkeypatch, rng):
    monkeypatch.setattr(module, "MOST_BYTES", 150_000)
    noise = [rng.normal(0, 300, (24, 48, 48)) for _ in range(2)]
    for folder, image in zip(("out", "targets"), noise, strict=True):
        write(tmp_path / f"{folder}/a.nii.gz", image, Geometry(image.shape, (1.0, 1.0, 1.0)))
    page = page_of(tmp_path, tmp_path / "targets")
    held = len(page.view) + sum(map(len, page.figures)) + len(page.thumbnail)
    assert 60_000 < held < 150_000


def test_flat_images_are_shown_too(tmp_path):
    write(tmp_path / "out/a.nii.gz", np.full(SHAPE, 7.0))
    write(tmp_path / "targets/a.nii.gz", np.full(SHAPE, 7.0))
    page = page_of(tmp_path, tmp_path / "targets")
    assert page.values == {"prediction": (7, 7, 7)}
    assert len(page.figures) == 4
