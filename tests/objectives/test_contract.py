"""What every objective must do, whatever its method."""

from __future__ import annotations

import io

import pytest
import torch
from objectives.small import (
    CountingEncoder,
    adam,
    loop_step,
    make_batch,
    make_context,
    small_generator,
)

from gdmnet.errors import TrainingError
from gdmnet.objectives import OBJECTIVES
from gdmnet.objectives.base import Objective
from gdmnet.objectives.fidelity import fidelity_loss

every_objective = pytest.mark.parametrize("name", sorted(OBJECTIVES))
TOTAL = 40


def build(name: str) -> Objective:
    options = {"warm_steps": 4, "locations": 64, "bank": 64} if name == "gdm" else {}
    return OBJECTIVES[name](make_context(TOTAL, **options))


def states_of(generator, optimiser, objective: Objective) -> dict:
    return {
        "generator": generator.state_dict(),
        "optimiser": optimiser.state_dict(),
        "modules": {key: part.state_dict() for key, part in objective.modules().items()},
        "own": {key: part.state_dict() for key, part in objective.optimizers().items()},
    }


def restored(name: str, content: bytes):
    states = torch.load(io.BytesIO(content), weights_only=True)
    generator, objective = small_generator(), build(name)
    optimiser = adam(generator)
    generator.load_state_dict(states["generator"])
    optimiser.load_state_dict(states["optimiser"])
    for key, part in objective.modules().items():
        part.load_state_dict(states["modules"][key])
    for key, part in objective.optimizers().items():
        part.load_state_dict(states["own"][key])
    return generator, optimiser, objective


@every_objective
def test_it_learns(name):
    generator, objective = small_generator(), build(name)
    optimiser = adam(generator)
    unseen = make_batch(-1)

    def error() -> float:
        with torch.no_grad():
            return float(fidelity_loss(objective.translate(generator, unseen.source, None), unseen))

    before = error()
    for step in range(TOTAL):
        assert loop_step(generator, objective, optimiser, step).finite
    assert error() < 0.75 * before


@every_objective
@pytest.mark.parametrize("stop", [3, 12])
def test_a_resumed_training_is_the_unbroken_one_to_the_bit(name, stop):
    generator, objective = small_generator(), build(name)
    optimiser = adam(generator)
    for step in range(stop):
        loop_step(generator, objective, optimiser, step)
    buffer = io.BytesIO()
    torch.save(states_of(generator, optimiser, objective), buffer)
    resumed = restored(name, buffer.getvalue())
    for step in range(stop, stop + 9):
        unbroken = loop_step(generator, objective, optimiser, step)
        again = loop_step(resumed[0], resumed[2], resumed[1], step)
        assert unbroken.metrics == again.metrics
    for key, mine in states_of(generator, optimiser, objective)["modules"].items():
        for entry, value in states_of(*resumed)["modules"][key].items():
            assert torch.equal(value, mine[entry]), entry
    for mine, other in zip(generator.parameters(), resumed[0].parameters(), strict=True):
        assert torch.equal(mine, other)


@every_objective
def test_its_state_never_changes_its_shape(name):
    generator, objective = small_generator(), build(name)

    def shapes():
        return {
            (key, entry): (tuple(tensor.shape), tensor.dtype)
            for key, part in objective.modules().items()
            for entry, tensor in part.state_dict().items()
        }

    before = shapes()
    for step in range(14):
        loop_step(generator, objective, adam(generator), step)
    assert shapes() == before


@every_objective
def test_the_generator_runs_once_a_step(name):
    generator, objective = small_generator(), build(name)
    calls = []
    generator.register_forward_hook(lambda *_: calls.append(1))
    for step in range(10):
        loop_step(generator, objective, adam(generator), step)
    assert len(calls) == 10


@every_objective
def test_a_step_ends_at_the_output(name):
    generator, objective = small_generator(), build(name)
    for step in range(10):
        batch = make_batch(step)
        with torch.autocast("cpu", torch.bfloat16):
            descent = objective.descend(generator, batch, torch.Generator())
        assert descent.tensor.requires_grad
        if descent.cotangent is not None:
            assert descent.cotangent.dtype == torch.float32
            assert descent.cotangent.shape == batch.target.shape
            assert not descent.cotangent.requires_grad
        assert all(type(value) is float for value in descent.metrics.values())
        assert descent.metrics["fidelity"] > 0


@every_objective
def test_frozen_parts_stay_frozen(name):
    encoder = CountingEncoder()
    before = [parameter.clone() for parameter in encoder.parameters()]
    generator = small_generator()
    objective = OBJECTIVES[name](make_context(TOTAL, encoder=encoder))
    for step in range(10):
        loop_step(generator, objective, adam(generator), step)
    for old, new in zip(before, encoder.parameters(), strict=True):
        assert torch.equal(old, new)
        assert new.grad is None


@every_objective
def test_a_prediction_that_is_not_finite_asks_to_skip_the_step(name):
    generator, objective = small_generator(), build(name)
    batch = make_batch(0)
    batch.source[0, 0, 2, 3, 4] = torch.nan
    for _ in range(10):
        assert not objective.descend(generator, batch, torch.Generator()).finite
    batch = make_batch(1)
    assert objective.descend(generator, batch, torch.Generator()).finite


@every_objective
def test_an_unknown_option_lists_the_known_ones(name):
    with pytest.raises(TrainingError, match=f"objective {name} has no option 'lambda'; it knows"):
        OBJECTIVES[name](make_context(**{"lambda": 1}))


@every_objective
def test_translation_is_one_call(name):
    generator, objective = small_generator(), build(name)
    source = make_batch(0).source
    assert torch.equal(objective.translate(generator, source, None), generator(source))
