from __future__ import annotations

import json

import numpy as np
import pytest
from arguments import roots

from gdmnet import files
from gdmnet.commands import plan_and_preprocess, train
from gdmnet.data.case import Volume
from gdmnet.data.store import open_case
from gdmnet.data.volume import read_volume, write_volume
from gdmnet.datasets.phantom import write_phantom_dataset

DATASET = "Dataset999_Phantom"


@pytest.fixture
def raw_home(tmp_path):
    write_phantom_dataset(tmp_path / "raw", n_train=3, n_test=0, shape=(10, 20, 20))
    return tmp_path


def plan(home, *arguments: str) -> int:
    return plan_and_preprocess.main(["-d", "999", "-np", "1", *arguments, *roots(home)])


def test_datasets_are_named_by_position_or_option(raw_home, capsys):
    for words in (["999"], ["-d", "999"], ["-np", "1", "Dataset999_Phantom"]):
        assert plan_and_preprocess.main([*words, "--dry-run", *roots(raw_home)]) == 0
    with pytest.raises(SystemExit):
        plan_and_preprocess.main(["--dry-run"])
    assert "no dataset is given" in capsys.readouterr().err


def test_a_dataset_is_prepared_by_one_process_at_a_time(raw_home, capsys):
    with files.lock(raw_home / "preprocessed" / DATASET):
        assert plan(raw_home) == 2
        assert "at work here" in capsys.readouterr().err
        assert plan(raw_home, "--dry-run") == 0
    assert not (raw_home / "preprocessed" / DATASET).exists()
    assert plan(raw_home) == 0
    assert not list((raw_home / "preprocessed").rglob(".*"))


def test_a_dry_run_prints_the_plan_and_writes_nothing(raw_home, capsys):
    assert plan(raw_home, "--dry-run") == 0
    assert "patch size" in capsys.readouterr().out
    assert not (raw_home / "preprocessed").exists()


def test_all_complaints_come_at_once_and_nothing_is_written(raw_home, capsys):
    folder = raw_home / "raw" / DATASET
    images = sorted((folder / "imagesTr").iterdir())
    images[0].write_bytes(images[0].read_bytes()[:200])
    sorted((folder / "targetsTr").iterdir())[1].unlink()
    assert plan(raw_home) == 2
    said = capsys.readouterr().err
    for case in ("phantom_01", "phantom_02"):
        assert case in said
    assert not (raw_home / "preprocessed").exists()


def test_a_finished_case_is_not_redone(raw_home, capsys):
    assert plan(raw_home) == 0
    files = sorted((raw_home / "preprocessed" / DATASET / "3d_fullres").rglob("*.b2nd"))
    before = [file.stat().st_mtime_ns for file in files]
    assert plan(raw_home) == 0
    assert [file.stat().st_mtime_ns for file in files] == before
    assert plan(raw_home, "--overwrite") == 0
    assert [file.stat().st_mtime_ns for file in files] != before


def test_an_edited_plan_is_kept_and_followed_until_replanned(raw_home):
    assert plan(raw_home) == 0
    path = raw_home / "preprocessed" / DATASET / "plan.json"
    data = json.loads(path.read_text())
    data["configurations"]["3d_fullres"]["spacing"] = [5.0, 2.4, 2.4]
    path.write_text(json.dumps(data))
    assert plan(raw_home) == 0
    assert json.loads(path.read_text())["configurations"]["3d_fullres"]["spacing"][0] == 5.0
    (record, *_) = sorted(path.parent.glob("3d_fullres/*/case.json"))
    assert json.loads(record.read_text())["spacing"] == [5.0, 2.4, 2.4]
    assert plan(raw_home, "--replan") == 0
    assert json.loads(path.read_text())["configurations"]["3d_fullres"]["spacing"][0] != 5.0


def test_a_plan_that_cannot_be_read_says_how_to_plan_anew(raw_home, capsys):
    path = raw_home / "preprocessed" / DATASET / "plan.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"schema": 99}')
    assert plan(raw_home, "--replan") == 2
    assert "move it away" in capsys.readouterr().err
    path.rename(path.with_name("old.json"))
    assert plan(raw_home) == 0


def test_a_changed_dataset_asks_for_a_new_plan(raw_home, capsys):
    assert plan(raw_home) == 0
    for file in (raw_home / "raw" / DATASET).glob("*Tr/phantom_03*"):
        file.unlink()
    path = raw_home / "raw" / DATASET / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"numTraining": 2}))
    assert plan(raw_home) == 2
    assert "--replan" in capsys.readouterr().err
    assert plan(raw_home, "--replan") == 0


