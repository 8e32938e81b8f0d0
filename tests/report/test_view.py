import json

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (everyone calls it so)
from report.phantoms import SHAPE, target, unpack, write, write_case

from gdmnet.geometry import Geometry
from gdmnet.report import view
from gdmnet.report.cases import ReportFolders, find_cases, read_images
from gdmnet.report.view import case_page, case_view, describe_storage

ROOM = 100_000


@pytest.fixture
def home(tmp_path):
    write_case(tmp_path, "a", 0, error=300, spread=5)
    return tmp_path


def view_of(home, names=()):
    (case,) = find_cases(ReportFolders(home / "out", home / "targets", home / "in"))
    return case_view("a", read_images(case, names), ROOM)


def test_volumes_stand_in_the_order_of_the_panels(home):
    found = view_of(home)
    assert [p.kind for p in found.pictures] == ["source", "prediction", "target", "uncertainty"]
    assert found.pictures[0].title == "source"
    assert view_of(home, ("MR",)).pictures[0].title == "source MR"


def test_channels_without_distinct_names_are_numbered(home):
    write(home / "in/a_0001.nii.gz", np.ones(SHAPE))
    for names in ((), ("MR",), ("MR", "MR")):
        titles = [p.title for p in view_of(home, names).pictures[:2]]
        assert titles == ["source 0", "source 1"]
    assert view_of(home, ("T1", "T2")).pictures[1].title == "source T2"


def test_what_the_page_shows_is_the_target(home):
    found = view_of(home)
    picture = found.pictures[2]
    shown = unpack(picture.packed.text, picture.packed.step, found.shape)
    assert np.abs(shown - target(0)).max() < 5 * picture.packed.step
    assert picture.packed.rms < 5
    assert (picture.hounsfield, found.pictures[0].hounsfield) == (True, False)


def test_prediction_and_target_share_a_window(home):
    _, prediction, truth, _ = view_of(home).pictures
    assert (prediction.low, prediction.high) == (truth.low, truth.high)


@pytest.mark.parametrize("error", [300, -300])
def test_the_worst_place_is_in_the_bone(tmp_path, error):
    write_case(tmp_path, "a", 0, error=error)
    found = view_of(tmp_path)
    z, y, x = found.worst[0].at
    assert 2 <= z <= 6
    assert 4 <= y <= 9
    assert 13 <= x <= 20


def test_the_viewer_knows_where_voxels_lie_in_the_patient(tmp_path, monkeypatch):
    monkeypatch.setattr(view, "reduction", lambda shape, spacing: (1, 2, 2))
    c, s = np.cos(0.3), np.sin(0.3)
    oblique = Geometry(SHAPE, (3.0, 1.5, 1.0), (5.0, -7.0, 11.0), (1, 0, 0, 0, c, -s, 0, s, c))
    write(tmp_path / "out/a.nii.gz", target(0), oblique)
    write(tmp_path / "targets/a.nii.gz", target(0), oblique)
    (case,) = find_cases(ReportFolders(tmp_path / "out", tmp_path / "targets"))
    found = case_view("a", read_images(case), ROOM)
    at = np.array(found.origin) + np.array([2, 3, 4]) @ np.array(found.steps)  # z, y, x
    file = sitk.ReadImage(str(tmp_path / "out/a.nii.gz"))
    wanted = file.TransformContinuousIndexToPhysicalPoint((8.5, 6.5, 2.0))  # the block's middle
    assert at == pytest.approx(wanted, abs=1e-4)


def test_large_cases_are_reduced_and_say_so(home, monkeypatch):
    monkeypatch.setattr(view, "reduction", lambda shape, spacing: (1, 2, 2))
    found = view_of(home)
    assert found.shape == (12, 10, 13)
    assert found.spacing == (3.0, 3.0, 2.0)
    told = describe_storage(found)
    assert "13 x 10 x 12 voxels of 2 x 3 x 3 mm, means over 2 x 2 x 1 voxels" in told[0]
    assert "RMS" in told[1]


def page_of(home, *folders):
    (case,) = find_cases(ReportFolders(home / "out", *folders))
    return case_page(case)


def test_a_case_with_everything(tmp_path):
    write_case(tmp_path, "a", 0, error=300, spread=5)
    page = page_of(tmp_path, tmp_path / "targets", tmp_path / "in")
    assert len(page.figures) == 4
    assert json.loads(page.view)["identifier"] == "a"


def test_a_case_without_a_target(tmp_path):
    write_case(tmp_path, "a", 0, error=0)
    page = page_of(tmp_path)
    assert len(page.figures) == 1
    assert json.loads(page.view)["worst"] == []


def test_a_name_cannot_end_the_script(tmp_path):
    write_case(tmp_path, "a", 0, error=0)
    (case,) = find_cases(ReportFolders(tmp_path / "out"))
    told = case_page(view.ReportCase("</script>", case.predictions)).view
    assert "<" not in told
    assert json.loads(told)["identifier"] == "</script>"


def test_a_case_keeps_to_its_bytes(tmp_path, monkeypatch, rng):
    monkeypatch.setattr(view, "MOST_BYTES", 150_000)
    noise = [rng.normal(0, 300, (24, 48, 48)) for _ in range(2)]
    for folder, image in zip(("out", "targets"), noise, strict=True):
        write(tmp_path / f"{folder}/a.nii.gz", image, Geometry(image.shape, (1.0, 1.0, 1.0)))
    page = page_of(tmp_path, tmp_path / "targets")
    held = len(page.view) + sum(map(len, page.figures))
    assert 60_000 < held < 150_000


def test_flat_images_are_shown_too(tmp_path):
    write(tmp_path / "out/a.nii.gz", np.full(SHAPE, 7.0))
    write(tmp_path / "targets/a.nii.gz", np.full(SHAPE, 7.0))
    page = page_of(tmp_path, tmp_path / "targets")
    assert page.methods == ("prediction",)
    assert len(page.figures) == 3
