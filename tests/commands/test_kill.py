"""Kill -9 at ten random moments each of preprocessing, training and prediction.

Run with `pytest -m slow tests/commands/test_kill.py -s`: the moments and the times are printed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

N_MOMENTS = int(os.environ.get("KILL_MOMENTS", "10"))


def start(command: str, *arguments: str, home: Path) -> subprocess.Popen:
    code = f"import sys; from gdmnet.commands.{command} import main; sys.exit(main(sys.argv[1:]))"
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    roots = [f"--{n}={home / n}" for n in ("raw", "preprocessed", "results")]
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments, *roots],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(command: str, *arguments: str, home: Path) -> float:
    begin = time.monotonic()
    process = start(command, *arguments, home=home)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    return time.monotonic() - begin


def kill_at(moment: float, command: str, *arguments: str, home: Path) -> bool:
    """Kill the command's whole process group; True if it was still running."""
    process = start(command, *arguments, home=home)
    try:
        process.communicate(timeout=moment)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return True
    return False


def fresh(home: Path, trial: Path, *parts: str) -> Path:
    shutil.rmtree(trial, ignore_errors=True)
    trial.mkdir()
    for part in parts:
        shutil.copytree(home / part, trial / part)
    return trial


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    from gdmnet.datasets.phantom import write_phantom_dataset

    home = tmp_path_factory.mktemp("undisturbed")
    write_phantom_dataset(home / "raw", n_train=6, n_test=3, shape=(24, 40, 40), seed=0)
    return home


PLAN = ("-d", "999", "-np", "2", "--preset", "cpu")
TRAIN = ("999", "3d_fullres", "--epochs", "3", "--iterations", "4", "--encoder-iterations", "6")


def predict_arguments(home: Path) -> tuple[str, ...]:
    images = next((home / "raw").iterdir()) / "imagesTs"
    return ("-i", str(images), "-o", str(home / "out"), "--step-size", "0.25")


@pytest.mark.slow
def test_after_a_kill_every_command_completes_and_equals_the_undisturbed_run(undisturbed, tmp_path):
    random = np.random.default_rng(0)
    home = undisturbed
    seconds = {
        "plan_and_preprocess": finish("plan_and_preprocess", *PLAN, home=home),
        "train": finish("train", *TRAIN, home=home),
        "predict": finish("predict", *predict_arguments(home), home=home),
    }
    print(json.dumps({"undisturbed seconds": seconds}))
    trial = tmp_path / "trial"
    stages = {
        "plan_and_preprocess": (("raw",), lambda h: PLAN, lambda h: PLAN, same_preprocessed),
        "train": (
            ("raw", "preprocessed"),
            lambda h: TRAIN,
            lambda h: (*TRAIN, "--continue"),
            same_weights,
        ),
        "predict": (
            ("raw", "preprocessed", "results"),
            predict_arguments,
            predict_arguments,
            same_predictions,
        ),
    }
    for command, (parts, first, second, compare) in stages.items():
        killed = tried = 0
        while killed < N_MOMENTS:
            tried += 1
            assert tried <= 3 * N_MOMENTS, "the command is over before it can be killed"
            fresh(home, trial, *parts)
            moment = float(random.uniform(0.1, 1.0)) * seconds[command]
            killed += kill_at(moment, command, *first(trial), home=trial)
            finish(command, *second(trial), home=trial)
            compare(home, trial)
            assert not list(trial.rglob(".*.part*")), "a half-written file was left behind"
        print(json.dumps({"command": command, "killed": killed, "tried": tried}))


