import pytest
import torch
from torch import nn

from gdmnet.training.ema import WeightAverage


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


def test_what_is_saved_is_loaded():
    first, second = (WeightAverage(nn.Linear(2, 1), 0.9) for _ in range(2))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.network.weight, second.network.weight)
