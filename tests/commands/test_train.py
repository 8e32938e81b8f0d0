from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import small_models
import torch
from arguments import SHORT, roots

from gdmnet import files
from gdmnet.commands import plan_and_preprocess, predict, train
from gdmnet.data.volume import read_geometry
from gdmnet.errors import DatasetError
from gdmnet.files import file_sha256
from gdmnet.folders import NIFTI_FORM, Roots, nifti_form
from gdmnet.objectives.options import all_options
from gdmnet.training import feature_encoder, loop
from gdmnet.training.run import describe_training
from gdmnet.training.settings import TrainingSettings
from gdmnet.training.usefulness import EncoderReport, Figure

ROOT = Path(__file__).resolve().parents[2]


def fold_of(home, objective="gdm"):
    return home / "results" / "Dataset999_Phantom" / f"{objective}__3d_fullres" / "fold_0"


def call(home, *arguments: str) -> int:
    """The exit status, argparse's own included."""
    try:
        return train.main(["999", "3d_fullres", *arguments, *roots(home)])
    except SystemExit as stop:
        return int(stop.code or 0)


def refused(capsys, home, *arguments: str) -> str:
    assert call(home, *arguments) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    (line,) = [line for line in said.splitlines() if line.startswith("error")]
    return line


def content(folder) -> dict[str, str]:
    """Checksums of all files, hidden ones and locks included."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): file_sha256(path) for path in paths}


@pytest.fixture
def finished(trained, tmp_path):
    """A home with a finished training to write into."""
    shutil.copytree(trained, tmp_path / "finished")
    return tmp_path / "finished"


@pytest.fixture
def unfinished(home, monkeypatch):
    """A home with a training that was interrupted after its first epoch, one thread, fp32."""
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_draw", interrupt)
        assert call(home, *SHORT, "--precision", "fp32") == 130
    return home


def interrupt(*_):
    raise KeyboardInterrupt


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


def test_a_target_without_a_unit_has_features_as_a_loss_too(home):
    places = Roots(home / "raw", home / "preprocessed", home / "results")

    def weight(**asked) -> float:
        settings = TrainingSettings(device="cpu", **asked)
        training = describe_training("999", "3d_fullres", "0", places, settings)
        return training.run.options["perceptual"]

    plan = home / "preprocessed" / "Dataset999_Phantom" / "plan.json"
    assert weight() == 0.0  # a CT has HU
    values = json.loads(plan.read_text())
    values["configurations"]["3d_fullres"]["target"]["scheme"] = "percentiles"
    plan.write_text(json.dumps(values))
    assert weight() == 2.0
    assert weight(objective="regression") == 0.0
    assert weight(objective_options={"perceptual": 0.5}) == 0.5


def test_nothing_is_overwritten_unasked(trained, capsys):
    said = refused(capsys, trained, *SHORT)
    assert "--continue" in said
    assert "--overwrite" in said
    shutil.copytree(trained, trained.with_name("odd"))
    odd = trained.with_name("odd")
    for path in fold_of(odd).glob("checkpoint_*.pt"):
        path.unlink()
    assert "no checkpoint_latest.pt to go on from" in refused(capsys, odd, *SHORT, "--continue")


def damage_case(home):
    cases = home / "preprocessed" / "Dataset999_Phantom" / "3d_fullres"
    shutil.rmtree(min(path for path in cases.iterdir() if path.is_dir()))


def other_channels(home):
    path = home / "preprocessed" / "Dataset999_Phantom" / "plan.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"channel_names": ["zzz"]}))


def other_network(home):
    state = torch.load(fold_of(home) / "checkpoint_final.pt", weights_only=True)
    state["ema"] = {"another.weight": torch.zeros(1)}
    torch.save(state, home / "other.pt")


@pytest.mark.parametrize(
    ("arguments", "words", "prepare"),
    [
        (("--option", "nonsense=1"), "nonsense", None),
        (("--drift-ratio", "nan"), "drift_ratio must be at least 0", None),
        (("--encoder", "ctfm"), "gdmnet downloads nothing", None),
        (("--encoder", "ctfm", "--encoder-weights", "gone.pth"), "gone.pth", None),
        (("--pretrained", "gone.pt"), "gone.pt: file not found", None),
        (("--pretrained", "other.pt"), "weights of another network", other_network),
        (("--precision", "fp16"), "needs a CUDA device", None),
        ((), "no such preprocessed case", damage_case),
        ((), "has the channels MR, but plan.json has zzz", other_channels),
    ],
)
def test_a_refused_overwriting_leaves_the_model(
    finished, capsys, monkeypatch, arguments, words, prepare
):
    if prepare is not None:
        prepare(finished)
    monkeypatch.chdir(finished)
    before = content(finished / "results")
    assert words in refused(capsys, finished, "--overwrite", *SHORT, *arguments)
    assert content(finished / "results") == before


def test_a_model_is_overwritten_with_the_first_checkpoint_of_the_new_one(finished, monkeypatch):
    fold = fold_of(finished)
    before = content(fold)
    anew = [*SHORT, "--overwrite", "--learning-rate", "0.02"]
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_validate", interrupt)
        assert call(finished, *anew) == 130
    assert content(fold) == before
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_draw", interrupt)
        assert call(finished, *anew) == 130
    assert not (fold / "checkpoint_final.pt").exists()
    assert not (fold / "summary.json").exists()
    assert call(finished, *SHORT, "--continue") == 0
    assert json.loads((fold / "run.json").read_text())["recipe"]["learning_rate"] == 0.02
    assert sorted(path.name for path in fold.parent.iterdir()) == [
        "fingerprint.json",
        "fold_0",
        "plan.json",
    ]


def test_continuing_a_finished_training_only_says_so(trained, caplog):
    before = content(fold_of(trained))
    assert call(trained, "--continue", "--precision", "bf16") == 0
    assert "warning" not in caplog.text
    assert call(trained, "--continue", "--spectral-finish") == 0
    place = fold_of(trained) / "summary.json"
    assert f"warning: {place} is there, so no spectral finish" in caplog.text
    assert content(fold_of(trained)) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--epochs", "7"), "epochs changed from 2 to 7"),
        (("--iterations", "7"), "iterations changed from 2 to 7"),
        (("--learning-rate", "7"), "learning_rate changed from 0.003 to 7.0"),
        (("--seed", "0"), "seed changed from 1 to 0"),
        (("--drift-ratio", "0.3"), "option drift_ratio changed from 0.2 to 0.3"),
        (("--option", 'levels=["local"]'), "option levels changed from"),
        (("--encoder", "random"), "encoder changed from self to random"),
        (("--encoder-iterations", "5"), "encoder_options changed from"),
        (("--pretrained", "other.pt"), "pretrained_sha256 changed from None to"),
    ],
)
def test_a_training_is_continued_as_it_began(finished, monkeypatch, capsys, arguments, words):
    shutil.copy(fold_of(finished) / "checkpoint_final.pt", finished / "other.pt")
    monkeypatch.chdir(finished)
    assert words in refused(capsys, finished, "--continue", *arguments)


def test_what_is_not_asked_is_as_it_began(home, monkeypatch, caplog):
    """And what is asked as it began is no change."""
    caplog.set_level("INFO")
    options = ["--drift-ratio", "0.3", "--encoder", "random", "--num-gpus", "1"]
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_draw", interrupt)
        assert call(home, *SHORT, *options) == 130
    assert "gdm with drift_ratio 0.3 on cpu" in caplog.text
    run = (fold_of(home) / "run.json").read_text()
    same = ["--drift-ratio", "0.3", "--option", "pairing=pooled", "--epochs", "2"]
    assert call(home, "--continue", *same) == 0
    assert (fold_of(home) / "run.json").read_text() == run
    assert not (fold_of(home) / "continued.json").exists()


def test_an_encoder_is_named_again_without_the_option_that_needs_it(home, monkeypatch):
    asked = ["--objective", "regression", "--encoder", "random"]
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_draw", interrupt)
        assert call(home, *SHORT, *asked, "--perceptual", "0.1") == 130
    assert call(home, *SHORT, *asked, "--continue") == 0
    run = json.loads((fold_of(home, "regression") / "run.json").read_text())
    assert run["encoder"] == "random"


def test_other_cases_cannot_go_on(finished, capsys):
    path = finished / "preprocessed/Dataset999_Phantom/splits_final.json"
    splits = json.loads(path.read_text())
    path.write_text(json.dumps(splits[1:] + splits[:1]))
    assert "training_cases changed from" in refused(capsys, finished, "--continue")


def test_another_precision_is_told_kept_and_predicted_with(unfinished, tmp_path, caplog):
    """The training's own advice where numbers are not finite."""
    fold = fold_of(unfinished)
    began = (fold / "run.json").read_text()
    before = (fold / "log.txt").read_text()
    assert call(unfinished, "--continue", "--precision", "bf16") == 0
    told = "precision changed from fp32 to bf16; what follows is no longer bit-equal"
    assert told in caplog.text
    assert (fold / "log.txt").read_text().startswith(before + told)
    assert (fold / "run.json").read_text() == began
    latest = torch.load(fold / "checkpoint_latest.pt", weights_only=True)
    assert latest["recipe"]["precision"] == "bf16"
    assert json.loads((fold / "continued.json").read_text())["precision"] == "bf16"
    (fold / "checkpoint_final.pt").unlink()
    caplog.clear()
    assert call(unfinished, "--continue") == 0
    assert "precision changed" not in caplog.text


