import json

import numpy as np
import pytest

from gdmnet.commands.convert import main
from gdmnet.data.case import Volume
from gdmnet.data.check import check_dataset
from gdmnet.data.volume import write_volume
from gdmnet.datasets.phantom import make_patient
from gdmnet.geometry import Geometry

SHAPE = (8, 20, 20)


def write_patient(folder, seed, *, source="mr", ending=".nii.gz"):
    """As the challenge hands it out: source, CT and mask on one grid."""
    folder.mkdir(parents=True)
    sources, ct, body = make_patient(np.random.default_rng(seed), SHAPE)
    grid = Geometry(SHAPE, (3.0, 1.0, 1.0), (-10.0 * seed, 5.0, 40.0))
    for stem, image in ((source, sources[0]), ("ct", ct), ("mask", body)):
        volume = Volume(image[None].astype(np.float32), grid)
        write_volume(folder / f"{stem}{ending}", volume, integer=True)


@pytest.fixture
def data(tmp_path):
    for i, name in enumerate(("AB/1ABA001", "AB/1ABA002", "AB/1ABB001", "HN/1HNC001")):
        write_patient(tmp_path / "in/Task1" / name, i, ending=".mha")
    return tmp_path


def call(home, *options):
    roots = [f"--raw={home / 'raw'}"]
    given = ["-i", str(home / "in"), "-d", "511", "--task", "1", "-np", "1"]
    return main(["synthrad", *given, *roots, *options])


def test_the_challenges_data_becomes_a_sound_dataset(data, capsys):
    assert call(data, "--year", "2025") == 0
    shown = capsys.readouterr().out
    assert "AB, centre A: 2 patients" in shown
    assert "HN, centre C: 1 patients" in shown
    dataset = data / "raw" / "Dataset511_SynthRAD2025Task1all"
    assert check_dataset(dataset, n_processes=1) == []
    assert sorted(path.name for path in (dataset / "masksTr").iterdir()) == [
        f"{name}.nii.gz" for name in ("1ABA001", "1ABA002", "1ABB001", "1HNC001")
    ]
    splits = json.loads((dataset / "splits_final.json").read_text())
    assert sorted(name for split in splits for name in split["val"]) == [
        "1ABA001",
        "1ABA002",
        "1ABB001",
        "1HNC001",
    ]


def test_test_cases_take_their_masks_along_and_leave_the_folds(data):
    assert call(data, "--year", "2025", "--test", "1ABA002") == 0
    dataset = data / "raw" / "Dataset511_SynthRAD2025Task1all"
    for part in ("imagesTs/1ABA002_0000", "targetsTs/1ABA002", "masksTs/1ABA002"):
        assert (dataset / f"{part}.nii.gz").is_file()
    splits = json.loads((dataset / "splits_final.json").read_text())
    assert sorted(name for split in splits for name in split["val"]) == [
        "1ABA001",
        "1ABB001",
        "1HNC001",
    ]
    assert all(
        set(split["train"]) | set(split["val"]) < {"1ABA001", "1ABB001", "1HNC001", "x"}
        for split in splits
    )
    assert check_dataset(dataset, n_processes=1) == []


def test_one_region_in_the_layout_of_2023(tmp_path, capsys):
    write_patient(tmp_path / "in/Task2/pelvis/2PB042", 0, source="cbct")
    arguments = ["--year", "2023", "--region", "pelvis", "--task", "2", "--name", "Pelvis"]
    assert call(tmp_path, *arguments) == 0
    description = json.loads((tmp_path / "raw/Dataset511_Pelvis/dataset.json").read_text())
    assert description["channel_names"] == {"0": "CBCT"}
    assert description["patients"] == {"2PB042": {"region": "pelvis", "centre": "B"}}


def test_refusals_are_one_line(data, capsys):
    (data / "in/Task1/AB/1ABA001/mr.mha").write_bytes(b"no image")
    for options, text in (
        (["--year", "2025", "--region", "AB"], "mr.mha"),
        (["--year", "2023"], "no folder brain or pelvis"),
        (["--year", "2023", "--region", "HN"], "the 2023 challenge has"),
    ):
        assert call(data, *options) == 2
        (line,) = capsys.readouterr().err.splitlines()[-1:]
        assert text in line
    assert not (data / "raw").exists()
