"""The image-to-image Schroedinger bridge, I2SB: noisy paths between a source and its target.

Liu et al., ICML 2023. With the variance s^2 gathered since the target (t = 0) and that left until
the source (t = 1), r^2, a path from y to x_k is known at any time (Eq. 11):

    x_t ~ N(w y + (1 - w) x_k,  s^2 r^2 / (s^2 + r^2)),   w = r^2 / (s^2 + r^2)

The network descends |u(x_t, x, t) - (x_t - y) / s|^2 (Eq. 12), so that x_t - s u estimates y, and
sampling walks from the source to the target by the posterior of DDPM (Eq. 4). Without noise, in
training and sampling alike, paths are straight: the optimal-transport ODE (Proposition 3.4).
"""

from __future__ import annotations

import torch
from torch import Tensor

from gdmnet.objectives.base import Batch, Context
from gdmnet.objectives.options import N_TIMES, BridgeOptions, read_objective_options
from gdmnet.objectives.sampling import DiscretePath, Draw, Sampling, at_times, start_channel

LEAST, MOST = 1e-4, 3e-4  # beta at the ends and, were the rise not mirrored halfway, at the last
PAPER_WIDTH = 0.5  # about the standard deviation of the paper's images, which lie in [-1, 1]


def variances(width: float) -> Tensor:
    """s_n^2 for n = 0 .. N: the sum of beta up to n, float64 (N + 1,); deviations times `width`.

    sqrt(beta) rises linearly over the first half and falls over the second one, mirrored (section
    4.1 of the paper and its settings: beta_max = 0.3, N = 1000).
    """
    rise = torch.linspace(LEAST**0.5, MOST**0.5, N_TIMES, dtype=torch.float64)[: N_TIMES // 2] ** 2
    steps = torch.cat([rise, rise.flip(0)]) * width**2
    return torch.cat([steps.new_zeros(1), steps.cumsum(0)])


def on_path(target: Tensor, end: Tensor, gathered: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of a state between y (b, 1, z, y, x) and a later one, of `gathered` s^2.

    With the later one at the source, where its s^2, `total`, is s^2 + r^2, this is x_t of training
    (Eq. 11), else the posterior of x_n given y and the x_m from that it comes, n < m (Eq. 4).
    """
    share = gathered / total
    return (1 - share) * target + share * end, gathered * (1 - share)


class Bridge(DiscretePath):
    """The objective `bridge`.

    The network gives (x_t - y) / s, from which the target follows by what is left of the source
    in x_t: it is no residual of a source itself.
    """

    def __init__(self, context: Context) -> None:
        options: BridgeOptions = read_objective_options("bridge", context.options)
        super().__init__(options.fidelity, context.target_width)
        self.is_ode = options.ot_ode
        self.start_of = start_channel(context, options.start_channel)
        self.variances = variances(options.noise * context.target_width / PAPER_WIDTH)
        self.samplers = {"ode": 1} if self.is_ode else {"sde": 1, "ode": 1}
        self.sampling = Sampling("ode" if self.is_ode else options.sampler, options.steps)

    def example(self, batch: Batch, time: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """x_t, and (x_t - y) / s."""
        gathered = at_times(self.variances, time)  # s^2                             (b,1,1,1,1)
        start, total = self.start_of(batch.source), self.variances[-1].to(gathered)  # s^2 + r^2
        mean, variance = on_path(batch.target, start, gathered, total)  # Eq. 11
        state = mean if self.is_ode else mean + variance.sqrt() * noise
        return state, (state - batch.target) / gathered.sqrt()

    def begin(self, source: Tensor, draw: Draw) -> Tensor:
        """The source channel."""
        return self.start_of(source)

    def advance(
        self, output: Tensor, state: Tensor, levels: tuple[int, int], sampler: str
    ) -> tuple[Tensor, Tensor]:
        """The posterior given y = x_m - s_m u; without its noise for "ode"."""
        later, sooner = self.variances[levels[0]], self.variances[levels[1]]  # s_m^2, s_n^2
        target = state - later.sqrt() * output
        mean, variance = on_path(target, state, sooner, later)  # Eq. 4
        return mean, variance.sqrt() * (sampler == "sde")
