import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from gdmnet.objectives.base import Descent
from gdmnet.plan import Recipe
from gdmnet.training.step import (
    GeneratorOptimizer,
    WeightAverage,
    adamw,
    learning_rate,
    surrogate,
    warm_up_steps,
)

CPU = torch.device("cpu")
RECIPE = Recipe(1, 100, learning_rate=0.1, clip=1.0)


@pytest.fixture
def x():
    return torch.randn(2, 1, 4, 4, 4)


def _weights(module):
    return [p.detach().clone() for p in module.parameters()]


def test_the_surrogate_sends_exactly_the_cotangent_backward(make_generator, x):
    generator = make_generator()
    cotangent = torch.randn(2, 1, 4, 4, 4)
    surrogate(Descent(generator(x), cotangent)).backward()
    through_surrogate = [p.grad.clone() for p in generator.parameters()]
    generator.zero_grad()
    generator(x).backward(cotangent)
    for first, second in zip(through_surrogate, generator.parameters(), strict=True):
        assert torch.equal(first, second.grad)


def test_a_scalar_loss_is_its_own_surrogate():
    loss = torch.tensor(2.0, requires_grad=True)
    assert surrogate(Descent(loss, None)) == loss


def test_norms_and_biases_do_not_decay(make_generator):
    generator = make_generator()
    groups = adamw(generator, RECIPE).param_groups
    assert [g["weight_decay"] for g in groups] == [RECIPE.weight_decay, 0.0]
    assert all(p.ndim == 5 for p in groups[0]["params"])
    assert all(p.ndim == 1 for p in groups[1]["params"])
    assert sum(len(g["params"]) for g in groups) == len(list(generator.parameters()))
    assert all(g["betas"] == (0.9, 0.95) for g in groups)


def test_a_step_is_adamw_on_the_clipped_gradient(make_generator, x):
    generator, twin = make_generator(), make_generator()
    twin.load_state_dict(generator.state_dict())
    optimizer = adamw(twin, RECIPE)
    optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = 0.1 / 5  # first of 5
    twin(x).mul(100).sum().backward()
    expected_norm = nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
    optimizer.step()
    stepper = GeneratorOptimizer(generator, RECIPE, CPU)
    norm, finite = stepper.step(Descent(generator(x).mul(100).sum(), None), 0)
    assert finite
    assert norm == float(expected_norm) > 1
    assert all(torch.equal(a, b) for a, b in zip(_weights(generator), _weights(twin), strict=True))
    followed = _weights(stepper.average.network)
    assert all(not torch.equal(a, b) for a, b in zip(followed, _weights(twin), strict=True))


def _bad_descents(generator, x):
    output = generator(x)
    yield Descent(output.sum(), None, finite=False)
    yield Descent(generator(x).sum() * math.nan, None)
    yield Descent(generator(x).sum() * 0 + math.inf, None)  # gradients are finite here
    yield Descent(generator(x), torch.full((2, 1, 4, 4, 4), math.nan))
    yield Descent(generator(x), torch.full((2, 1, 4, 4, 4), math.inf))