@pytest.mark.slow
def test_of_two_trainings_started_together_one_trains_and_a_killed_one_is_taken_over(
    undisturbed, tmp_path
):
    if not (undisturbed / "preprocessed").exists():
        finish("plan_and_preprocess", *PLAN, home=undisturbed)
    random = np.random.default_rng(1)
    trial = tmp_path / "trial"
    for _ in range(3):
        fresh(undisturbed, trial, "raw", "preprocessed")
        both = [start("train", *TRAIN, "--seed", seed, home=trial) for seed in "01"]
        errors = [process.communicate()[1].splitlines() for process in both]
        codes = [process.returncode for process in both]
        assert sorted(codes) == [0, 2]
        (line,) = errors[codes.index(2)]
        assert re.search(r"fold_0: process \d+ on .+ is at work here", line)
        (run,) = trial.rglob("run.json")
        assert json.loads(run.read_text())["recipe"]["seed"] == codes.index(0)
        log = (run.parent / "log.jsonl").read_text().splitlines()
        assert [json.loads(entry)["epoch"] for entry in log] == [1, 2, 3]
        before = {path: path.read_bytes() for path in run.parent.rglob("*") if path.is_file()}
        begin = time.monotonic()
        finish("train", *TRAIN, "--overwrite", home=trial)
        seconds = time.monotonic() - begin
        for path, content in before.items():  # the model of before, to be overwritten again
            path.write_bytes(content)
        final = run.parent / "checkpoint_final.pt"
        number = final.stat().st_ino  # a new training's is another file
        kill_at(random.uniform(0.2, 0.9) * seconds, "train", *TRAIN, "--overwrite", home=trial)
        if final.exists() and final.stat().st_ino == number:
            assert {path: path.read_bytes() for path in before} == before
        finish("train", *TRAIN, "--overwrite", home=trial)
        assert not list(trial.rglob(".*"))


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 138)])
def test_a_training_told_to_stop_says_so_and_goes_on_as_if_unbroken(
    undisturbed, tmp_path, sent, code
):
    home = undisturbed
    for command, options, made in (
        ("plan_and_preprocess", PLAN, "preprocessed"),
        ("train", TRAIN, "results"),
    ):
        if not (home / made).exists():
            finish(command, *options, home=home)
    trial = fresh(home, tmp_path / "trial", "raw", "preprocessed")
    process = start("train", *TRAIN, home=trial)
    while not any(trial.rglob("checkpoint_latest.pt")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(sent)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert errors.splitlines()[-1] == "stopped"  # before it stands what the training told
    assert "Traceback" not in errors
    assert not list(trial.rglob(".*.part*"))
    finish("train", *TRAIN, "--continue", home=trial)
    same_weights(home, trial)


def same_preprocessed(home: Path, trial: Path) -> None:
    from gdmnet.data.store import open_case

    (dataset,) = (p.name for p in (home / "preprocessed").iterdir())
    for name in ("plan.json", "fingerprint.json", "splits_final.json"):
        paths = [root / "preprocessed" / dataset / name for root in (home, trial)]
        assert paths[0].read_text() == paths[1].read_text()
    for folder in (home / "preprocessed" / dataset).iterdir():
        if not folder.is_dir():
            continue
        other = trial / "preprocessed" / dataset / folder.name
        names = sorted(path.parent.name for path in folder.glob("*/case.json"))
        assert names == sorted(path.parent.name for path in other.glob("*/case.json")) != []
        for identifier in names:
            ours, theirs = open_case(folder, identifier), open_case(other, identifier)
            assert ours.record == theirs.record
            assert np.array_equal(ours.source[:], theirs.source[:])
            assert np.array_equal(ours.target[:], theirs.target[:])
            assert np.array_equal(ours.body[:], theirs.body[:])


def same_weights(home: Path, trial: Path) -> None:
    import torch

    (path,) = (home / "results").rglob("checkpoint_final.pt")
    fold = path.parent.relative_to(home)
    for name, part in (("final", "ema"), ("latest", "generator")):
        file = fold / f"checkpoint_{name}.pt"
        ours, theirs = (torch.load(r / file, weights_only=True)[part] for r in (home, trial))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    summaries = [json.loads((root / fold / "summary.json").read_text()) for root in (home, trial)]
    assert summaries[0]["cases"] == summaries[1]["cases"]


def same_predictions(home: Path, trial: Path) -> None:
    from gdmnet.data.volume import read_volume

    paths = sorted((home / "out").glob("*.nii.gz"))
    assert len(paths) == 3
    for path in paths:
        ours, theirs = read_volume(path), read_volume(trial / "out" / path.name)
        assert ours.geometry == theirs.geometry
        assert np.array_equal(ours.array, theirs.array)
