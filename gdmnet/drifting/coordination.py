"""Two gradients at the generator's output become one: balance, conflict removal.

g_f is the fidelity's gradient, g_d the drift's, both (b, c, z, y, x) float32; inner products <.,.>
and norms |.| are per sample over all other dimensions. Both losses depend on the weights through
the output alone, so the output is the shared representation of MGDA-UB (Sener and Koltun, 2018).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

TINY = 1e-12
OUTLIER = 3.0  # a sample's balanced drift gradient is clipped to this multiple of N_f


class MeanNorm(nn.Module):
    """N = S / W with S <- beta S + mean_b |g_b|, W <- beta W + 1 (encodec's averager)."""

    total: Tensor
    weight: Tensor

    def __init__(self, decay: float = 0.99) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("total", torch.zeros(()))
        self.register_buffer("weight", torch.zeros(()))

    @torch.no_grad()
    def update(self, gradient: Tensor) -> None:
        """Take one more gradient (b, ...) into the mean."""
        self.total.mul_(self.decay).add_(norms(gradient).mean())
        self.weight.mul_(self.decay).add_(1.0)

    @property
    def value(self) -> Tensor:
        """N, a scalar; 0 before the first update."""
        return self.total / self.weight.clamp(min=TINY)


def norms(gradient: Tensor) -> Tensor:
    """|g_b| of each sample: (b, ...) -> [b]."""
    return gradient.flatten(1).norm(dim=1)


def inner(first: Tensor, second: Tensor) -> Tensor:
    """<a_b, c_b> of each sample: (b, ...) -> [b]."""
    return (first.flatten(1) * second.flatten(1)).sum(dim=1)


def cosine(first: Tensor, second: Tensor) -> Tensor:
    """The cosine of each sample's two gradients [b]; 0 where one of them vanishes."""
    return inner(first, second) / (norms(first) * norms(second)).clamp(min=TINY)


def balance(drift: Tensor, fidelity_norm: Tensor, drift_norm: Tensor) -> Tensor:
    """The balanced h = g_d N_f / N_d, each |h_b| at most 3 N_f: no outlier may dominate."""
    balanced = drift * (fidelity_norm / (drift_norm + TINY))
    factor = OUTLIER * fidelity_norm / norms(balanced).clamp(min=TINY)
    return balanced * _column(factor.clamp(max=1.0), balanced)


def remove_conflict(moving: Tensor, fixed: Tensor) -> Tensor:
    """a_b - <a_b, c_b> / (<c_b, c_b> + 1e-12) c_b where <a_b, c_b> < 0, else a_b."""
    product = inner(moving, fixed).clamp(max=0.0)
    return moving - _column(product / (inner(fixed, fixed) + TINY), moving) * fixed


def _plain(fidelity: Tensor, drift: Tensor) -> Tensor:
    return drift


def _projection(fidelity: Tensor, drift: Tensor) -> Tensor:
    """Fidelity first: the drift loses what would raise the fidelity loss."""
    return remove_conflict(drift, fidelity)


def _pcgrad(fidelity: Tensor, drift: Tensor) -> Tensor:
    """Symmetric projection (Yu et al., 2020)."""
    return remove_conflict(drift, fidelity) + remove_conflict(fidelity, drift) - fidelity


def _mgda(fidelity: Tensor, drift: Tensor) -> Tensor:
    """Twice the shortest vector of the segment (Sener and Koltun, 2018, Eq. 10 for two tasks).

    gamma = clip(<h - g_f, h> / |g_f - h|^2, 0, 1); g = 2 (gamma g_f + (1 - gamma) h).
    """
    gap = drift - fidelity
    gamma = _column((inner(gap, drift) / (inner(gap, gap) + TINY)).clamp(0.0, 1.0), gap)
    return 2.0 * (gamma * fidelity + (1.0 - gamma) * drift) - fidelity


def _config(fidelity: Tensor, drift: Tensor) -> Tensor:
    """ConFIG for two losses (Liu et al., 2024): equal cosines with both gradients.

    u = U(U(O(h, g_f)) + U(O(g_f, h))) with U the unit vector and O(h, g_f) = g_f minus its part
    along h; g = (<g_f, u> + <h, u>) u.
    """
    bisector = _unit(_orthogonal(fidelity, drift)) + _unit(_orthogonal(drift, fidelity))
    direction = _unit(bisector)
    length = inner(fidelity, direction) + inner(drift, direction)
    return _column(length, direction) * direction - fidelity


@dataclass(frozen=True)
class Coordination:
    """What is added to the fidelity gradient, from (g_f, h), or from (g_f, g_d) if not balanced."""

    addition: Callable[[Tensor, Tensor], Tensor]
    balanced: bool = True


COORDINATIONS: dict[str, Coordination] = {
    "projection": Coordination(_projection),
    "balance": Coordination(_plain),
    "sum": Coordination(_plain, balanced=False),
    "pcgrad": Coordination(_pcgrad),
    "mgda": Coordination(_mgda),
    "mgda_raw": Coordination(_mgda, balanced=False),
    "config": Coordination(_config),
}


def coordinate(
    fidelity: Tensor, drift: Tensor, norm_values: tuple[Tensor, Tensor], *, name: str, ratio: float
) -> Tensor:
    """Combine: g = g_f + ratio * addition; with "projection" <g, g_f> >= |g_f|^2 in every sample.

    Rules that treat both gradients alike (pcgrad, mgda, config) are reached at ratio 1 and
    interpolated below it, so that every rule starts from pure regression.

    Args:
        fidelity: g_f (b, c, z, y, x).
        drift: g_d, finite, zero outside the mask.
        norm_values: N_f and N_d, scalars.
        name: a key of `COORDINATIONS`.
        ratio: r, or lambda for "sum".
    """
    rule = COORDINATIONS[name]
    moving = balance(drift, *norm_values) if rule.balanced else drift
    return fidelity + ratio * rule.addition(fidelity, moving)


def _column(values: Tensor, like: Tensor) -> Tensor:
    """[b] -> (b, 1, 1, ...) with as many dimensions as `like`."""
    return values.reshape(-1, *([1] * (like.dim() - 1)))


def _unit(vector: Tensor) -> Tensor:
    return vector / _column(norms(vector).clamp(min=TINY), vector)


def _orthogonal(moving: Tensor, fixed: Tensor) -> Tensor:
    share = inner(moving, fixed) / (inner(fixed, fixed) + TINY)
    return moving - _column(share, moving) * fixed
