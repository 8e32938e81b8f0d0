"""Objectives with samplers, and one from the documentation, from training to prediction."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from arguments import SHORT, roots

from gdmnet.commands import predict, train
from gdmnet.data.volume import read_geometry
from gdmnet.objectives import options
from gdmnet.objectives.build import OBJECTIVES

PAGE = Path(__file__).resolve().parents[2] / "documentation/how-to/add-an-objective.md"


def images(home):
    return home / "raw/Dataset999_Phantom/imagesTs"


def predicted(home, objective, *options):
    """Exit status and the record of a prediction of the test cases."""
    out = home / "out"
    arguments = ["-i", str(images(home)), "-o", str(out), "--objective", objective]
    code = predict.main([*arguments, *options, *roots(home)])
    return code, json.loads((out / "predictions.json").read_text("utf-8"))


@pytest.mark.parametrize(
    ("objective", "given", "sampler"),
    [
        ("flow", ["--option", "start=source", "--start-channel", "0"], "rk4"),
        ("bridge", ["--start-channel", "0"], "ode"),
        ("diffusion", ["--option", "eta=0.5"], "ancestral"),
    ],
)
def test_a_sampler_is_trained_validated_and_predicts(home, objective, given, sampler, capsys):
    arguments = ["999", "3d_fullres", "--objective", objective, "--option", "steps=2"]
    assert train.main([*arguments, *given, *SHORT, *roots(home)]) == 0
    fold = home / f"results/Dataset999_Phantom/{objective}__3d_fullres/fold_0"
    assert json.loads((fold / "summary.json").read_text("utf-8"))["aggregate"]["mae"]["mean"] > 0
    code, record = predicted(home, objective, "--steps", "3", "--sampler", sampler, "--seed", "4")
    assert code == 0
    how = record["model"]["settings"]
    assert (how["steps"], how["sampler"], how["seed"]) == (3, sampler, 4)
    assert record["model"]["network_calls"] == (12 if sampler == "rk4" else 3)
    assert f"{sampler} of 3 steps" in capsys.readouterr().err


def test_the_start_channel_is_refused_where_it_is_not_used(home, capsys):
    for objective, words in (("regression", "start_channel"), ("flow", "starts from noise")):
        arguments = ["999", "3d_fullres", "--objective", objective, "--start-channel", "0"]
        assert train.main([*arguments, *SHORT, *roots(home)]) == 2
        said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
        assert len(said) == 1
        assert words in said[0]


def test_steps_are_refused_where_the_network_is_called_once(trained, tmp_path, capsys):
    arguments = ["-i", str(images(trained)), "-o", str(tmp_path / "out"), *roots(trained)]
    assert predict.main([*arguments, "--steps", "4"]) == 2
    assert "--steps 4: the objective gdm calls its network once" in capsys.readouterr().err


def test_the_objective_of_the_documentation_trains_and_predicts(home, monkeypatch):
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S)
    assert len([line for block in blocks for line in block.splitlines() if line.strip()]) <= 20
    names = dict(vars(options))
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    monkeypatch.setitem(options.OPTIONS, "charbonnier", names["CharbonnierOptions"])
    monkeypatch.setitem(OBJECTIVES, "charbonnier", names["Charbonnier"])
    arguments = ["999", "3d_fullres", "--objective", "charbonnier", "--option", "floor=1e-4"]
    assert train.main([*arguments, *SHORT, *roots(home)]) == 0
    code, record = predicted(home, "charbonnier")
    assert code == 0
    assert record["model"]["network_calls"] == 1
    name, case = next(iter(record["cases"].items()))
    source = read_geometry(images(home) / f"{name}_0000.nii.gz")
    assert read_geometry(home / "out" / case["output"]) == source
