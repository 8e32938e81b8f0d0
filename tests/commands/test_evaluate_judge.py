"""gdm_evaluate --judge: an encoder that no training has seen judges how real images look."""

import json

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from gdmnet import codec
from gdmnet.commands.evaluate import main
from gdmnet.data.case import Volume
from gdmnet.data.volume import write_volume
from gdmnet.encoders.self_supervised import WEIGHTS, encoder_for, self_encoder
from gdmnet.folders import RUN_JSON, fold_folder
from gdmnet.geometry import Geometry
from gdmnet.inference.record import Predictions
from gdmnet.models import checkpoint
from gdmnet.models.card import ModelCard
from gdmnet.models.checkpoint import weights_sha256
from gdmnet.plan import Architecture, Recipe, Run

SHAPE = (12, 16, 18)
ARCHITECTURE = Architecture((4,), ((3, 3, 3),), ((1, 1, 1),), (1,))


def write(folder, name, array):
    folder.mkdir(exist_ok=True)
    volume = Volume(array.astype(np.float32)[None], Geometry(SHAPE, (1.0, 1.0, 1.0)))
    write_volume(folder / f"{name}.nii.gz", volume)


@pytest.fixture
def home(tmp_path, monkeypatch, rng):
    monkeypatch.setattr("gdmnet.compare.verdict.N_PATCHES", 60)
    monkeypatch.setattr("gdmnet.compare.verdict.FEWEST_A_SUBJECT", 30)
    for name in ("a", "b", "c"):
        real = gaussian_filter(rng.normal(size=SHAPE), 0.7) * 100 + 300
        mask = np.zeros(SHAPE)
        mask[1:-1, 2:-2, 2:-2] = 1
        if name != "c":
            write(tmp_path / "out", name, gaussian_filter(real, 0.5))
            write(tmp_path / "targets", name, real)
            write(tmp_path / "masks", name, mask)
        write(tmp_path / "training", name, real)
    return tmp_path


def call(home, *options):
    folders = ("-p", "out", "-r", "targets", "--masks", "masks")
    words = [word if word[0] == "-" else str(home / word) for word in folders]
    return main([*words, "-np", "1", *options])


@pytest.fixture
def model(home):
    """A model whose training was driven by encoder.pt; its predictions lie in out/."""
    folder = home / "results" / "gdm__3d_fullres"
    file = home / "encoder.pt"
    settings = {"architecture": codec.encode(ARCHITECTURE)}
    weights = encoder_for(ARCHITECTURE, seed=3).state_dict()
    checkpoint.save(file, {"settings": settings, WEIGHTS: weights})
    digest = weights_sha256(self_encoder(ARCHITECTURE, file=file))
    run = Run(
        schema=Run.SCHEMA,
        version="0.1.0",
        dataset="Dataset501_Test",
        configuration="3d_fullres",
        fold="0",
        training_cases=("a",),
        validation_cases=("b",),
        objective="gdm",
        options={},
        recipe=Recipe(epochs=1, iterations=1),
        encoder="self",
        encoder_sha256=digest,
        pretrained_sha256=None,
        device="cpu",
        n_threads=1,
        n_workers=0,
    )
    codec.save(run, fold_folder(folder, "0") / RUN_JSON)
    card = ModelCard(str(folder), "gdm", "3d_fullres", {"0": "00"}, "cpu", "fp32")
    codec.save(
        Predictions(Predictions.SCHEMA, "0.1.0", card, {}, {}), home / "out" / "predictions.json"
    )
    return file


def test_a_verdict_is_printed_and_written_beside_the_summary(home, capsys):
    training = str(home / "training")
    assert call(home, "--judge", "--judge-iterations", "1", "--train-on", training) == 0
    said = capsys.readouterr().out
    assert "self: 3 plain convolutions" in said
    assert "floor from 1 other real images" in said  # a and b are references
    assert "the encoder-free block decides" in said
    verdict = json.loads((home / "out" / "judge.json").read_text())
    assert verdict["n_subjects"] == 2
    distance = verdict["prediction"]["frechet"]
    assert 0 < distance["low"] <= distance["value"] <= distance["high"]
    assert f"{distance['value']:.3g} [" in said
    assert distance["value"] < verdict["ceiling"]["frechet"]["value"]
    assert (home / "out" / "summary.json").is_file()


def test_without_masks_and_other_images_the_references_serve(home, capsys):
    out, targets = str(home / "out"), str(home / "targets")
    file = home / "x" / "summary.json"
    options = ["--judge", "random", "--match-intensity", "linear", "-o", str(file)]
    assert main(["-p", out, "-r", targets, "-np", "1", *options]) == 0
    said = capsys.readouterr().out
    assert "floor from halves of the 2 real images" in said
    assert "mean and spread matched" in said
    assert json.loads((home / "x" / "judge.json").read_text())["matched"]


def test_cases_that_cannot_be_scored_are_not_judged(home):
    write(home / "out", "b", np.zeros(SHAPE))
    assert call(home, "--judge", "random", "--keep-going") == 1
    assert json.loads((home / "out" / "judge.json").read_text())["n_subjects"] == 1


def test_a_verdict_of_an_earlier_evaluation_is_told(home, capsys):
    file = home / "out" / "judge.json"
    file.write_text("{}")
    assert call(home) == 0
    assert f"{file}: of an earlier evaluation" in capsys.readouterr().err
    assert file.read_text() == "{}"


def test_the_encoder_that_drove_the_training_is_refused_with_the_reason(home, model, capsys):
    assert call(home, "--judge-encoder", str(model)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "drove the training" in error
    assert "flatter" in error
    assert not (home / "out" / "judge.json").exists()
    assert not (home / "out" / "summary.json").exists()


def test_the_encoder_of_another_training_may_judge(home, model, capsys):
    other = home / "other.pt"
    settings = {"architecture": codec.encode(ARCHITECTURE)}
    weights = encoder_for(ARCHITECTURE, seed=4).state_dict()
    checkpoint.save(other, {"settings": settings, WEIGHTS: weights})
    assert call(home, "--judge-encoder", str(other)) == 0
    assert f"judge: encoder {other}" in capsys.readouterr().out


def test_it_warns_where_nobody_knows_which_encoder_drove_the_training(home, model, caplog):
    (home / "out" / "predictions.json").unlink()
    assert call(home, "--judge-encoder", str(model)) == 0
    assert "make sure" in caplog.text


def test_refusals_are_one_line_and_status_two(home, capsys):
    write(home / "masks", "b", np.zeros(SHAPE))
    assert call(home, "--judge", "random") == 2
    assert "the mask is empty" in capsys.readouterr().err
    assert call(home, "--train-on", str(home / "training")) == 2
    error = capsys.readouterr().err
    assert "need --judge" in error
    assert error.count("\n") == 1
