import numpy as np
import pytest
from report.cases import GEOMETRY, SHAPE, target, write, write_case

from gdmnet.errors import DatasetError
from gdmnet.geometry import Geometry
from gdmnet.report.collect import ReportFolders, find_cases
from gdmnet.report.images import describe, read_images


@pytest.fixture
def home(tmp_path):
    write_case(tmp_path, "a", 0, error=100, spread=5)
    return tmp_path


def images_of(home, *folders, **options):
    (case,) = find_cases(ReportFolders(home / "out", *folders))
    return read_images(case, **options)


def test_everything_is_read(home):
    images = images_of(home, home / "targets", home / "in")
    assert np.allclose(images.target, target(0), atol=1e-3)
    assert images.unit == "HU"
    assert [v.title for v in images.volumes if v.kind == "source"] == ["source"]
    assert np.allclose(images.uncertainties["prediction"], 5)
    assert 0.2 < images.mask.mean() < 0.6
    assert "target (above -500 HU)" in describe(images)[1]


def test_without_a_target_the_prediction_tells_the_body(home):
    images = images_of(home)
    assert images.target is None
    assert "computed from the prediction" in images.mask_rule
    assert images.hounsfield


def test_a_match_changes_prediction_and_uncertainty(home):
    plain = images_of(home, home / "targets")
    matched = images_of(home, home / "targets", matches={"prediction": (2.0, -7.0)})
    assert np.allclose(
        matched.predictions["prediction"], 2 * plain.predictions["prediction"] - 7, atol=1e-2
    )
    assert np.allclose(matched.uncertainties["prediction"], 10)


def test_an_empty_mask_is_refused(home):
    write(home / "masks/a.nii.gz", np.zeros(SHAPE))
    with pytest.raises(DatasetError, match=r"masks/a.nii.gz: the mask is empty"):
        images_of(home, None, None, home / "masks")


def test_a_tilt_is_told(tmp_path):
    c, s = np.cos(np.radians(10)), np.sin(np.radians(10))
    tilted = Geometry(SHAPE, GEOMETRY.spacing, itk_direction=(1, 0, 0, 0, c, -s, 0, s, c))
    write(tmp_path / "out/a.nii.gz", target(0), tilted)
    assert "tilted by 10 degrees" in describe(images_of(tmp_path))[2]
    assert describe(images_of(tmp_path))[0].startswith("26 x 20 x 12 voxels of 1 x 1.5 x 3 mm")


def test_the_convention_settles_the_mask(home):
    images = images_of(home, home / "targets", convention="sparse-ct")
    assert images.mask_rule.startswith("the field of view")
    assert images.mask[0, 10, 13] == 1
    assert images.mask[6, 0, 0] == 0
