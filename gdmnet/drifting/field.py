"""The drifting field: generated points are drawn to real points and pushed from generated ones.

Paper: Generative Modeling via Drifting, arXiv 2602.04770, Eq. 11 and Algorithms 1 and 2; written
from its formulas. One-letter names: Q independent drift problems, N generated points (x) a
problem, P positives (real), M further negatives (generated), S feature dimension, tau temperature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

TEMPERATURES = (0.02, 0.05, 0.2)
AFFINITY_FLOOR = 1e-6
MIN_SQUARED_DISTANCE = 1e-8
MIN_SCALE = 1e-3
MIN_SQUARED_FORCE = 1e-8
SELF_DISTANCE = 100.0  # in mean distances: far beyond every neighbour at tau <= 1
MOST_DISTANCES = 2**26  # held at once, 256 MiB; larger problems are computed in blocks of probes


@dataclass(frozen=True)
class _Points:
    """Probes [Q,N,S] and, negatives first, targets [Q,M,S], [Q,P,S] with weights [Q,M], [Q,P].

    The two sides are kept apart, so that they go through the same operations: where they are the
    same set the field is exactly 0, not a round-off that the normalisation would blow up.
    """

    probe: Tensor
    targets: tuple[Tensor, Tensor]
    weights: tuple[Tensor, Tensor]


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
        gen: generated points [Q,N,S]; the gradient flows to them alone.
        pos: positives [Q,P,S].
        neg: further negatives [Q,M,S]; M may be 0.
        w_gen: non-negative weights [Q,N], default 1.
        w_pos: weights [Q,P], default 1. A weight of 0 does not remove a point.
        w_neg: weights [Q,M], default 1.
        temperatures: tau, in units of the mean distance.
        affinity_floor: lower bound of the product of the two softmaxes.

    Returns:
        The losses [Q], float32, and what to watch, detached scalars: `scale` (mean distance) and
        for each tau `force_<tau>` (mean squared raw force), `p_pos_<tau>` (positives' share of the
        affinity), `floor_share_<tau>` (share of the positives' affinity that stands at the floor),
        and `v_rms`.

    Raises:
        ValueError: NaN or Inf among the points.
    """
    if neg is None:
        neg = gen.detach()[:, :0]
    negatives = torch.cat([gen.detach().float(), neg.detach().float()], dim=1)
    w_negatives = torch.cat([_weights(w_gen, gen), _weights(w_neg, neg)], dim=1)
    with torch.no_grad(), torch.autocast(gen.device.type, enabled=False):
        points = _points(gen, pos, negatives, w_pos=w_pos, w_neg=w_negatives)
        field, scale, info = _field(
            points, temperatures=temperatures, affinity_floor=affinity_floor, exclude_self=True
        )
    with torch.autocast(gen.device.type, enabled=False):
        here = gen.float() / scale
        loss = (here - (here.detach() + field)).square().mean(dim=(1, 2))  # [Q]
    return loss, info


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
) -> Tensor:
    """The field V [Q,N,S] at the probes, in coordinates divided by the scale; no gradient.

    Anti-symmetric in the positives and negatives, and zero where they are the same set.

    Args:
        probe: points [Q,N,S].
        pos: positives [Q,P,S].
        neg: all negatives [Q,M,S].
        w_pos: weights [Q,P], default 1.
        w_neg: weights [Q,M], default 1.
        temperatures: tau, in units of the mean distance.
        affinity_floor: lower bound of the product of the two softmaxes.
        exclude_self: the first N negatives are the probes themselves: probe i ignores the i-th.

    Raises:
        ValueError: NaN or Inf among the points.
    """
    with torch.no_grad(), torch.autocast(probe.device.type, enabled=False):
        points = _points(probe, pos, neg, w_pos=w_pos, w_neg=w_neg)
        field, _, _ = _field(
            points,
            temperatures=temperatures,
            affinity_floor=affinity_floor,
            exclude_self=exclude_self,
        )
    return field