def test_another_thread_count_is_told_and_other_workers_are_taken(unfinished, caplog):
    path = fold_of(unfinished) / "run.json"
    path.write_text(path.read_text().replace('"n_threads": 1', '"n_threads": 99'))
    assert call(unfinished, "--continue", "-np", "1") == 0
    assert "n_threads changed from 99 to 1; what follows is no longer bit-equal" in caplog.text
    assert "n_workers" not in caplog.text + (path.parent / "log.txt").read_text()
    assert json.loads((path.parent / "continued.json").read_text())["n_workers"] == 1


def test_a_fold_is_trained_by_one_process_at_a_time(home, capsys):
    with files.lock(fold_of(home)):
        assert "is at work here" in refused(capsys, home, *SHORT)


def test_an_encoder_that_another_process_trains_is_waited_for(home, monkeypatch, caplog):
    owner = files.lock(home / "results/Dataset999_Phantom/encoder_self__3d_fullres/fold_0")
    owner.__enter__()
    caplog.set_level("INFO")
    monkeypatch.setattr(files.time, "sleep", lambda _: owner.__exit__(None, None, None))
    assert call(home, *SHORT, "--encoder-only") == 0
    assert caplog.text.count("waiting") == 1


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
@pytest.mark.parametrize("more", [(), ("--encoder-only",)])
def test_a_wrong_argument_is_one_line_and_leaves_nothing(home, capsys, arguments, words, more):
    with pytest.raises(SystemExit) as stop:
        sys.exit(train.main([*arguments, *more, *SHORT, *roots(home)]))
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert words in said
    assert [line[:6] for line in said.splitlines()] == ["error:"]
    assert not (home / "results").exists()


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


