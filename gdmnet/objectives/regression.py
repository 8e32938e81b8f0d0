"""Regression: descend the fidelity alone; the rival that every generative method must face.

With the option `perceptual` also the distance of features: L1 + w P, where P compares the maps of
the same frozen encoder as gdm's. It asks whether features do as much as a loss as they do as drift.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gdmnet.drifting.representations import Views, coverage, look
from gdmnet.objectives.base import Batch, Context, Descent, Objective
from gdmnet.objectives.fidelity import all_finite, fidelity_gradient
from gdmnet.objectives.options import FaithfulOptions, RegressionOptions, read_objective_options
from gdmnet.objectives.ranks import mean_over_ranks

SCALE = 1024.0  # of slopes in the backward: keeps float16 gradients from vanishing
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
        _, _, gradient, metrics = faithful_gradient(output, batch, self.options, self.encoder)
        finite = all_finite(*metrics.values(), gradient)
        return Descent(output, gradient, {**metrics}, finite)


def faithful_gradient(
    output: Tensor,
    batch: Batch,
    options: FaithfulOptions,
    encoder: nn.Module | None,
    *,
    looks: bool = False,
) -> tuple[Tensor, Views | None, Tensor, dict[str, Tensor]]:
    """Cut the graph at the generator's output, and differentiate L1 + w P there.

    Returns:
        leaf: the output as a detached float32 leaf that requires gradients, (b, 1, z, y, x).
        views: leaf and target through the encoder; with `looks` their graph is kept. None without
            w and `looks`.
        gradient: d (L1 + w P) / d leaf, float32 (b, 1, z, y, x).
        metrics: L1 ("fidelity") and, where it has a weight, P ("perceptual").
    """
    leaf, loss, gradient = fidelity_gradient(output, batch, name=options.fidelity)
    metrics, views = {"fidelity": loss}, None
    if encoder is not None and (looks or options.perceptual):
        views = look(encoder, leaf, batch.target, batch.mask)
    if views is not None and options.perceptual:
        metrics["perceptual"], pull = perceptual_gradient(views, leaf, keep=looks)
        gradient = gradient + options.perceptual * pull
    return leaf, views, gradient, metrics


def perceptual_gradient(views: Views, leaf: Tensor, *, keep: bool = False) -> tuple[Tensor, Tensor]:
    """The perceptual distance P of a prediction, and dP / d leaf, float32 (b, 1, z, y, x).

    Outside the mask the encoder sees the target in both images, so that the gradient there is 0.
    The views' graph is freed, unless something is to `keep` it for another backward.
    """
    with torch.no_grad(), torch.autocast(leaf.device.type, enabled=False):
        apart = [feature_distance(mine, real, views.mask) for _, mine, real in views.stages()]
    distances, slopes = zip(*apart, strict=True)
    (total,) = torch.autograd.grad([*views.generated], leaf, slopes, retain_graph=keep)
    return torch.stack(distances).mean(), total / (SCALE * len(slopes))


def feature_distance(generated: Tensor, target: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """D = sum_p m_p mean_c |u_pc - v_pc| / sum_p m_p of two maps, and 1024 dD / df.

    The feature vectors of a location are brought to one length before they are compared, as in
    LPIPS (Zhang et al., CVPR 2018); to sqrt(c), so that maps of few and many channels weigh alike:
    u_p = f_p / rms_c(f_p), and v_p the target's. With the signs g_p = sign(u_p - v_p) / c

        dD / df_p = m_p / sum_q m_q (g_p - u_p mean_c(g_p u_p)) / rms_c(f_p)

    Maps f are (b, c, z, y, x); m is the share of the image's mask in each location p. Made sample
    by sample, in float32: of the finest maps, a step's largest tensors, autograd would keep five.
    """
    weights = coverage(mask, generated.shape[2:])  # m_p (b,1,z,y,x)
    weights = weights / mean_over_ranks(weights.sum()).clamp(min=1.0)
    slope, apart = torch.empty_like(generated), []
    for out, mine, real, w in zip(slope, generated, target, weights, strict=True):
        u, per_rms = _one_length(mine.float())  # [c,z,y,x], [1,z,y,x]
        difference = u - _one_length(real.float())[0]
        apart.append((difference.abs().mean(dim=0) * w[0]).sum())
        g = difference.sign_().div_(len(u))
        along = (g * u).mean(dim=0, keepdim=True)  # mean_c(g u) [1,z,y,x]
        out.copy_(g.sub_(u.mul_(along)).mul_(SCALE * w * per_rms))
    return torch.stack(apart).sum(), slope


def _one_length(maps: Tensor) -> tuple[Tensor, Tensor]:
    """A sample's maps u = f / rms_c(f) [c, z, y, x], and 1 / rms_c(f)."""
    per_rms = (maps.square().mean(dim=0, keepdim=True) + FLOOR).rsqrt()
    return maps * per_rms, per_rms
