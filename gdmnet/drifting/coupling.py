"""The coupled field: generated rows go to their partners under a two-sided entropic coupling.

Where the affinity of `field` lets every generated point look at all real ones, a coupling gives
each real point as much to do as any other: P minimises sum P_ij C_ij - eps c H(P) among all P with
equal row sums and equal column sums, with C the squared distances and c their mean (Cuturi, NeurIPS
2013). The step's generated points, coupled with themselves, are taken off, as in the Sinkhorn
divergence (Genevay et al., AISTATS 2018): where both sets are equal the field is 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gdmnet.drifting.field import (
    MIN_SCALE,
    MIN_SQUARED_FORCE,
    SET,
    centred,
    distances,
    loss_towards,
    over_set,
)

EPSILON = 0.05  # of the mean cost
ITERATIONS = 25
LEAST_KERNEL = 1e-200  # keeps the coupling of far points in float64


def coupled_loss(gen: Tensor, pos: Tensor, neg: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Squared distance of the generated points to where the coupled field sends them.

    loss_q = mean_{i,s} (gen / s - stop_gradient(gen / s + V))^2, as in `field.drift_loss`.

    Args:
        gen: generated points x [...,Q,N,S], all finite; the gradient flows to them alone.
        pos: real points [...,Q,P,S].
        neg: past generated points [...,Q,M,S]; M may be 0.

    Returns:
        The losses [...,Q], float32, and what to watch, a detached number a set of problems:
        `scale` (mean distance), `force` (mean squared raw force) and `v_rms`.

    Raises:
        ValueError: more than `field.MOST_DISTANCES` pairs of points.
    """
    with torch.no_grad(), torch.autocast(gen.device.type, enabled=False):
        x, (negatives, positives) = centred(gen, (torch.cat([gen, neg], dim=-2), pos))
        apart = [distances(x, side) for side in (negatives, positives)]  # [Q,N,N+M] and [Q,N,P]
        sigma = torch.cat(apart, dim=-1).mean(dim=SET)  # mean distance                    [...]
        scale = (sigma / x.shape[-1] ** 0.5).clamp(min=MIN_SCALE)  # s = sigma / sqrt(S)
        towards = partners(apart[1], positives)  # b+                                    [Q,N,S]
        away = partners(apart[0], negatives)  # b-                                       [Q,N,S]
        force = (towards - away) / over_set(scale)  # b+ - b-                             [Q,N,S]
        squared = force.square().mean(dim=SET)  # rms^2                                    [...]
        rms = squared.clamp(min=MIN_SQUARED_FORCE).sqrt()
        field = force / over_set(rms)  # V / rms V                                        [Q,N,S]
    watch = {"scale": sigma, "force": squared, "v_rms": field.square().mean(dim=SET).sqrt()}
    return loss_towards(gen, field, scale), watch


def partners(apart: Tensor, points: Tensor) -> Tensor:
    """Where the coupling sends each of N points: b_i = sum_j P_ij t_j / sum_j P_ij, [Q,N,S].

    By their distances [Q,N,R] to the R points t [Q,R,S].
    """
    plan = coupling(apart.double().square())
    return (plan / plan.sum(-1, keepdim=True) @ points.double()).to(points.dtype)


def coupling(cost: Tensor) -> Tensor:
    """The entropic coupling P [Q,N,R] of costs C, float64: rows sum to 1 / N, columns to 1 / R.

    Sinkhorn's iteration, 25 times; the columns are exact, the rows nearly so.
    """
    n, r = cost.shape[-2:]
    mean = cost.mean(dim=(-2, -1), keepdim=True)  # c                                [Q,1,1]
    kernel = (cost / (-EPSILON * mean)).exp().clamp(min=LEAST_KERNEL)  # K_ij              [Q,N,R]
    v = torch.ones_like(cost[..., :1, :].mT)  # [Q,R,1]
    for _ in range(ITERATIONS):
        u = 1 / (n * (kernel @ v))  # u_i = (1/N) / sum_j K_ij v_j                        [Q,N,1]
        v = 1 / (r * (kernel.mT @ u))  # v_j = (1/R) / sum_i u_i K_ij                     [Q,R,1]
    return u * kernel * v.mT
