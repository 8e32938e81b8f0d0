"""Particles between two modes at (-3, 0) and (3, 0): what repulsion is for."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gdmnet.drifting.field import AFFINITY_FLOOR, TEMPERATURES, drift_loss

N, STEPS, STEP = 64, 500, 0.02


def move_particles(velocity: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    rng = torch.Generator().manual_seed(0)
    x = 0.1 * torch.randn(N, 2, generator=rng)
    for _ in range(STEPS):
        centres = torch.zeros(256, 2)
        centres[:, 0] = torch.randint(0, 2, (256,), generator=rng) * 6.0 - 3.0
        x = x + STEP * velocity(x, centres + 0.5 * torch.randn(256, 2, generator=rng))
    return x


def drift(x: Tensor, positives: Tensor) -> Tensor:
    """s V, from the loss's gradient -2 V / (s N S)."""
    gen = x[None].requires_grad_(True)
    loss, info = drift_loss(gen, positives[None])
    (gradient,) = torch.autograd.grad(loss.sum(), gen)
    scale = info["scale"] / 2**0.5
    return -gradient[0] * scale**2 * N


def attraction(x: Tensor, positives: Tensor) -> Tensor:
    """The same without the pull away from the generated points."""
    targets = torch.cat([x, positives])
    distances = torch.cdist(x, targets)
    logits = -distances / distances.mean() - 100.0 * torch.eye(N, N + 256)
    total = torch.zeros_like(x)
    for tau in TEMPERATURES:
        product = torch.softmax(logits / tau, 1) * torch.softmax(logits / tau, 0)
        affinity = product.clamp(min=AFFINITY_FLOOR).sqrt()[:, N:]
        force = affinity @ positives - affinity.sum(1, keepdim=True) * x
        total += force / force.square().mean().sqrt()
    return total * distances.mean() / 2**0.5


def test_with_repulsion_both_modes_are_filled_with_their_spread():
    x = move_particles(drift)
    right = x[:, 0] > 0
    assert 0.35 <= float(right.float().mean()) <= 0.65
    for mode in (x[right], x[~right]):
        assert float(mode.std(dim=0).min()) >= 0.25


def test_without_repulsion_one_mode_takes_all():
    share = float((move_particles(attraction)[:, 0] > 0).float().mean())
    assert max(share, 1 - share) > 0.9