def _weights(given: Tensor | None, points: Tensor) -> Tensor:
    if given is None:
        return points.new_ones(points.shape[:2], dtype=torch.float32)
    return given.detach().float()


def _points(
    probe: Tensor, pos: Tensor, neg: Tensor, *, w_pos: Tensor | None, w_neg: Tensor | None
) -> _Points:
    x, negatives, positives = probe.detach().float(), neg.float(), pos.float()
    for points in (x, negatives, positives):
        if not bool(torch.isfinite(points).all()):
            raise ValueError("NaN or Inf among the points of a drift problem")
    # The field does not change under translation, but |x|^2 + |t|^2 - 2 x.t cancels in float32
    # where the mean exceeds the spread.
    centre = torch.cat([negatives, positives], dim=1).mean(dim=1, keepdim=True)
    return _Points(
        x - centre,
        (negatives - centre, positives - centre),
        (_weights(w_neg, neg), _weights(w_pos, pos)),
    )


def _distances(x: Tensor, t: Tensor) -> Tensor:
    """Euclidean distances [Q,N,R], at least 1e-4."""
    squared = x.square().sum(-1)[:, :, None] + t.square().sum(-1)[:, None, :]
    return (squared - 2.0 * x @ t.mT).clamp(min=MIN_SQUARED_DISTANCE).sqrt()


