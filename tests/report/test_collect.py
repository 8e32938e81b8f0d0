import numpy as np
import pytest
from report.cases import SHAPE, write, write_case

from gdmnet.errors import DatasetError
from gdmnet.geometry import Geometry
from gdmnet.report.collect import ReportFolders, find_cases


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