def target_of(home, name):
    """The prepared target of a case in file units, without its background."""
    case = open_case(home / "preprocessed" / DATASET / "3d_fullres", name)
    values = case.target[:] * case.record.target.scale + case.record.target.centre
    return values[case.body[:][None] != 0]


def test_a_corrected_raw_file_is_prepared_anew(raw_home, capsys):
    raw = raw_home / "raw" / DATASET / "targetsTr/phantom_02.nii.gz"
    good = raw.read_bytes()
    assert plan(raw_home) == 0
    right = target_of(raw_home, "phantom_02")
    volume = read_volume(raw)
    middle = volume.array[0, 4:6, 9:11, 9:11]
    middle[...] = np.random.default_rng(0).permutation(middle.ravel()).reshape(middle.shape)
    middle[0, 0, 0], middle[1, 1, 1] = middle[1, 1, 1] + 500, middle[0, 0, 0] - 500  # the same mean
    write_volume(raw, volume, integer=True)
    assert plan(raw_home) == 2
    assert "the raw dataset has changed" in capsys.readouterr().err
    assert plan(raw_home, "--replan") == 0
    assert np.abs(target_of(raw_home, "phantom_02") - right).max() > 100
    raw.write_bytes(good)
    assert plan(raw_home, "--replan") == 0
    np.testing.assert_array_equal(target_of(raw_home, "phantom_02"), right)


def test_a_plan_that_has_changed_since_is_not_trained_on(raw_home, capsys):
    assert plan(raw_home) == 0
    path = raw_home / "preprocessed" / DATASET / "plan.json"
    data = json.loads(path.read_text())
    data["configurations"]["3d_fullres"]["spacing"][0] *= 1.01
    path.write_text(json.dumps(data))
    words = ["999", "3d_fullres", "--objective", "regression", "--epochs", "1"]
    assert train.main([*words, *roots(raw_home)[1:]]) == 2
    assert "was prepared by another plan; run gdm_plan_and_preprocess" in capsys.readouterr().err
    path.write_text(json.dumps(data | {"channel_names": ["T1"]}))
    assert train.main([*words, *roots(raw_home)[1:]]) == 2
    assert "has the channels MR, but plan.json has T1" in capsys.readouterr().err


def test_an_added_mask_is_prepared_with(raw_home, capsys):
    assert plan(raw_home) == 0
    raw = raw_home / "raw" / DATASET
    for path in sorted((raw / "targetsTr").iterdir()):
        volume = read_volume(path)
        mask = np.zeros_like(volume.array)
        mask[:, 2:8, 4:16, 4:16] = 1
        write_volume(raw / "masksTr" / path.name, Volume(mask, volume.geometry))
    assert plan(raw_home, "--replan") == 0
    assert "ready already" not in capsys.readouterr().out
    case = open_case(raw_home / "preprocessed" / DATASET / "3d_fullres", "phantom_01")
    assert case.record.mask_rule == "given"
    assert set(case.record.digests) == {"0000", "target", "mask"}


def test_a_contradicting_preset_and_an_unknown_name_are_refused(raw_home, capsys):
    assert plan(raw_home, "-c", "2d") == 2
    assert "no configuration 2d" in capsys.readouterr().err
    assert not list((raw_home / "preprocessed").glob("*/*"))
    assert plan(raw_home, "--preset", "cpu") == 0
    assert plan(raw_home, "--preset", "M") == 2
    assert "--replan" in capsys.readouterr().err


def test_an_unknown_dataset_lists_what_is_there(raw_home, capsys):
    assert plan_and_preprocess.main(["-d", "77", *roots(raw_home)]) == 2
    assert DATASET in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_said(raw_home, capsys):
    (raw_home / "preprocessed").write_text("a file is in the way")
    assert plan(raw_home) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_bias_correction_is_planned_kept_and_not_contradicted(raw_home, capsys):
    folder = raw_home / "preprocessed" / DATASET
    assert plan(raw_home, "--bias-correction", "n4", "-c", "3d_fullres") == 0
    assert "bias correction n4" in capsys.readouterr().out
    data = json.loads((folder / "plan.json").read_text())
    assert data["configurations"]["3d_fullres"]["bias_correction"] == "n4"
    assert json.loads((folder / "fingerprint.json").read_text())["bias_correction"] == "n4"
    assert plan(raw_home, "-c", "3d_fullres") == 0  # measured as the plan says
    assert plan(raw_home, "--bias-correction", "none") == 2
    assert "was made with --bias-correction n4; add --replan" in capsys.readouterr().err