def _field(
    points: _Points, *, temperatures: Sequence[float], affinity_floor: float, exclude_self: bool
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """V [Q,N,S], the scale s of its coordinates and what to watch (Algorithm 2).

    s = sigma / sqrt(S), so that coordinates are of order 1 in every dimension S; each
    temperature's force is brought to unit root mean square over all problems.
    """
    probe = points.probe
    blocks = _blocks(points)
    weights = points.weights
    totals = torch.stack([_weighted_sum(block.distances(), weights) for block in blocks])
    mass = probe.shape[1] * torch.stack([w.sum() for w in weights]).sum()
    sigma = totals.sum() / mass  # the mean of d_ij w_j over that of w_j: one for all problems
    scale = (sigma / probe.shape[-1] ** 0.5).clamp(min=MIN_SCALE)
    targets = [side / scale for side in points.targets]
    unit = sigma.clamp(min=MIN_SCALE)

    total = torch.zeros_like(probe)
    info = {"scale": sigma}
    for tau in temperatures:

        def logits(block: _Block, tau: float = tau) -> list[Tensor]:
            return [side / -tau for side in block.relative(unit, exclude_self=exclude_self)]

        columns = _columns([block.column_sums(logits(block)) for block in blocks])
        parts = []
        for block in blocks:
            affinity = _affinity(logits(block), columns, affinity_floor)
            weighted = [a * w[:, None, :] for a, w in zip(affinity, weights, strict=True)]
            parts.append(_force(weighted, targets, affinity_floor))
        force = torch.cat([part for part, _ in parts], dim=1)
        squared = force.square().mean()
        total += force / squared.clamp(min=MIN_SQUARED_FORCE).sqrt()
        info[f"force_{tau:g}"] = squared
        info |= {f"{name}_{tau:g}": share for name, share in _shares([m for _, m in parts]).items()}
    info["v_rms"] = total.square().mean().sqrt()
    return total, scale, info


class _Block:
    """Some probes against all targets: what is recomputed where all at once are too many.

    Args:
        points: the whole problems.
        rows: which probes.
        keep: whether the distances may stay in memory.
    """

    def __init__(self, points: _Points, rows: slice, *, keep: bool) -> None:
        self._points, self._rows, self._keep = points, rows, keep
        self._kept: list[Tensor] | None = None

    def distances(self) -> list[Tensor]:
        """[Q,n,M] to the negatives and [Q,n,P] to the positives."""
        if self._kept is not None:
            return self._kept
        probe = self._points.probe[:, self._rows]
        found = [_distances(probe, targets) for targets in self._points.targets]
        if self._keep:
            self._kept = found
        return found

    def relative(self, unit: Tensor, *, exclude_self: bool) -> list[Tensor]:
        """Distances in units of the mean one; a probe is far from itself where that is asked."""
        relative = [d / unit for d in self.distances()]
        if exclude_self:  # the first N negatives are the probes
            own = relative[0][:, :, self._rows]
            own.diagonal(dim1=1, dim2=2).add_(SELF_DISTANCE)
        return relative

    @staticmethod
    def column_sums(logits: Sequence[Tensor]) -> list[Tensor]:
        """This block's share of the softmax over the probes: log-sums [Q,1,M] and [Q,1,P]."""
        return [side.logsumexp(dim=1, keepdim=True) for side in logits]


def _blocks(points: _Points) -> list[_Block]:
    """All probes at once where the distances fit `MOST_DISTANCES`, else as many as do."""
    n_problems, n_probes, _ = points.probe.shape
    n_targets = sum(side.shape[1] for side in points.targets)
    step = max(1, min(n_probes, MOST_DISTANCES // max(1, n_problems * n_targets)))
    slices = [slice(start, min(start + step, n_probes)) for start in range(0, n_probes, step)]
    return [_Block(points, rows, keep=len(slices) == 1) for rows in slices]


def _weighted_sum(distances: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    pairs = zip(distances, weights, strict=True)
    return torch.stack([(d * w[:, None, :]).sum() for d, w in pairs]).sum()


def _columns(sums: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """The log-sums of all blocks as those of the whole."""
    if len(sums) == 1:
        return list(sums[0])
    sides = zip(*sums, strict=True)
    return [torch.cat(side, dim=1).logsumexp(dim=1, keepdim=True) for side in sides]


def _affinity(logits: Sequence[Tensor], columns: Sequence[Tensor], floor: float) -> list[Tensor]:
    """A_ij = sqrt(max(softmax_j(l)_ij softmax_i(l)_ij, floor)), in the log domain.

    The softmax over j runs over negatives and positives jointly, the one over the probes i is
    each target's own; `columns` are its log-sums over all probes.
    """
    negative, positive = (side.logsumexp(dim=2, keepdim=True) for side in logits)
    rows = torch.logaddexp(negative, positive)  # [Q,N,1]
    pairs = zip(logits, columns, strict=True)
    return [(side - 0.5 * (rows + c)).exp().clamp(min=floor**0.5) for side, c in pairs]


def _force(
    affinity: Sequence[Tensor], targets: Sequence[Tensor], floor: float
) -> tuple[Tensor, Tensor]:
    """F_i = Z+_i Z-_i (mean+_i - mean-_i), Eq. 11: attraction and repulsion carry equal mass.

    Z+ and Z- are the sums of the affinities to positives and negatives, mean+ and mean- the
    affinity-weighted means; multiplied out, so that nothing is divided by a vanishing sum. The
    coefficient of x_i itself is exactly 0, which keeps a lone positive from making it diverge.

    Returns:
        F [Q,N,S], and three masses for `_shares`.
    """
    negative, positive = affinity
    z_negative, z_positive = negative.sum(2, keepdim=True), positive.sum(2, keepdim=True)  # [Q,N,1]
    attraction = z_negative * (positive @ targets[1])  # [Q,N,S]
    repulsion = z_positive * (negative @ targets[0])
    at_floor = positive * (positive <= floor**0.5)
    masses = torch.stack([z_positive.sum(), z_negative.sum(), at_floor.sum()])
    return attraction - repulsion, masses


def _shares(masses: Sequence[Tensor]) -> dict[str, Tensor]:
    """From each block's affinity to positives, to negatives, and to positives at the floor."""
    positive, negative, at_floor = torch.stack(list(masses)).sum(dim=0)
    return {
        "p_pos": positive / (positive + negative).clamp(min=1e-30),
        "floor_share": at_floor / positive.clamp(min=1e-30),
    }
