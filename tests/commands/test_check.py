import json

import numpy as np
import pytest
from PIL import Image

from gdmnet.commands.check import main
from gdmnet.data.case import Volume
from gdmnet.data.volume import read_volume, write_volume
from gdmnet.datasets.phantom import Scanner, write_phantom_dataset


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Two training cases and a test case; the first lies 6 mm too far back."""
    home = tmp_path_factory.mktemp("home")
    scanner = Scanner((3.0, 2.0, 2.0), varied_shapes=False)
    folder = write_phantom_dataset(
        home / "raw", n_train=2, n_test=1, shape=(20, 40, 44), scanner=scanner
    )
    path = folder / "imagesTr/phantom_01_0000.nii.gz"
    volume = read_volume(path)
    moved = np.roll(volume.array, 3, axis=2)
    moved[:, :, :3] = volume.array[:, :, :3]
    write_volume(path, Volume(moved, volume.geometry), integer=True)
    return home


def call(home, *options):
    roots = [f"--{name}={home / name}" for name in ("raw", "preprocessed", "results")]
    return main(["-d", "999", "-np", "1", *roots, *options])


def test_what_is_off_is_told_drawn_and_moved_in_a_copy(home, capsys):
    assert call(home, "--register", "998") == 1
    shown = capsys.readouterr()
    assert shown.err == ""
    rows = {line.split()[0]: line for line in shown.out.splitlines()}
    assert rows["phantom_01"].endswith("look")
    assert not rows["phantom_02"].endswith("look")
    assert "phantom_03" in rows  # the test case
    assert "1 of 3 cases flagged" in shown.out
    output = home / "preprocessed" / "Dataset999_Phantom" / "check"
    check = json.loads((output / "check.json").read_text())
    assert check["cases"][0]["alignments"][0]["motion"]["translation"][1] == pytest.approx(6, abs=1)
    pictures = {path.name for path in output.glob("*.png")}
    assert pictures == {"phantom_01.png", "contact_sheet_1.png"}
    assert f"look at every pair: {output / 'contact_sheet_1.png'}" in shown.out
    assert np.asarray(Image.open(output / "phantom_01.png")).std() > 20
    copy = home / "raw" / "Dataset998_PhantomRegistered"
    assert f"written: {copy}, moved: phantom_01_0000" in shown.out
    assert (copy / "transforms/phantom_01_0000.tfm").is_file()
    assert call(home, "--register", "998") == 2
    assert "Dataset998_PhantomRegistered is there already" in capsys.readouterr().err


def test_a_sound_dataset_gives_status_zero_and_the_contact_sheet_alone(home, tmp_path, capsys):
    output = tmp_path / "mine"
    output.mkdir()
    for name in ("phantom_01.png", "contact_sheet_2.png"):
        (output / name).write_bytes(b"of an earlier check")
    (output / "mine.png").write_bytes(b"of somebody")
    roots = [f"--{name}={home / name}" for name in ("raw", "preprocessed", "results")]
    assert main(["-d", "998", "-np", "1", "-o", str(output), *roots]) == 0
    assert "0 of 3 cases flagged" in capsys.readouterr().out
    left = {"check.json", "contact_sheet_1.png", "mine.png"}
    assert {path.name for path in output.iterdir()} == left


def test_integrity_complaints_are_told_too(home, tmp_path, capsys):
    folder = write_phantom_dataset(tmp_path / "raw", n_train=1, n_test=0, shape=(1, 24, 24))
    (folder / "imagesTr/stray_0000.nii.gz").write_bytes(b"no image")
    assert call(tmp_path) == 1
    shown = capsys.readouterr().out
    assert "integrity: stray" in shown
    assert "phantom_01" in shown


def test_refusals(home, capsys):
    for options, text in ((["-d", "123"], "no dataset 123"), (["--register", "1000"], "0 to 999")):
        assert call(home, *options, "-o", str(home / "refused")) == 2
        assert text in capsys.readouterr().err
    assert not (home / "refused").exists()  # before the long look
