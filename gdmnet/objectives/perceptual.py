"""The distance of two images in the features of a frozen encoder, and its gradient."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gdmnet.drifting.representations import coverage, look
from gdmnet.objectives.base import Batch
from gdmnet.objectives.ranks import mean_over_ranks

SCALE = 1024.0  # of the loss in its backward: keeps float16 gradients from vanishing
FLOOR = 1e-6  # of a mean square: a location without any features has none to compare


def perceptual_gradient(encoder: nn.Module, leaf: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """The perceptual distance P of a prediction and its gradient there.

    Outside the mask the encoder sees the target in both images, so that the gradient there is 0.

    Args:
        encoder: frozen; (b, 1, z, y, x) to maps, finest first; moved to the leaf's device.
        leaf: the prediction, float32 (b, 1, z, y, x), requires gradients.
        batch: its target and mask.

    Returns:
        P, a detached scalar, and d P / d leaf, float32 (b, 1, z, y, x).
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

    Args:
        generated: a map f (b, c, z, y, x).
        target: the map t of the target (b, c, z, y, x).
        mask: (b, 1, z, y, x) of the image; m is its share of each location p.
    """
    weights = coverage(mask, generated.shape[2:])
    difference = _one_length(generated.float()) - _one_length(target.float())
    apart = (difference.abs().mean(dim=1, keepdim=True) * weights).sum()
    return apart / mean_over_ranks(weights.sum()).clamp(min=1.0)


def _one_length(maps: Tensor) -> Tensor:
    return maps * (maps.square().mean(dim=1, keepdim=True) + FLOOR).rsqrt()
