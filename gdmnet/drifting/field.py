"""The drifting field: generated points are drawn to real points and pushed from generated ones.

Paper: Generative Modeling via Drifting, arXiv 2602.04770, Eq. 11 and Algorithms 1 and 2; written
from its formulas. One-letter names: Q independent drift problems, N generated points (x) a
problem, P positives (real), M further negatives (generated), S feature dimension, tau temperature.

Dimensions before Q are sets of problems: all sets are solved at once, each as if it were alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

TEMPERATURES = (0.02, 0.05, 0.2)
AFFINITY_FLOOR = 1e-6
MIN_SQUARED_DISTANCE = 1e-8
MIN_SCALE = 1e-3
MIN_SQUARED_FORCE = 1e-8
SELF_DISTANCE = 100.0  # in mean distances: far beyond every neighbour at tau <= 1
SET = (-3, -2, -1)  # dimensions of one set of problems
MOST_DISTANCES = 2**26  # Q N (M + P), 256 MiB: 256 times those of gdm's default options

# Negatives and positives are kept apart, in this order, so that they go through the same
# operations: where they are the same set the field is exactly 0, not a round-off that the
# normalisation would blow up.
Sides = tuple[Tensor, Tensor]
Weights = tuple[Tensor | None, Tensor | None]


def drift_loss(
    gen: Tensor,
    pos: Tensor,
    neg: Tensor | None = None,
    *,
    w_gen: Tensor | None = None,
    w_pos: Tensor | None = None,
    w_neg: Tensor | None = None,
    temperatures: Sequence[float] = TEMPERATURES,
    affinity_floor: float = AFFINITY_FLOOR,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Squared distance of the generated points to where the field sends them (Algorithm 1).

    loss_q = mean_{i,s} (gen / s - stop_gradient(gen / s + V))^2, so that
    d loss_q / d gen = -2 V / (s N S). The loss itself is nearly constant by construction: watch
    `force_<tau>` for convergence.

    Args:
        gen: generated points [...,Q,N,S], all finite; the gradient flows to them alone.
        pos: positives [...,Q,P,S].
        neg: further negatives [...,Q,M,S]; M may be 0.
        w_gen: non-negative weights [Q,N], default 1.
        w_pos: weights [Q,P], default 1. A weight of 0 does not remove a point.
        w_neg: weights [Q,M], default 1.
        temperatures: tau, in units of the mean distance.
        affinity_floor: lower bound of the product of the two softmaxes.

    Returns:
        The losses [...,Q], float32, and what to watch, see `drift_field`.

    Raises:
        ValueError: more than `MOST_DISTANCES` pairs of points.
    """
    if neg is None:
        neg = gen[..., :0, :]
    w_negatives = None
    if w_gen is not None or w_neg is not None:
        w_negatives = torch.cat([_weights(w_gen, gen), _weights(w_neg, neg)], dim=-1)
    field, scale, info = drift_field(
        gen,
        pos,
        torch.cat([gen, neg], dim=-2),  # [...,Q,N+M,S]
        w_pos=w_pos,
        w_neg=w_negatives,  # [...,Q,N+M]
        temperatures=temperatures,
        affinity_floor=affinity_floor,
        exclude_self=True,
    )
    return loss_towards(gen, field, scale), info


def loss_towards(gen: Tensor, field: Tensor, scale: Tensor) -> Tensor:
    """mean_{i,s} (x / s - stop_gradient(x / s + V))^2 of each problem, [...,Q], float32.

    The gradient flows to x [...,Q,N,S]; V is in coordinates divided by s [...], one for a set.
    """
    with torch.autocast(gen.device.type, enabled=False):
        here = gen.float() / over_set(scale)  # x / s                                [...,Q,N,S]
        goal = here.detach() + field  # stop_gradient(x / s + V)                     [...,Q,N,S]
        return (here - goal).square().mean(dim=(-2, -1))  # [...,Q]