@pytest.mark.parametrize(("form", "moved"), [("sform", 0.0), ("qform", 5.0)])
def test_validation_places_files_by_the_form_that_their_preparation_decided(
    finished, monkeypatch, form, moved
):
    """A training has no --nifti-form: it takes the plan's, and scores the same voxels."""
    monkeypatch.setenv(NIFTI_FORM, "")
    dataset, fold = finished / "raw" / "Dataset999_Phantom", fold_of(finished)
    before = json.loads((fold / "summary.json").read_text())["cases"]
    (validated,) = before
    prediction = fold / "validation" / f"{validated}.nii.gz"
    origin = read_geometry(prediction).itk_origin
    for path in dataset.glob("*Tr/*.nii.gz"):
        small_models.shift_qform(path, 5.0)
    plan = ["-d", "999", "-np", "1", "--preset", "cpu", "--replan", *roots(finished)]
    assert plan_and_preprocess.main([*plan, "--nifti-form", form]) == 0
    shutil.rmtree(fold / "validation")
    (fold / "summary.json").unlink()
    (fold / "report.html").unlink()
    monkeypatch.setenv(NIFTI_FORM, "")  # as a new terminal
    assert call(finished, *SHORT, "--continue") == 0
    after = json.loads((fold / "summary.json").read_text())["cases"]
    assert after[validated]["mae"] == pytest.approx(before[validated]["mae"], abs=1e-6)
    assert (fold / "report.html").is_file()
    assert nifti_form() is None  # what comes after a training is its own
    monkeypatch.setenv(NIFTI_FORM, form)
    placed = read_geometry(prediction).itk_origin
    assert placed == pytest.approx((origin[0] - moved, *origin[1:]), abs=1e-4)  # RAS to LPS


