"""Regression: descend the fidelity alone; the rival that every generative method must face.

With the option `perceptual` also the distance of features: L1 + w P, where P compares the maps of
the same frozen encoder as gdm's. It asks whether features do as much as a loss as they do as drift.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gdmnet.drifting.representations import coverage, look
from gdmnet.objectives.base import Batch, Context, Descent, Metrics, Objective
from gdmnet.objectives.fidelity import all_finite, fidelity_gradient, masked_mean
from gdmnet.objectives.options import RegressionOptions, read_objective_options

SCALE = 1024.0  # of the loss in its backward: keeps float16 gradients from vanishing
FLOOR = 1e-6  # of a mean square: a location without any features has none to compare


class Regression(Objective):
    """The objective `regression`; it has no state, as the frozen encoder follows the batch.

    Its gradient goes the same way as gdm's, so that gdm with a drift ratio of 0 equals it to the
    bit.
    """

    def __init__(self, context: Context) -> None:
        self.options: RegressionOptions = read_objective_options("regression", context.options)
        self.encoder = context.frozen_encoder() if self.options.perceptual else None

    def descend(self, generator: nn.Module, batch: Batch, rng: torch.Generator) -> Descent:
        """One forward of the generator and the fidelity's gradient at its output."""
        output = generator(batch.source)
        leaf, loss, gradient = fidelity_gradient(output, batch, name=self.options.fidelity)
        metrics: Metrics = {"fidelity": loss}
        if self.encoder is not None:
            distance, pull = perceptual_gradient(self.encoder, leaf, batch)
            gradient = gradient + self.options.perceptual * pull
            metrics["perceptual"] = distance
        return Descent(output, gradient, metrics, all_finite(loss, gradient))


def perceptual_gradient(encoder: nn.Module, leaf: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """The perceptual distance P of a prediction, and dP / d leaf, float32 (b, 1, z, y, x).

    Outside the mask the encoder sees the target in both images, so that the gradient there is 0.
    """
    with torch.enable_grad():
        views = look(encoder, leaf, batch.target, batch.mask)
        with torch.autocast(leaf.device.type, enabled=False):
            apart = [feature_distance(mine, real, batch.mask) for _, mine, real in views.stages()]
            distance = torch.stack(apart).mean()
        (gradient,) = torch.autograd.grad(SCALE * distance, leaf)
    return distance.detach(), gradient / SCALE


def feature_distance(generated: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """sum_p m_p mean_c |u(f)_pc - u(t)_pc| / sum_p m_p, with u(f)_p = f_p / rms_c(f_p).

    The feature vectors of a location are brought to one length before they are compared, as in
    LPIPS (Zhang et al., CVPR 2018); to sqrt(c), so that maps of few and many channels weigh alike.
    Maps f and t are (b, c, z, y, x); m is the share of the image's mask in each location p.
    """
    difference = _one_length(generated.float()) - _one_length(target.float())  # (b,c,z,y,x)
    apart = difference.abs().mean(dim=1, keepdim=True)  # (b,1,z,y,x)
    return masked_mean(apart, coverage(mask, generated.shape[2:]))


def _one_length(maps: Tensor) -> Tensor:
    return maps * (maps.square().mean(dim=1, keepdim=True) + FLOOR).rsqrt()
