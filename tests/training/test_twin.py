from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from objectives.small import CONFIGURATION, PATCH, CountingEncoder

from gdmnet.errors import TrainingError
from gdmnet.files import whole_folder
from gdmnet.folders import FINAL, LATEST
from gdmnet.models import checkpoint
from gdmnet.models.checkpoint import between
from gdmnet.objectives.base import Context
from gdmnet.objectives.gdm import Gdm
from gdmnet.objectives.regression import Regression
from gdmnet.plan import Recipe
from gdmnet.training.batches import Batches
from gdmnet.training.loop import fit

CPU = torch.device("cpu")
RECIPE = Recipe(epochs=5, iterations=4, validation_patches=2, learning_rate=1e-2, seed=5)


def objective(*, dial: bool = True):
    options = {"locations": 32, "bank": 32, "realism_dial": dial}
    options |= {"regression_share": 0.35, "ramp_share": 0.0}
    encoder = CountingEncoder()
    context = Context(CONFIGURATION, options, RECIPE.total_steps, 3, encoder)
    return Gdm(context)


def run(folder, parts, objective, recipe=RECIPE):
    make_generator, batches = parts
    torch.manual_seed(1)
    generator = make_generator()
    new = None if (folder / LATEST).is_file() else whole_folder(folder)
    fit(generator, objective, batches, batches, recipe, folder, CPU, new=new)
    return checkpoint.load(folder / FINAL)


def parts_of(make_generator, make_noise_case, make_configuration):
    configuration = make_configuration(patch=PATCH, schemes=("zscore",))
    cases = [make_noise_case((12, 14, 18), seed=i, name=f"case{i}") for i in range(2)]
    return make_generator, Batches(cases, configuration, seed=5, augment=True)


def assert_same(first, second):
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_twin_is_the_regression_and_the_generator_is_not_disturbed(
    make_generator, make_noise_case, make_configuration, tmp_path
):
    parts = parts_of(make_generator, make_noise_case, make_configuration)
    both = run(tmp_path / "both", parts, objective())
    context = Context(CONFIGURATION, total_steps=RECIPE.total_steps)
    alone = run(tmp_path / "alone", parts, Regression(context))
    assert_same(both["twin"], alone["ema"])
    without = run(tmp_path / "without", parts, objective(dial=False))
    assert_same(both["ema"], without["ema"])
    assert "twin" not in without
    assert any(not torch.equal(both["ema"][name], both["twin"][name]) for name in both["ema"])


def test_a_twin_goes_on_to_the_bit(
    make_generator, make_noise_case, make_configuration, tmp_path, monkeypatch
):
    parts = parts_of(make_generator, make_noise_case, make_configuration)
    unbroken = run(tmp_path / "unbroken", parts, objective())
    for stop in (1, 3):  # asleep, awake
        folder = tmp_path / f"broken{stop}"
        broken_after(stop, parts, folder, monkeypatch)
        assert bool(checkpoint.load(folder / LATEST)["twin"]) == (stop == 3)
        resumed = run(folder, parts, objective())
        assert_same(resumed["ema"], unbroken["ema"])
        assert_same(resumed["twin"], unbroken["twin"])


def broken_after(epoch, parts, folder, monkeypatch):
    from gdmnet.training import loop

    def stop(training, finished, *_):
        if finished == epoch:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_draw", stop)
        try:
            run(folder, parts, objective())
        except KeyboardInterrupt:
            return
    raise AssertionError("was not stopped")


class Endless(Regression):
    """Its steps are never finite."""

    def descend(self, generator, batch, rng):
        return replace(super().descend(generator, batch, rng), finite=False)


def test_a_twin_that_never_steps_stops_the_training(
    make_generator, make_noise_case, make_configuration, tmp_path, monkeypatch
):
    parts, gdm = parts_of(make_generator, make_noise_case, make_configuration), objective()
    _, start = gdm.twin()
    monkeypatch.setattr(gdm, "twin", lambda: (Endless(replace(gdm.context, options={})), start))
    with pytest.raises(TrainingError, match="10 steps in a row were not finite"):
        run(tmp_path / "fold", parts, gdm, replace(RECIPE, iterations=20))


def test_the_dial_is_a_line_through_both_weights():
    twin = {"w": torch.tensor([1.0, 2.0]), "n": torch.tensor(3)}
    generator = {"w": torch.tensor([2.0, 0.0]), "n": torch.tensor(3)}
    assert_same(between(twin, generator, 0.0), twin)
    assert_same(between(twin, generator, 1.0), generator)
    found = between(twin, generator, 1.5)
    assert torch.allclose(found["w"], torch.tensor([2.5, -1.0]))
    assert found["n"] == 3