def over_set(values: Tensor) -> Tensor:
    """[...] -> [...,1,1,1]: a number a set, beside its points."""
    return values[..., None, None, None]


@torch.no_grad()
def drift_field(
    probe: Tensor,
    pos: Tensor,
    neg: Tensor,
    *,
    w_pos: Tensor | None = None,
    w_neg: Tensor | None = None,
    temperatures: Sequence[float] = TEMPERATURES,
    affinity_floor: float = AFFINITY_FLOOR,
    exclude_self: bool = False,
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """The field at the probes (Algorithm 2); no gradient.

    Anti-symmetric in the positives and negatives, and zero where they are the same set. Each
    temperature's force is brought to unit root mean square over all problems of a set.

    Args:
        probe: points [...,Q,N,S], all finite.
        pos: positives [...,Q,P,S].
        neg: all negatives [...,Q,M,S].
        w_pos: weights [Q,P], default 1.
        w_neg: weights [Q,M], default 1.
        temperatures: tau, in units of the mean distance.
        affinity_floor: lower bound of the product of the two softmaxes.
        exclude_self: the first N negatives are the probes themselves: probe i ignores the i-th.

    Returns:
        V [...,Q,N,S] in coordinates divided by s; s [...], one for a set, so that coordinates are
        of order 1 in every dimension; and what to watch, a number a set: `scale` (mean distance),
        for each tau `force_<tau>` (mean squared raw force), `p_pos_<tau>` (positives' share of the
        affinity), `floor_share_<tau>` (share of the positives' affinity that stands at the floor),
        and `v_rms`.

    Raises:
        ValueError: more than `MOST_DISTANCES` pairs of points.
    """
    weights = (w_neg, w_pos)  # [Q,M] and [Q,P]
    with torch.autocast(probe.device.type, enabled=False):
        x, t = centred(probe, (neg, pos))  # [Q,N,S]; [Q,M,S] and [Q,P,S]
        apart = [distances(x, side) for side in t]  # d_ij                [Q,N,M] and [Q,N,P]
        sigma = _weighted_mean(apart, weights)  # sigma, one for a set                 [...]
        scale = (sigma / x.shape[-1] ** 0.5).clamp(min=MIN_SCALE)  # s = sigma / sqrt(S)
        relative = [d / over_set(sigma.clamp(min=MIN_SCALE)) for d in apart]  # d_ij / sigma
        if exclude_self:  # the first N negatives are x
            relative[0].diagonal(dim1=-2, dim2=-1).add_(SELF_DISTANCE)
        t = (t[0] / over_set(scale), t[1] / over_set(scale))
        field = torch.zeros_like(x)
        info = {"scale": sigma}
        for tau in temperatures:
            logits = [side / -tau for side in relative]  # l_ij = -d_ij / (sigma tau)
            affinity = _affinity(logits, weights, affinity_floor)  # A_ij     [Q,N,M] and [Q,N,P]
            force = _force(affinity, t)  # F_i                                        [Q,N,S]
            squared = force.square().mean(dim=SET)  # rms(F)^2                          [...]
            rms = squared.clamp(min=MIN_SQUARED_FORCE).sqrt()
            field += force / over_set(rms)  # V = sum_tau F / rms(F)
            info[f"force_{tau:g}"] = squared
            info |= {f"{k}_{tau:g}": share for k, share in _shares(affinity, affinity_floor)}
        info["v_rms"] = field.square().mean(dim=SET).sqrt()
    return field, scale, info


def _weights(given: Tensor | None, points: Tensor) -> Tensor:
    if given is None:
        return points.new_ones(points.shape[:-1], dtype=torch.float32)
    return given.detach().float()


def centred(probe: Tensor, targets: Sides) -> tuple[Tensor, Sides]:
    """All points in float32, moved so that the targets' mean lies at 0.

    The field does not change under translation, but |x|^2 + |t|^2 - 2 x.t cancels in float32 where
    the mean exceeds the spread.
    """
    n_distances = math.prod(probe.shape[:-1]) * sum(side.shape[-2] for side in targets)
    if n_distances > MOST_DISTANCES:
        raise ValueError(
            f"a drift of {n_distances} pairs of points, at most {MOST_DISTANCES} are held at once;"
            " take fewer points"
        )
    x, negatives, positives = (part.detach().float() for part in (probe, *targets))
    centre = torch.cat([negatives, positives], dim=-2).mean(dim=-2, keepdim=True)  # [...,Q,1,S]
    return x - centre, (negatives - centre, positives - centre)


def distances(x: Tensor, t: Tensor) -> Tensor:
    """Euclidean distances |x_i - t_j| [Q,N,R] of [Q,N,S] and [Q,R,S], at least 1e-4."""
    squared = x.square().sum(-1)[..., None] + t.square().sum(-1)[..., None, :]  # |x|^2 + |t|^2
    return (squared - 2.0 * x @ t.mT).clamp(min=MIN_SQUARED_DISTANCE).sqrt()


def _weighted_mean(apart: Sequence[Tensor], weights: Weights) -> Tensor:
    """Sigma = mean_ij(d_ij w_j) / mean_j(w_j) over both sides and the problems of a set, [...]."""
    negative, positive = (_by(d, w).sum(dim=SET) for d, w in zip(apart, weights, strict=True))
    masses = (
        math.prod(d.shape[-3:]) if w is None else d.shape[-2] * w.detach().float().sum(dim=(-2, -1))
        for d, w in zip(apart, weights, strict=True)
    )
    return (negative + positive) / sum(masses)


def _by(values: Tensor, weights: Tensor | None) -> Tensor:
    """v_ij w_j [Q,N,R] of [Q,N,R] and [Q,R]."""
    return values if weights is None else values * weights.detach().float()[..., None, :]


def _affinity(logits: Sequence[Tensor], weights: Weights, floor: float) -> Sides:
    """A_ij = w_j sqrt(max(softmax_j(l)_ij softmax_i(l)_ij, floor)), in the log domain.

    The softmax over j runs over negatives and positives jointly, the one over the probes i is
    each target's own.
    """
    rows = torch.logaddexp(*(side.logsumexp(dim=-1, keepdim=True) for side in logits))  # [Q,N,1]
    columns = [side.logsumexp(dim=-2, keepdim=True) for side in logits]  # [Q,1,M] and [Q,1,P]
    negative, positive = (
        _by((side - 0.5 * (rows + column)).exp().clamp(min=floor**0.5), w)
        for side, column, w in zip(logits, columns, weights, strict=True)
    )
    return negative, positive


def _force(affinity: Sides, targets: Sides) -> Tensor:
    """F_i = Z+_i Z-_i (mean+_i - mean-_i) [Q,N,S], Eq. 11: both directions carry equal mass.

    Z+ and Z- are the sums of the affinities to positives and negatives, mean+ and mean- the
    affinity-weighted means; multiplied out, so that nothing is divided by a vanishing sum. The
    coefficient of x_i itself is exactly 0, which keeps a lone positive from making it diverge.
    """
    negative, positive = affinity
    attraction = negative.sum(-1, keepdim=True) * (positive @ targets[1])  # Z-_i sum_j A+_ij t_j
    repulsion = positive.sum(-1, keepdim=True) * (negative @ targets[0])  # Z+_i sum_j A-_ij t_j
    return attraction - repulsion


def _shares(affinity: Sides, floor: float) -> list[tuple[str, Tensor]]:
    """Of all affinity the positives' share, and of theirs the share that stands at the floor."""
    negative, positive = affinity
    at_floor = positive * (positive <= floor**0.5)
    real = positive.sum(dim=SET)
    return [
        ("p_pos", real / (real + negative.sum(dim=SET)).clamp(min=1e-30)),
        ("floor_share", at_floor.sum(dim=SET) / real.clamp(min=1e-30)),
    ]
