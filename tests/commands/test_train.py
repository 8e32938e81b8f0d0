from __future__ import annotations

import json
import shutil

import pytest
import torch
from arguments import SHORT, roots

from gdmnet.commands import train
from gdmnet.errors import DatasetError
from gdmnet.training import loop


def fold_of(home, objective="gdm"):
    return home / "results" / "Dataset999_Phantom" / f"{objective}__3d_fullres" / "fold_0"


def refused(capsys, *arguments: str) -> str:
    code = train.main(list(arguments))
    said = capsys.readouterr().err
    assert code == 2
    assert "Traceback" not in said
    return said


def test_an_interrupted_training_continues_to_the_same_weights(home, trained, monkeypatch):
    original = loop._validate

    def stop_after_the_first_epoch(*arguments):
        if (fold_of(home) / "checkpoint_latest.pt").exists():
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(loop, "_validate", stop_after_the_first_epoch)
    assert train.main(["999", "3d_fullres", *SHORT, *roots(home)]) == 130
    monkeypatch.setattr(loop, "_validate", original)
    assert train.main(["999", "3d_fullres", *SHORT, "--continue", *roots(home)]) == 0
    ours, theirs = (
        torch.load(fold_of(h) / "checkpoint_final.pt", weights_only=True)["ema"]
        for h in (home, trained)
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_nothing_is_overwritten_unasked(trained, capsys):
    said = refused(capsys, "999", "3d_fullres", *SHORT, *roots(trained))
    assert "--continue" in said
    assert "--overwrite" in said


def test_continuing_a_finished_training_only_says_so(trained):
    before = (fold_of(trained) / "checkpoint_final.pt").read_bytes()
    assert train.main(["999", "3d_fullres", *SHORT, "--continue", *roots(trained)]) == 0
    assert (fold_of(trained) / "checkpoint_final.pt").read_bytes() == before


def test_a_training_is_continued_as_it_began(trained, capsys):
    said = refused(capsys, "999", "3d_fullres", "--continue", "--epochs", "7", *roots(trained))
    assert "--epochs changed from 2 to 7" in said


def test_another_thread_count_is_warned_of(trained, caplog):
    path = fold_of(trained) / "run.json"
    run = json.loads(path.read_text())
    try:
        path.write_text(json.dumps(run | {"n_threads": 99}))
        assert train.main(["999", "3d_fullres", *SHORT, "--continue", *roots(trained)]) == 0
    finally:
        path.write_text(json.dumps(run, indent=2) + "\n")
    assert "no longer bit-equal" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("123", "3d_fullres"), "no dataset 123"),
        (("999", "3d_huge"), "no configuration 3d_huge"),
        (("999", "3d_fullres", "9"), "fold 9"),
        (("999", "3d_fullres", "--device", "cuda:77"), "--device"),
        (("999", "3d_fullres", "--device", "abacus"), "--device"),
        (("999", "3d_fullres", "--pretrained", "/nowhere.pt"), "/nowhere.pt"),
        (("999", "3d_fullres", "--drift-ratio", "-1"), "drift_ratio"),
    ],
)
def test_a_wrong_argument_is_one_line_and_status_two(home, capsys, arguments, words):
    said = refused(capsys, *arguments, *SHORT, *roots(home))
    assert words in said
    assert len([line for line in said.splitlines() if line.startswith("error")]) == 1


def test_a_case_that_is_not_prepared_is_named(home, capsys):
    cases = home / "preprocessed" / "Dataset999_Phantom" / "3d_fullres"
    victim = sorted(p for p in cases.iterdir() if p.is_dir())[0]
    shutil.rmtree(victim)
    assert victim.name in refused(capsys, "999", "3d_fullres", *SHORT, *roots(home))


def test_pretrained_weights_are_where_a_training_starts(trained, home):
    start = fold_of(trained) / "checkpoint_final.pt"
    arguments = ["999", "3d_fullres", "--objective", "regression", *SHORT, *roots(home)]
    assert train.main([*arguments, "--pretrained", str(start)]) == 0
    run = json.loads((fold_of(home, "regression") / "run.json").read_text())
    assert len(run["pretrained_sha256"]) == 64


def test_python_users_get_the_error_itself(home):
    from gdmnet.folders import find_roots

    with pytest.raises(DatasetError, match="no dataset 5"):
        train.run(5, "3d_fullres", "0", find_roots(home, home, home))
