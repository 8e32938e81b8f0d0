from collections import Counter

import pytest

from gdmnet.datasets.synthrad import balanced_splits, find_patients, make_conversion
from gdmnet.errors import DatasetError


def fill(home, patients, ending=".nii.gz", source="mr"):
    for patient in patients:
        folder = home / patient
        folder.mkdir(parents=True)
        for stem in (source, "ct", "mask"):
            (folder / f"{stem}{ending}").write_bytes(b"")


@pytest.fixture
def data_2023(tmp_path):
    fill(tmp_path / "Task1" / "brain", ("1BA001", "1BB002", "1BC010"))
    fill(tmp_path / "Task1" / "pelvis", ("1PA001", "1PC003"))
    fill(tmp_path / "Task2" / "brain", ("2BA001",), source="cbct")
    (tmp_path / "Task1" / "brain" / "overview").mkdir()
    return tmp_path


def names(patients):
    return [patient.images.identifier for patient in patients]


def test_the_layout_of_2023_is_read(data_2023):
    brain = find_patients(data_2023, task=1, year=2023, region="brain")
    assert names(brain) == ["1BA001", "1BB002", "1BC010"]
    assert [patient.centre for patient in brain] == ["A", "B", "C"]
    files = brain[0].images
    home = data_2023 / "Task1/brain/1BA001"
    assert files.sources == (home / "mr.nii.gz",)
    assert (files.target, files.mask) == (home / "ct.nii.gz", home / "mask.nii.gz")
    everybody = find_patients(data_2023 / "Task1", task=1, year=2023, region="all")
    assert Counter(patient.region for patient in everybody) == {"brain": 3, "pelvis": 2}
    (cbct,) = find_patients(data_2023, task=2, year=2023, region="brain")
    assert cbct.images.sources[0].name == "cbct.nii.gz"
    assert make_conversion([cbct], task=2, year=2023).channel_names == ("CBCT",)


def test_the_layout_of_2025_is_read(tmp_path):
    fill(tmp_path / "Task1" / "AB", ("1ABA001", "1ABB012"), ".mha")
    fill(tmp_path / "Task1" / "HN", ("1HNE003",), ".mha")
    patients = find_patients(tmp_path, task=1, year=2025, region="all")
    assert [(p.region, p.centre) for p in patients] == [("AB", "A"), ("AB", "B"), ("HN", "E")]
    conversion = make_conversion(patients, task=1, year=2025)
    assert conversion.channel_names == ("MR",)
    assert conversion.metadata["patients"]["1HNE003"] == {"region": "HN", "centre": "E"}


def test_patients_without_a_ct_are_test_cases(data_2023):
    (data_2023 / "Task1/brain/1BB002/ct.nii.gz").unlink()
    patients = find_patients(data_2023, task=1, year=2023, region="brain")
    conversion = make_conversion(patients, task=1, year=2023)
    assert [case.identifier for case in conversion.testing] == ["1BB002"]
    assert [case.identifier for case in conversion.training] == ["1BA001", "1BC010"]
    assert "1BB002" not in str(conversion.splits)
    for patient in patients:
        (patient.images.sources[0].parent / "ct.nii.gz").unlink(missing_ok=True)
    with pytest.raises(DatasetError, match="no patient has a CT"):
        make_conversion(
            find_patients(data_2023, task=1, year=2023, region="brain"), task=1, year=2023
        )


def test_what_is_not_the_challenges_is_refused(data_2023):
    with pytest.raises(DatasetError, match="the 2025 challenge has HN, TH, AB"):
        find_patients(data_2023, task=1, year=2025, region="brain")
    with pytest.raises(DatasetError, match="no folder pelvis"):
        find_patients(data_2023, task=2, year=2023, region="pelvis")
    with pytest.raises(DatasetError, match="give the folder that holds Task1"):
        find_patients(data_2023 / "nowhere", task=1, year=2023, region="all")
    (data_2023 / "Task1/brain/1BA001/mask.nii.gz").unlink()
    (data_2023 / "Task1/brain/2BA009").mkdir()
    with pytest.raises(DatasetError, match=r"no mask\.nii\.gz .* \(and 1 more\)"):
        find_patients(data_2023, task=1, year=2023, region="brain")


def test_folds_are_balanced_over_groups():
    sizes = {"brain A": 13, "brain B": 7, "pelvis A": 11, "pelvis C": 4}
    groups = {f"{g}{i:03d}": g for g, n in sizes.items() for i in range(n)}
    splits = balanced_splits(groups)
    assert len(splits) == 5
    assert sorted(name for split in splits for name in split["val"]) == sorted(groups)
    for split in splits:
        assert len(split["val"]) == 7
        assert set(split["train"]) == set(groups) - set(split["val"])
        for group, size in sizes.items():
            share = sum(groups[name] == group for name in split["val"])
            assert abs(share - size / 5) < 1
    assert splits == balanced_splits(dict(reversed(groups.items())))
    assert splits != balanced_splits(groups, seed=1)


def test_few_cases_make_few_folds():
    assert len(balanced_splits({"a": "x", "b": "x", "c": "y"})) == 3
    assert balanced_splits({"a": "x"}) == [{"train": ["a"], "val": ["a"]}]