def test_cases_placed_by_both_forms_are_refused_before_an_encoder_is_trained(home, capsys):
    stored = sorted((home / "preprocessed").rglob("3d_fullres/*/case.json"))
    for path, form in zip(stored, ("sform", "qform"), strict=False):
        record = json.loads(path.read_text(encoding="utf-8"))
        record["geometry"]["forms"]["decided"] = form
        path.write_text(json.dumps(record), encoding="utf-8")
    assert "placed by both forms" in refused(capsys, home, *SHORT)
    assert not (home / "results").exists()


def test_a_realism_dial_is_trained_chosen_and_turned(home, tmp_path, capsys):
    options = [*SHORT, "--realism-dial", "--spectral-finish"]
    options += ["--option", "pairing=pooled", "--option", "bank=64"]
    assert train.main(["999", "3d_fullres", *options, *roots(home)]) == 0
    fold = fold_of(home)
    run = json.loads((fold / "run.json").read_text(encoding="utf-8"))
    given = {"realism_dial": True, "pairing": "pooled", "bank": 64}
    assert run["options"] == all_options("gdm", given)  # the defaults of its day, too
    front = json.loads((fold / "summary.json").read_text(encoding="utf-8"))["realism"]
    assert [float(setting) for setting in front] == [0, 0.25, 0.5, 0.75, 1, 1.25, 1.5]
    assert {"mae", "ssim", "histogram_w1", "spectrum_distance"} <= set(front["0"])
    chosen = json.loads((fold / "dial.json").read_text(encoding="utf-8"))
    assert f"{chosen['realism']:g}" in front
    assert chosen["fidelity_budget"] == 0.01
    assert run["realism"] is None
    finish = json.loads((fold / "finish.json").read_text(encoding="utf-8"))
    assert len(finish["gains"]) == 16
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


def encoder_folder(home):
    return home / "results/Dataset999_Phantom/encoder_self__3d_fullres/fold_0"


def test_the_encoder_is_trained_alone_reported_and_taken(home, capsys, monkeypatch):
    asked = ["--encoder-only", "--encoder-iterations", "4", "--seed", "1"]
    assert call(home, *asked) == 0
    said = capsys.readouterr().out
    assert f"encoder: {encoder_folder(home) / 'encoder.pt'}" in said
    report = json.loads((encoder_folder(home) / "report.json").read_text())
    assert f"judged on 8 patches of {', '.join(report['cases'])}" in said
    for figure in report["figures"]:
        assert f"{figure['name']}: {figure['value']:.3g}" in said

    def fail(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(feature_encoder, "train_autoencoder", fail)
    assert call(home, *asked) == 0
    assert call(home, *SHORT) == 0


def test_an_encoder_with_weights_of_its_own_is_not_trained(home, capsys):
    assert "nothing to train" in refused(capsys, home, "--encoder-only", "--encoder", "random")


def test_good_and_poor_figures_are_told_beside_the_twin():
    report = EncoderReport(
        cases=("a", "b"),
        n_patches=8,
        masked_mse={"encoder": 0.5, "zero": 1.0},
        encoder={"effective rank": (5.0, 6.0), "gradient coverage": (1.0,)},
        twin={"effective rank": (7.0, 8.0), "gradient coverage": (0.9,)},
        figures=(Figure("x", 0.5, "at most", 0.8), Figure("y", 0.5, "at least", 0.8)),
        failed=("y",),
    )
    lines = str(report).splitlines()
    assert lines[0] == "judged on 8 patches of a, b"
    assert lines[2].split() == ["map", "0", "map", "1"]
    assert lines[3].split() == ["effective", "rank,", "encoder", "5", "6"]
    assert lines[4].split() == ["effective", "rank,", "random", "twin", "7", "8"]
    assert lines[5].split() == ["gradient", "coverage,", "encoder", "1"]
    assert "masked error: encoder 0.5, zero 1" in lines
    assert lines[-2:] == ["good  x: 0.5 (wanted at most 0.8)", "poor  y: 0.5 (wanted at least 0.8)"]


@pytest.mark.slow
def test_torchrun_trains_one_model_and_only_rank_0_speaks(home):
    script = "import sys; from gdmnet.commands.train import main; sys.exit(main())"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    (home / "train.py").write_text(script, encoding="utf-8")
    done = subprocess.run(
        [*command, str(home / "train.py"), "999", "3d_fullres", *SHORT, *roots(home)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("finished:") == 1
    assert done.stderr.count("epoch 1/2") == 1
    assert "2 processes train together" in done.stderr
    run = json.loads((fold_of(home) / "run.json").read_text())
    assert run["n_devices"] == 2
    assert (fold_of(home) / "summary.json").is_file()
