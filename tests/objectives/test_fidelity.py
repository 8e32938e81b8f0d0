from __future__ import annotations

import pytest
import torch

from gdmnet.objectives.base import Batch
from gdmnet.objectives.fidelity import FIDELITIES, fidelity_gradient, fidelity_loss


def batch(seed: int = 0) -> tuple[torch.Tensor, Batch]:
    rng = torch.Generator().manual_seed(seed)
    x, y = torch.randn(2, 2, 1, 3, 4, 5, generator=rng)
    mask = (torch.rand(y.shape, generator=rng) > 0.4).float()
    return x, Batch(y, y, mask)


def test_the_l1_is_the_mean_over_the_mask():
    x, b = batch()
    inside = b.mask > 0
    assert torch.allclose(fidelity_loss(x, b), (x - b.target)[inside].abs().mean())
    assert torch.allclose(fidelity_loss(x, b, name="l2"), (x - b.target)[inside].square().mean())


def test_huber_joins_both():
    x, b = batch()
    error = (x - b.target).abs()[b.mask > 0]
    expected = torch.where(error < 0.1, error**2 / 0.2, error - 0.05).mean()
    assert torch.allclose(fidelity_loss(x, b, name="huber"), expected)


def test_the_sum_of_both_pulls_by_one_and_the_error():
    x, b = batch()
    leaf, loss, gradient = fidelity_gradient(x, b, name="l1_l2")
    error = (x - b.target)[b.mask > 0]
    assert torch.allclose(loss, (error.abs() + error**2 / 2).mean())
    expected = (torch.sign(leaf - b.target) + leaf - b.target) * b.mask / b.mask.sum()
    assert torch.allclose(gradient, expected)


def test_the_l1_gradient_is_the_sign_over_the_number_of_voxels():
    x, b = batch()
    _, _, gradient = fidelity_gradient(x, b)
    assert torch.allclose(gradient, torch.sign(x - b.target) * b.mask / b.mask.sum())


@pytest.mark.parametrize("name", sorted(FIDELITIES))
def test_descending_lowers_the_loss(name):
    x, b = batch()
    leaf, loss, gradient = fidelity_gradient(x, b, name=name)
    assert float(fidelity_loss(leaf.detach() - 0.1 * gradient, b, name=name)) < float(loss)
    assert not loss.requires_grad


def test_an_empty_mask_gives_zero_and_not_nan():
    x, b = batch()
    leaf, loss, gradient = fidelity_gradient(x, Batch(b.source, b.target, torch.zeros_like(b.mask)))
    assert float(loss) == 0
    assert torch.equal(gradient, torch.zeros_like(leaf))


def test_the_leaf_is_float32_whatever_comes():
    x, b = batch()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        leaf, _, gradient = fidelity_gradient(x.bfloat16(), b)
    assert leaf.dtype == gradient.dtype == torch.float32
    assert torch.equal(leaf.detach(), x.bfloat16().float())
