import numpy as np
import pytest
from report.phantoms import GEOMETRY, SHAPE, target, write, write_case

from gdmnet.errors import DatasetError
from gdmnet.geometry import Geometry
from gdmnet.report.cases import ReportFolders, describe, find_cases, read_images


@pytest.fixture
def home(tmp_path):
    for seed, name in enumerate(("a", "b")):
        write_case(tmp_path, name, seed, error=100)
    return tmp_path


def all_folders(home):
    return ReportFolders(home / "out", home / "targets", home / "in", None)


def test_every_prediction_gets_its_partners(home):
    write(home / "in/a_0001.nii.gz", np.zeros(SHAPE))
    write(home / "out/uncertainty/b.nii.gz", np.zeros(SHAPE))
    first, second = find_cases(all_folders(home))
    assert (first.identifier, second.identifier) == ("a", "b")
    assert [path.name for path in first.sources] == ["a_0000.nii.gz", "a_0001.nii.gz"]
    assert first.target == home / "targets/a.nii.gz"
    assert first.uncertainties == {}
    assert second.uncertainties == {"prediction": home / "out/uncertainty/b.nii.gz"}


def test_predictions_alone_are_enough(home):
    first, _ = find_cases(ReportFolders(home / "out"))
    assert (first.target, first.sources, first.mask) == (None, (), None)


def test_all_that_is_missing_is_said_at_once(home):
    (home / "targets/b.nii.gz").unlink()
    (home / "in/a_0000.nii.gz").unlink()
    with pytest.raises(DatasetError, match=r"targets: no image of b; .*in: no image of a;"):
        find_cases(all_folders(home))


def test_other_grids_are_refused(home):
    write(home / "in/a_0000.nii.gz", np.zeros(SHAPE), Geometry(SHAPE, (3.0, 1.5, 1.1)))
    with pytest.raises(DatasetError, match=r"a_0000.nii.gz is not on the grid of .*spacing"):
        find_cases(all_folders(home))


@pytest.fixture
def one(tmp_path):
    write_case(tmp_path, "a", 0, error=100, spread=5)
    return tmp_path


def images_of(one, *folders, **options):
    (case,) = find_cases(ReportFolders(one / "out", *folders))
    return read_images(case, **options)


def test_everything_is_read(one):
    images = images_of(one, one / "targets", one / "in")
    assert np.allclose(images.target, target(0), atol=1e-3)
    assert images.unit == "HU"
    assert [v.title for v in images.volumes if v.kind == "source"] == ["source"]
    assert np.allclose(images.of_kind("uncertainty")["prediction"], 5)
    assert 0.2 < images.mask.mean() < 0.6
    assert "target (above -500 HU)" in describe(images)[1]


def test_without_a_target_the_prediction_tells_the_body(one):
    images = images_of(one)
    assert images.target is None
    assert "computed from the prediction" in images.mask_rule
    assert images.unit == "HU"


def test_a_match_changes_prediction_and_uncertainty(one):
    plain = images_of(one, one / "targets")
    matched = images_of(one, one / "targets", matches={"prediction": (2.0, -7.0)})
    assert np.allclose(
        matched.predictions["prediction"], 2 * plain.predictions["prediction"] - 7, atol=1e-2
    )
    assert np.allclose(matched.of_kind("uncertainty")["prediction"], 10)


def test_an_empty_mask_is_refused(one):
    write(one / "masks/a.nii.gz", np.zeros(SHAPE))
    with pytest.raises(DatasetError, match=r"masks/a.nii.gz: the mask is empty"):
        images_of(one, None, None, one / "masks")


def test_a_tilt_is_told(tmp_path):
    c, s = np.cos(np.radians(10)), np.sin(np.radians(10))
    tilted = Geometry(SHAPE, GEOMETRY.spacing, itk_direction=(1, 0, 0, 0, c, -s, 0, s, c))
    write(tmp_path / "out/a.nii.gz", target(0), tilted)
    assert "tilted by 10 degrees" in describe(images_of(tmp_path))[2]
    assert describe(images_of(tmp_path))[0].startswith("26 x 20 x 12 voxels of 1 x 1.5 x 3 mm")


def test_the_convention_settles_the_mask(one):
    images = images_of(one, one / "targets", convention="sparse-ct")
    assert images.mask_rule.startswith("the field of view")
    assert images.mask[0, 10, 13] == 1
    assert images.mask[6, 0, 0] == 0