def test_nothing_changes_when_a_number_is_not_finite(make_generator, x):
    generator = make_generator()
    stepper = GeneratorOptimizer(generator, RECIPE, CPU)
    stepper.step(Descent(generator(x).sum(), None), 0)
    before = _weights(generator), _weights(stepper.average.network)
    moments = str(stepper.optimizer.state_dict()["state"])
    for descent in _bad_descents(generator, x):
        _, finite = stepper.step(descent, 1)
        assert not finite
    after = _weights(generator), _weights(stepper.average.network)
    for first, second in zip(before, after, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert str(stepper.optimizer.state_dict()["state"]) == moments
    assert stepper.step(Descent(generator(x).sum(), None), 2)[1]


def test_a_scaler_that_looks_for_its_scale_does_not_count(make_generator, x):
    """A gradient of 1 times 65536 is no number in fp16, times 32768 it is."""
    generator = make_generator()
    stepper = GeneratorOptimizer(generator, Recipe(1, 100, precision="fp16"), CPU)
    before = _weights(generator)
    ones = torch.ones(2, 1, 4, 4, 4)
    norm, finite = stepper.step(Descent(generator(x).half(), ones), 0)
    assert finite
    assert not math.isfinite(norm)
    assert stepper.scaler.get_scale() == 32768.0
    assert all(torch.equal(a, b) for a, b in zip(before, _weights(generator), strict=True))
    norm, finite = stepper.step(Descent(generator(x).half(), ones), 1)
    assert finite
    assert math.isfinite(norm)
    assert any(not torch.equal(a, b) for a, b in zip(before, _weights(generator), strict=True))


def test_a_scaler_at_the_end_of_its_scale_counts(make_generator, x):
    generator = make_generator()
    stepper = GeneratorOptimizer(generator, Recipe(1, 100, precision="fp16"), CPU)
    outcomes = [
        stepper.step(Descent(generator(x).half(), torch.full((2, 1, 4, 4, 4), 1e30)), n)[1]
        for n in range(20)
    ]
    assert outcomes == [True] * 16 + [False] * 4  # 65536 = 2 ** 16


def test_warm_up_is_a_share_of_the_run_but_at_most_1000_steps():
    assert warm_up_steps(Recipe(10, 100)) == 50
    assert warm_up_steps(Recipe(1000, 250)) == 1000
    assert warm_up_steps(Recipe(1, 1)) == 1


def test_the_rate_rises_to_its_top_and_falls_to_zero():
    recipe = Recipe(10, 100, learning_rate=0.5)
    rates = [learning_rate(step, recipe) for step in range(1000)]
    assert rates[0] == pytest.approx(0.5 / 50)
    assert rates[24] == pytest.approx(0.25)
    assert max(rates) == rates[49] == rates[50] == 0.5
    assert all(a < b for a, b in pairwise(rates[:50]))
    assert all(a > b for a, b in pairwise(rates[50:]))
    assert learning_rate(525, recipe) == pytest.approx(0.25)  # half of the decay
    assert learning_rate(1000, recipe) == pytest.approx(0.0, abs=1e-12)


def test_a_run_of_one_step_learns():
    assert learning_rate(0, Recipe(1, 1, learning_rate=0.1)) == 0.1


def test_the_average_follows_the_formula():
    network = nn.Linear(2, 1)
    average = WeightAverage(network, 0.5)
    expected = network.weight.detach().clone()
    for step in range(6):
        with torch.no_grad():
            network.weight.add_(1.0)
        average.update(network, step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * network.weight.detach()
    torch.testing.assert_close(average.network.weight, expected)


@pytest.mark.parametrize(
    ("step", "most", "decay"),
    [(0, 0.999, 0.1), (90, 0.999, 0.91), (10**6, 0.999, 0.999), (5, 0.2, 0.2)],
)
def test_a_young_average_forgets_quickly(step, most, decay):
    network = nn.Linear(1, 1)
    average = WeightAverage(network, most)
    nn.init.zeros_(average.network.weight)
    nn.init.ones_(network.weight)
    average.update(network, step)
    assert average.network.weight.item() == pytest.approx(1 - decay)


def test_the_average_is_frozen_and_apart():
    network = nn.Linear(2, 1)
    average = WeightAverage(network, 0.9)
    assert not any(p.requires_grad for p in average.network.parameters())
    assert not average.network.training
    with torch.no_grad():
        network.weight.zero_()
    assert average.network.weight.abs().sum() > 0


def test_buffers_are_copied():
    network = nn.BatchNorm1d(2)
    average = WeightAverage(network, 0.9)
    network(torch.randn(8, 2) + 3)
    average.update(network, 0)
    assert torch.equal(average.network.running_mean, network.running_mean)
    assert average.network.num_batches_tracked == 1
