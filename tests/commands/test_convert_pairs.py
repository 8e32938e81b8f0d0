import numpy as np
import pytest

from gdmnet.commands.convert import main
from gdmnet.data.case import Volume
from gdmnet.data.check import check_dataset
from gdmnet.data.volume import write_volume
from gdmnet.datasets.phantom import make_patient
from gdmnet.geometry import Geometry

SHAPE = (8, 20, 20)
GRID = Geometry(SHAPE, (2.5, 1.2, 1.2), (-10.0, 5.0, 40.0))


@pytest.fixture
def home(tmp_path):
    """Two patients with MR and CT in folders of their own, and a CT of a third."""
    for i, name in enumerate(("anna", "otto")):
        sources, ct, _ = make_patient(np.random.default_rng(i), SHAPE)
        for folder, word, image in (("mr", "MR", sources[0]), ("ct", "CT", ct)):
            path = tmp_path / folder / f"{name}_{word}.nii.gz"
            path.parent.mkdir(exist_ok=True)
            write_volume(path, Volume(image[None].astype(np.float32), GRID), integer=True)
    write_volume(tmp_path / "ct/lina_CT.nii.gz", Volume(ct[None], GRID), integer=True)
    return tmp_path


def call(home, *options):
    roots = [f"--raw={home / 'raw'}"]
    folders = ["-i", str(home / "mr"), "-r", str(home / "ct"), "-d", "512", "-np", "1"]
    return main(["pairs", *folders, *roots, *options])


def test_without_yes_the_pairs_are_shown_and_nothing_is_written(home, capsys):
    assert call(home, "--skip-unmatched") == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[1].split()[:3] == ["anna", "anna_MR.nii.gz", "anna_CT.nii.gz"]
    assert shown[2].split()[:3] == ["otto", "otto_MR.nii.gz", "otto_CT.nii.gz"]
    assert shown[3].endswith("lina_CT.nii.gz")
    assert "say --yes" in shown[-1]
    assert not (home / "raw").exists()


def test_with_yes_a_sound_dataset_is_written(home, capsys):
    assert call(home, "--skip-unmatched", "--yes", "--name", "Mine") == 0
    dataset = home / "raw" / "Dataset512_Mine"
    assert "next: gdm_check 512" in capsys.readouterr().out
    assert check_dataset(dataset, n_processes=1) == []
    assert (dataset / "targetsTr/anna.nii.gz").is_file()
    assert call(home, "--skip-unmatched", "--yes") == 2
    assert "Dataset512_Mine is there already" in capsys.readouterr().err


def test_sessions_of_one_subject_stay_together(tmp_path):
    for name in ("sub-01_ses-1", "sub-01_ses-2", "sub-02_ses-1"):
        for folder in ("mr", "ct"):
            (tmp_path / folder).mkdir(exist_ok=True)
            image = np.random.default_rng(len(folder)).normal(0, 300, (1, *SHAPE))
            path = tmp_path / folder / f"{name}.nii.gz"
            write_volume(path, Volume(image.astype(np.float32), GRID), integer=True)
    assert call(tmp_path, "--yes", "--test", "sub-01") == 0
    dataset = tmp_path / "raw/Dataset512_MRtoCT"
    assert [p.name for p in (dataset / "targetsTr").iterdir()] == ["sub-02_ses-1.nii.gz"]
    assert len(list((dataset / "imagesTs").iterdir())) == 2


def test_a_seed_below_zero_is_refused_in_one_line(home, capsys):
    with pytest.raises(SystemExit, match="2"):
        call(home, "--yes", "--test-fraction", "0.5", "--seed", "-1")
    assert capsys.readouterr().err.endswith("seed must be at least 0, not -1\n")


def test_images_without_a_partner_are_refused(home, capsys):
    assert call(home, "--yes") == 2
    assert "lina_CT.nii.gz: no partner" in capsys.readouterr().err
    assert not (home / "raw").exists()


def test_other_grids_need_resample(home, capsys):
    (home / "ct/lina_CT.nii.gz").unlink()
    coarse = Geometry((4, 20, 20), (5.0, 1.2, 1.2), (-10.0, 5.0, 41.25))
    mr = np.random.default_rng(0).normal(100, 10, (1, *coarse.shape)).astype(np.float32)
    write_volume(home / "mr/anna_MR.nii.gz", Volume(mr, coarse), integer=True)
    assert call(home) == 2
    assert "anna: anna_CT.nii.gz on another grid" in capsys.readouterr().err
    assert call(home, "--resample", "source", "--yes", "--source-name", "T1") == 0
    assert (home / "raw/Dataset512_T1toCT/imagesTr/anna_0000.nii.gz").is_file()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--test-fraction", "1"], "--test-fraction 1: must lie in"),
        (["--test-fraction", "0.5", "--test", "anna"], "give one"),
        (["--test", "lina"], "--test lina: no training case"),
        (["--source-name", ""], "a channel cannot be called ''"),
        (["--target-name", " "], "a channel cannot be called ' '"),
    ],
)
def test_impossible_words_are_refused_in_a_line(home, capsys, options, text):
    assert call(home, "--skip-unmatched", "--yes", *options) == 2
    assert text in capsys.readouterr().err
    assert not list(home.glob("raw/*"))


def test_every_channel_needs_a_name(home, capsys):
    more = ["-i", str(home / "mr"), "--source-name", "T1"]
    assert call(home, *more) == 2
    assert "once for each -i" in capsys.readouterr().err
