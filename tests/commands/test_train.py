from __future__ import annotations

import json
import shutil

import pytest
import torch
from arguments import SHORT, roots

from gdmnet.commands import predict, train
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
    from gdmnet.training.fold import train_fold

    with pytest.raises(DatasetError, match="no dataset 5"):
        train_fold(5, "3d_fullres", "0", find_roots(home, home, home))


def test_a_realism_dial_is_trained_chosen_and_turned(home, tmp_path, capsys):
    options = [*SHORT, "--realism-dial", "--option", "pairing=pooled", "--option", "bank=64"]
    assert train.main(["999", "3d_fullres", *options, *roots(home)]) == 0
    fold = fold_of(home)
    run = json.loads((fold / "run.json").read_text(encoding="utf-8"))
    assert run["options"] == {"realism_dial": True, "pairing": "pooled", "bank": 64}
    front = json.loads((fold / "summary.json").read_text(encoding="utf-8"))["realism"]
    assert [float(setting) for setting in front] == [0, 0.25, 0.5, 0.75, 1, 1.25, 1.5]
    assert {"mae", "ssim", "histogram_w1", "spectrum_distance"} <= set(front["0"])
    assert str(run["realism"]).rstrip("0").rstrip(".") in {f"{float(t):g}" for t in front}
    inputs = home / "raw" / "Dataset999_Phantom" / "imagesTs"
    for realism in ("0", "1.5"):
        out = tmp_path / realism
        asked = ["-i", str(inputs), "-o", str(out), "--realism", realism, *roots(home)]
        assert predict.main(asked) == 0
        written = json.loads((out / "predictions.json").read_text(encoding="utf-8"))
        assert written["model"]["realism"] == {"0": float(realism)}
    assert f"realism {realism}" in capsys.readouterr().err


def test_a_realism_beyond_what_was_measured_is_refused(trained, tmp_path):
    with pytest.raises(SystemExit) as stop:
        predict.main(["-i", str(tmp_path), "-o", str(tmp_path / "o"), "--realism", "2"])
    assert stop.value.code == 2


def test_two_processes_train_one_model(home):
    assert train.main(["999", "3d_fullres", *SHORT, "--num-gpus", "2", *roots(home)]) == 0
    latest = torch.load(fold_of(home) / "checkpoint_latest.pt", weights_only=True)
    assert len(latest["ranks"]) == 2
    assert (fold_of(home) / "summary.json").is_file()


def test_another_option_of_the_objective_must_be_known(home, capsys):
    said = refused(capsys, "999", "3d_fullres", *SHORT, "--option", "colour=blue", *roots(home))
    assert "colour" in said
