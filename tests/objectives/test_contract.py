"""What every objective must do, whatever its method."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import pytest
import torch
from objectives.small import (
    NARROW,
    WIDE,
    CountingEncoder,
    adam,
    generator_for,
    half_mask,
    loop_step,
    make_batch,
    make_context,
    planned,
)

from gdmnet.errors import SettingError
from gdmnet.objectives.base import Inputs, Objective
from gdmnet.objectives.build import OBJECTIVES, SAMPLED
from gdmnet.objectives.fidelity import fidelity_loss
from gdmnet.objectives.options import parse_option
from gdmnet.objectives.sampling import Sampled, Sampling

every_objective = pytest.mark.parametrize("name", sorted(OBJECTIVES))
every_sampled = pytest.mark.parametrize("name", sorted(SAMPLED))
TOTAL = 40


def build(name: str) -> Objective:
    options = {"locations": 64, "bank": 64} if name == "gdm" else {}
    return OBJECTIVES[name](make_context(TOTAL, **options))


def pair(name: str):
    """A generator for an objective, and the objective."""
    objective = build(name)
    return generator_for(objective.inputs), objective


def noise_for(objective: Objective, like: torch.Tensor) -> torch.Tensor | None:
    """The noise that the loop would draw."""
    if objective.inputs.extra_channels == 0:
        return None
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(3))


def states_of(generator, optimiser, objective: Objective) -> dict:
    return {
        "generator": generator.state_dict(),
        "optimiser": optimiser.state_dict(),
        "modules": {key: part.state_dict() for key, part in objective.modules().items()},
        "own": {key: part.state_dict() for key, part in objective.optimizers().items()},
    }


def restored(name: str, content: bytes):
    states = torch.load(io.BytesIO(content), weights_only=True)
    objective = build(name)
    generator = generator_for(objective.inputs)
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
    generator, objective = pair(name)
    optimiser = adam(generator)
    unseen = make_batch(-1)
    noise = noise_for(objective, unseen.target)

    def error() -> float:
        with torch.no_grad():
            made = objective.translate(generator, unseen.source, noise)
            return float(fidelity_loss(made, unseen))

    before = error()
    for step in range(2 * TOTAL if isinstance(objective, Sampled) else TOTAL):
        assert loop_step(generator, objective, optimiser, step).finite
    assert error() < 0.75 * before


@every_objective
@pytest.mark.parametrize("stop", [3, 12])
def test_a_resumed_training_is_the_unbroken_one_to_the_bit(name, stop):
    generator, objective = pair(name)
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
    generator, objective = pair(name)

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
    generator, objective = pair(name)
    calls = []
    generator.register_forward_hook(lambda *_: calls.append(1))
    for step in range(10):
        loop_step(generator, objective, adam(generator), step)
    assert len(calls) == 10


@every_objective
def test_a_step_ends_at_the_output(name):
    generator, objective = pair(name)
    for step in range(10):
        batch = make_batch(step)
        with torch.autocast("cpu", torch.bfloat16):
            descent = objective.descend(generator, batch, torch.Generator())
        assert descent.tensor.requires_grad
        if descent.cotangent is not None:
            assert descent.cotangent.dtype == torch.float32
            assert descent.cotangent.shape == batch.target.shape
            assert not descent.cotangent.requires_grad
        assert all(math.isfinite(float(value)) for value in descent.metrics.values())
        assert descent.metrics["fidelity"] > 0


@every_objective
def test_frozen_parts_stay_frozen(name):
    encoder = CountingEncoder()
    before = [parameter.clone() for parameter in encoder.parameters()]
    objective = OBJECTIVES[name](make_context(TOTAL, encoder=encoder))
    generator = generator_for(objective.inputs)
    for step in range(10):
        loop_step(generator, objective, adam(generator), step)
    for old, new in zip(before, encoder.parameters(), strict=True):
        assert torch.equal(old, new)
        assert new.grad is None


@every_objective
def test_a_prediction_that_is_not_finite_asks_to_skip_the_step(name):
    generator, objective = pair(name)
    batch = make_batch(0)
    batch.source[0, 0, 2, 3, 4] = torch.nan
    for _ in range(10):
        assert not objective.descend(generator, batch, torch.Generator()).finite
    batch = make_batch(1)
    assert objective.descend(generator, batch, torch.Generator()).finite


@every_objective
def test_an_unknown_option_lists_the_known_ones(name):
    with pytest.raises(SettingError, match=f"{name}: there is no setting 'lambda'; known are"):
        OBJECTIVES[name](make_context(**{"lambda": 1}))


@pytest.mark.parametrize("name", sorted(set(OBJECTIVES) - set(SAMPLED)))
def test_translation_is_one_call(name):
    generator, objective = pair(name)
    assert not isinstance(objective, Sampled)
    assert objective.inputs == Inputs()
    source = make_batch(0).source
    assert torch.equal(objective.translate(generator, source, None), generator(source))


@every_sampled
def test_a_sampler_calls_as_often_as_it_says(name):
    generator, objective = pair(name)
    assert isinstance(objective, Sampled)
    batch = make_batch(0)
    calls = []
    generator.register_forward_hook(lambda *_: calls.append(1))
    for sampler, n_calls in objective.samplers.items():
        for steps in (1, 3, 16):
            calls.clear()
            sampling = Sampling(sampler, steps)
            noise = noise_for(objective, batch.target)
            made = objective.translate(generator, batch.source, noise, sampling=sampling)
            assert made.shape == batch.target.shape
            assert len(calls) == steps * n_calls


@every_sampled
def test_the_network_sees_the_same_states_whatever_the_units_of_the_target(name):
    seen = []
    for width, target in ((1.0, WIDE), (0.25, NARROW)):
        context = planned(make_context(TOTAL), target=target)
        objective = OBJECTIVES[name](context)
        generator = generator_for(objective.inputs)
        generator.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        batch = make_batch(0)
        narrow = replace(batch, target=width * batch.target)
        objective.descend(generator, narrow, torch.Generator().manual_seed(1))
    torch.testing.assert_close(*seen)


@every_sampled
def test_what_lies_outside_the_mask_has_no_say(name):
    generator, objective = pair(name)
    mask = half_mask()
    batch = make_batch(0, mask=mask)
    other = make_batch(0, mask=mask)
    other.target[mask == 0] = 77.0
    mine, theirs = (
        objective.descend(generator, b, torch.Generator().manual_seed(1)) for b in (batch, other)
    )
    assert torch.equal(mine.cotangent, theirs.cotangent)
    assert torch.equal(mine.tensor, theirs.tensor)
    assert (mine.cotangent[mask == 0] == 0).all()


@every_sampled
@pytest.mark.parametrize("option", ["steps=0", "steps=100000", "fidelity=l3", "noise=0"])
def test_an_option_out_of_range_is_refused(name, option):
    key, value = parse_option(option)
    with pytest.raises(SettingError, match=f"{key}.* '?{value}"):
        OBJECTIVES[name](make_context(**{key: value}))