def test_an_unknown_bias_correction_in_a_plan_is_refused(raw_home, capsys):
    assert plan(raw_home) == 0
    path = raw_home / "preprocessed" / DATASET / "plan.json"
    data = json.loads(path.read_text())
    data["configurations"]["3d_fullres"]["bias_correction"] = "n5"
    path.write_text(json.dumps(data))
    assert plan(raw_home) == 2
    said = capsys.readouterr().err
    assert '3d_fullres.bias_correction: expected one of none, n4, found "n5"' in said
    del data["configurations"]["3d_fullres"]["bias_correction"]  # an older version's plan
    path.write_text(json.dumps(data))
    assert plan(raw_home) == 0


def test_a_whole_field_of_view_is_planned_as_the_dataset_says(raw_home, capsys):
    assert plan(raw_home, "-c", "3d_fullres") == 0
    path = raw_home / "raw" / DATASET / "dataset.json"
    data = json.loads(path.read_text()) | {"region_of_interest": "circle"}
    path.write_text(json.dumps(data))
    assert plan(raw_home) == 2
    assert "add --replan" in capsys.readouterr().err
    assert plan(raw_home, "-c", "3d_fullres", "--replan") == 0
    assert "region          circle" in capsys.readouterr().out
    folder = raw_home / "preprocessed" / DATASET
    configuration = json.loads((folder / "plan.json").read_text())["configurations"]["3d_fullres"]
    assert configuration["region"] == "circle"
    record = json.loads((folder / "3d_fullres/phantom_01/case.json").read_text())
    assert record["mask_rule"] == "circle"


def test_parts_share_one_plan_and_their_cases(raw_home, tmp_path, capsys):
    shared = raw_home
    assert plan(shared) == 0
    (shared / "preprocessed" / DATASET).rename(tmp_path / "alone")
    home = shared / "preprocessed" / DATASET
    assert plan(shared, "--num-parts", "2", "--part-id", "1") == 0  # it plans, being the first
    assert [path.name for path in home.glob("3d_fullres/phantom*")] == ["phantom_02"]
    made = (home / "plan.json").stat().st_mtime_ns
    assert plan(shared, "--num-parts", "2", "--part-id", "0") == 0
    assert (home / "plan.json").stat().st_mtime_ns == made
    for case in (f"phantom_{number:02d}" for number in (1, 2, 3)):
        stored = [open_case(folder / "3d_fullres", case) for folder in (tmp_path / "alone", home)]
        assert np.array_equal(*(case.target[:] for case in stored))
    assert not list(home.rglob(".*"))
    capsys.readouterr()
    assert plan(shared, "--memory", "3", "--num-parts", "2", "--part-id", "0") == 2
    assert "was made with --memory" in capsys.readouterr().err
    for option in ("--replan", "--overwrite"):
        assert plan(shared, option, "--num-parts", "2", "--part-id", "0") == 2
        assert "without parts" in capsys.readouterr().err


def test_a_plan_of_other_data_is_not_kept_after_a_kill(raw_home, capsys, monkeypatch):
    assert plan(raw_home) == 0
    first = sorted((raw_home / "raw" / DATASET / "targetsTr").iterdir())[0]
    volume = read_volume(first)
    write_volume(first, Volume(volume.array + 5, volume.geometry), integer=True)
    save, saved = plan_and_preprocess.codec.save, []

    def save_one(value, path):
        if saved:
            raise KeyboardInterrupt
        saved.append(save(value, path))

    with monkeypatch.context() as patch:
        patch.setattr(plan_and_preprocess.codec, "save", save_one)
        assert plan(raw_home, "--replan") == 130
    assert plan(raw_home) == 2
    assert "the raw dataset has changed" in capsys.readouterr().err
    assert plan(raw_home, "--replan") == 0


def test_a_part_does_not_prepare_by_a_plan_of_other_files(raw_home, capsys):
    assert plan(raw_home) == 0
    first = sorted((raw_home / "raw" / DATASET / "targetsTr").iterdir())[0]
    volume = read_volume(first)
    write_volume(first, Volume(volume.array + 5, volume.geometry), integer=True)
    assert plan(raw_home, "--num-parts", "2", "--part-id", "1") == 0
    assert plan(raw_home, "--num-parts", "2", "--part-id", "0") == 2
    said = capsys.readouterr().err
    assert "raw files have changed" in said
    assert "phantom_01" in said


def test_a_plan_of_a_version_without_digests_is_kept_and_its_cases_prepared_anew(raw_home, capsys):
    assert plan(raw_home) == 0
    path = raw_home / "preprocessed" / DATASET / "fingerprint.json"
    facts = json.loads(path.read_text())
    for case in facts["cases"]:
        del case["digests"]
    path.write_text(json.dumps(facts))
    assert "Plan of" in capsys.readouterr().out
    assert plan(raw_home) == 0
    told = capsys.readouterr()
    assert "is kept" in told.err
    assert "Plan of" not in told.out  # it was printed when it was made
    assert all(case["digests"] for case in json.loads(path.read_text())["cases"])
