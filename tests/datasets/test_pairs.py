import pytest

from gdmnet.datasets.pairs import BY_WORDS, EXACT, match_folders
from gdmnet.errors import DatasetError


def fill(folder, *names):
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_bytes(b"")
    return folder


def pairs(found):
    return {c.identifier: ([p.name for p in c.sources], c.target.name) for c in found.cases}


def test_equal_names_are_matched_whatever_the_ending(tmp_path):
    s = fill(tmp_path / "s", "b.nii.gz", "a.mha", "notes.txt", ".hidden.nii.gz")
    t = fill(tmp_path / "t", "a.nii.gz", "b.nrrd")
    found = match_folders([s], t)
    assert pairs(found) == {"a": (["a.mha"], "a.nii.gz"), "b": (["b.nii.gz"], "b.nrrd")}
    assert set(found.rules.values()) == {EXACT}
    assert found.lonely == ()


def test_channel_numbers_that_all_share_do_not_count(tmp_path):
    first = fill(tmp_path / "s0", "p1_0000.nii.gz", "p2_0000.nii.gz")
    second = fill(tmp_path / "s1", "p1_0001.nii.gz", "p2_0001.nii.gz")
    masks = fill(tmp_path / "m", "p1.nii.gz", "p2.nii.gz")
    found = match_folders([first, second], fill(tmp_path / "t", "p1.mha", "p2.mha"), masks)
    assert pairs(found)["p1"] == (["p1_0000.nii.gz", "p1_0001.nii.gz"], "p1.mha")
    assert [case.mask.name for case in found.cases] == ["p1.nii.gz", "p2.nii.gz"]


def test_numbers_of_patients_are_no_channel_numbers(tmp_path):
    names = ("scan_2021.nii.gz", "scan_2022.nii.gz")
    found = match_folders([fill(tmp_path / "s", *names)], fill(tmp_path / "t", *names))
    assert list(pairs(found)) == ["scan_2021", "scan_2022"]


@pytest.mark.parametrize(
    ("sources", "targets", "cases"),
    [
        (("sub-01_T1w", "sub-02_T1w"), ("sub-01_CT", "sub-02_CT"), ["sub-01", "sub-02"]),
        (("MR_7", "MR_12"), ("CT_007", "CT_012"), ["MR_12", "MR_7"]),
        (("anna MR", "otto MR"), ("CT anna", "CT otto"), ["anna", "otto"]),
        (
            ("sub-01_T1w", "sub-02_run-2_T1w"),
            ("sub-01_CT", "sub-02_run-2_CT"),
            ["sub-01", "sub-02_run-2"],
        ),
        (("p1_t1_t1", "p2_t1_t1"), ("p1_t2", "p2_t2"), ["p1_t", "p2_t"]),
    ],
)
def test_names_match_but_for_words_that_all_share(tmp_path, sources, targets, cases):
    s = fill(tmp_path / "s", *(f"{name}.nii.gz" for name in sources))
    t = fill(tmp_path / "t", *(f"{name}.nii.gz" for name in targets))
    found = match_folders([s], t)
    assert [case.identifier for case in found.cases] == cases
    assert set(found.rules.values()) == {BY_WORDS}
    partners = {case.sources[0].name: case.target.name for case in found.cases}
    wanted = zip(sources, targets, strict=True)
    assert partners == {f"{source}.nii.gz": f"{target}.nii.gz" for source, target in wanted}


def test_who_belongs_to_whom_is_decided_by_the_word_that_differs(tmp_path):
    s = fill(tmp_path / "s", "MR_7.nii.gz", "MR_12.nii.gz")
    t = fill(tmp_path / "t", "CT_012.nii.gz", "CT_007.nii.gz")
    partners = {case.sources[0].name: case.target.name for case in match_folders([s], t).cases}
    assert partners == {"MR_7.nii.gz": "CT_007.nii.gz", "MR_12.nii.gz": "CT_012.nii.gz"}


@pytest.mark.parametrize(
    ("sources", "targets", "pair"),
    [
        (
            ("sub-01_ses-02_T1w", "sub-03_ses-04_T1w"),
            ("sub-02_ses-01_CT", "sub-03_ses-04_CT"),
            "03",
        ),
        (("1A_MR", "2B_MR"), ("A1_CT", "2B_CT"), "2B"),
    ],
)
def test_the_order_of_words_and_of_letters_against_digits_counts(tmp_path, sources, targets, pair):
    s = fill(tmp_path / "s", *(f"{name}.nii.gz" for name in sources))
    t = fill(tmp_path / "t", *(f"{name}.nii.gz" for name in targets))
    found = match_folders([s], t)
    assert [case.target.name for case in found.cases] == [f"{targets[1]}.nii.gz"]
    assert pair in found.cases[0].sources[0].name
    assert {path.name for path in found.lonely} == {f"{sources[0]}.nii.gz", f"{targets[0]}.nii.gz"}


def test_images_without_a_partner_are_told(tmp_path):
    s = fill(tmp_path / "s", "a.nii.gz", "b.nii.gz")
    t = fill(tmp_path / "t", "a.nii.gz", "c.nii.gz")
    found = match_folders([s], t)
    assert list(pairs(found)) == ["a"]
    assert [path.name for path in found.lonely] == ["b.nii.gz", "c.nii.gz"]


def test_what_two_images_share_identifies_neither(tmp_path):
    s = fill(tmp_path / "s", "MR_1_a.nii.gz", "MR_01_a.nii.gz", "MR_2_a.nii.gz")
    t = fill(tmp_path / "t", "CT_1.nii.gz", "CT_2.nii.gz")
    found = match_folders([s], t)
    assert [case.target.name for case in found.cases] == ["CT_2.nii.gz"]
    assert len(found.lonely) == 3


def test_nothing_in_common_is_refused(tmp_path):
    s = fill(tmp_path / "s", "x.nii.gz", "y.nii.gz")
    with pytest.raises(DatasetError, match="no name of one fits"):
        match_folders([s], fill(tmp_path / "t", "a.nii.gz", "b.nii.gz"))
    with pytest.raises(DatasetError, match="no image here"):
        match_folders([s], fill(tmp_path / "empty"))
    with pytest.raises(DatasetError, match="no such folder"):
        match_folders([s], tmp_path / "nowhere")
    twice = fill(tmp_path / "twice", "x.nii.gz", "x.mha")
    with pytest.raises(DatasetError, match="same image"):
        match_folders([s], twice)
