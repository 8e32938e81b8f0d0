"""Fidelity to the paired target, and its gradient at the generator's output."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from gdmnet.objectives.base import Batch
from gdmnet.objectives.ranks import mean_over_ranks

HUBER_BETA = 0.1  # network units: below it the error counts squared, above it linearly


def _huber(error: Tensor) -> Tensor:
    zero = torch.zeros_like(error)
    return nn.functional.smooth_l1_loss(error, zero, reduction="none", beta=HUBER_BETA)


def _l1_l2(error: Tensor) -> Tensor:
    """|e| + e^2 / 2: small errors weigh as in l1, those of a deviation and more as in l2."""
    return error.abs() + error.square() / 2


FIDELITIES: dict[str, Callable[[Tensor], Tensor]] = {
    "l1": torch.abs,
    "huber": _huber,
    "l1_l2": _l1_l2,
    "l2": torch.square,
}


def masked_mean(values: Tensor, weights: Tensor) -> Tensor:
    """sum(w v) / sum(w), a scalar; 0 where nothing weighs anything.

    In a distributed training sum(w) is the mean of all ranks': the mean of their gradients is then
    that of one process on the joined batch.
    """
    return (values * weights).sum() / mean_over_ranks(weights.sum()).clamp(min=1.0)


def fidelity_loss(prediction: Tensor, batch: Batch, *, name: str = "l1") -> Tensor:
    """Mean penalty inside the mask, a scalar: sum(m rho(x - y)) / sum(m), see `masked_mean`.

    The prediction x is float32 (b, 1, z, y, x), network units; rho is `FIDELITIES[name]`.
    """
    return masked_mean(FIDELITIES[name](prediction - batch.target), batch.mask)


def fidelity_gradient(
    output: Tensor, batch: Batch, *, name: str = "l1"
) -> tuple[Tensor, Tensor, Tensor]:
    """Cut the graph at the generator's output and differentiate the fidelity there.

    Returns:
        leaf: the output as a detached float32 leaf that requires gradients, (b, 1, z, y, x).
        loss: the fidelity, a detached scalar.
        gradient: d loss / d leaf, float32 (b, 1, z, y, x).
    """
    leaf = output.detach().float().requires_grad_(True)
    with torch.enable_grad(), torch.autocast(leaf.device.type, enabled=False):
        loss = fidelity_loss(leaf, batch, name=name)
        (gradient,) = torch.autograd.grad(loss, leaf)
    return leaf, loss.detach(), gradient


def all_finite(*tensors: Tensor) -> bool:
    """Whether no number of these tensors is NaN or Inf."""
    largest = torch._foreach_norm([tensor.detach() for tensor in tensors], math.inf)
    return all(map(math.isfinite, torch.stack(largest).tolist()))
