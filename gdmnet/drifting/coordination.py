"""Two gradients at the generator's output become one: balance, then how the drift gives way.

g_f is the fidelity's gradient, g_d the drift's, both (b, c, z, y, x) float32; inner products <.,.>
and norms |.| are per sample over all other dimensions. Both losses depend on the weights through
the output alone, so the output is the shared representation of MGDA-UB (Sener and Koltun, 2018).
"""

from __future__ import annotations

import torch
from torch import Tensor

from gdmnet.drifting.numbers import NumbersModule

TINY = 1e-12
OUTLIER = 3.0  # a sample's balanced drift gradient is clipped to this multiple of N_f


class MeanNorm(NumbersModule):
    """N = S / W with S <- beta S + mean_b |g_b|, W <- beta W + 1 (encodec's averager)."""

    total: Tensor  # S
    weight: float = 0.0  # W

    def __init__(self, decay: float = 0.99) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("total", torch.zeros(()))

    @torch.no_grad()
    def update(self, gradient: Tensor) -> None:
        """Take one more gradient (b, ...) into the mean."""
        self.total.mul_(self.decay).add_(norms(gradient).mean())
        self.weight = self.weight * self.decay + 1.0

    @property
    def value(self) -> Tensor:
        """N, a scalar; 0 before the first update."""
        return self.total / max(self.weight, TINY)


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
    """The balanced h = g_d N_f / N_d, each |h_b| at most 3 N_f: no outlier may dominate.

    g_d is finite, (b, c, z, y, x); the mean norms N_f and N_d are scalars.
    """
    balanced = drift * (fidelity_norm / (drift_norm + TINY))  # h = g_d N_f / N_d   (b,c,z,y,x)
    factor = OUTLIER * fidelity_norm / norms(balanced).clamp(min=TINY)  # 3 N_f / |h_b|     [b]
    return balanced * _column(factor.clamp(max=1.0), balanced)


def remove_conflict(moving: Tensor, fixed: Tensor) -> Tensor:
    """a_b - <a_b, c_b> / (<c_b, c_b> + 1e-12) c_b where <a_b, c_b> < 0, else a_b.

    With a the drift and c the fidelity the drift loses what would raise the fidelity loss: added
    to c it leaves <a + c, c> >= |c|^2 in every sample.
    """
    product = inner(moving, fixed).clamp(max=0.0)  # min(<a, c>, 0)                         [b]
    share = product / (inner(fixed, fixed) + TINY)  # of c in a                             [b]
    return moving - _column(share, moving) * fixed  # (b,c,z,y,x)


def halve_opposed(moving: Tensor, fixed: Tensor) -> Tensor:
    """a_v / 2 at every voxel v with a_v c_v < 0, else a_v.

    The projection looks at whole samples; this keeps what the drift does where the fidelity has no
    objection, and leaves it half a say where it has.
    """
    return torch.where(moving * fixed < 0, moving / 2, moving)  # (b,c,z,y,x)


COORDINATIONS = {"sample": remove_conflict, "voxel": halve_opposed}


def _column(values: Tensor, like: Tensor) -> Tensor:
    """[b] -> (b, 1, 1, ...) with as many dimensions as `like`."""
    return values.reshape(-1, *([1] * (like.dim() - 1)))
