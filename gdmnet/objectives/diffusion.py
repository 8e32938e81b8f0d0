"""Conditional diffusion that predicts the target: DDPM in training, DDIM or DDPM in sampling.

x_t = sqrt(a_t) y + sqrt(1 - a_t) e with noise e (Ho et al., NeurIPS 2020, Eq. 4; a is their alpha
bar), on the cosine schedule (Nichol and Dhariwal, ICML 2021, Eq. 17). The network descends
|u(x_t, x, t) - y|^2: it predicts the target, not the noise, as is customary for CT (Friedrich et
al., "cWDM", 2024). At t = 1 nothing of the target is left in x_t: one step is a regression.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from gdmnet.objectives.base import Batch, Context, Inputs
from gdmnet.objectives.options import N_TIMES, DiffusionOptions, read_objective_options
from gdmnet.objectives.sampling import DiscretePath, Draw, Sampling, at_times

OFFSET = 0.008  # s of the cosine schedule
MOST_BETA = 0.999


def cosine_schedule() -> Tensor:
    """a_t for t = 0 .. T, float64 (T + 1,): 1 at t = 0.

    Eq. 17: f(t) = cos((t / T + s) / (1 + s) pi / 2)^2, a_t = f(t) / f(0), and beta_t = 1 - a_t /
    a_(t-1) at most 0.999.
    """
    time = torch.arange(N_TIMES + 1, dtype=torch.float64) / N_TIMES
    curve = torch.cos((time + OFFSET) / (1 + OFFSET) * math.pi / 2) ** 2
    keeps = (curve[1:] / curve[:-1]).clamp(min=1 - MOST_BETA)
    return torch.cat([keeps.new_ones(1), keeps.cumprod(0)])


def noised(target: Tensor, noise: Tensor, kept: Tensor) -> Tensor:
    """x_t = sqrt(a) y + sqrt(1 - a) e (Ho et al., Eq. 4)."""
    return kept.sqrt() * target + (1 - kept).sqrt() * noise


def ddim_step(
    target: Tensor, state: Tensor, later: Tensor, sooner: Tensor, eta: float
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of x_s given x_t, s < t (Song et al., ICLR 2021, Eq. 12, 16).

    With eta = 1 this is the posterior of ancestral sampling (Ho et al., Eq. 6 and 7), with 0 there
    is no noise. `target` is y as the network predicts it, `later` is a_t, `sooner` a_s.
    """
    noise = (state - later.sqrt() * target) / (1 - later).sqrt()  # e                 (b,1,z,y,x)
    sigma = eta * ((1 - sooner) / (1 - later)).sqrt() * (1 - later / sooner).sqrt()
    left = (1 - sooner - sigma**2).clamp(min=0.0).sqrt()  # sqrt(1 - a_s - sigma^2)
    return sooner.sqrt() * target + left * noise, sigma


class Diffusion(DiscretePath):
    """The objective `diffusion`.

    The network gives the target, where there is a residual channel as a correction of it.
    """

    inputs = Inputs(extra_channels=1, time=True)
    samplers: Mapping[str, int] = {"ddim": 1, "ancestral": 1}

    def __init__(self, context: Context) -> None:
        options: DiffusionOptions = read_objective_options("diffusion", context.options)
        super().__init__(options.fidelity, context.target_width)
        self.etas = {"ddim": options.eta, "ancestral": 1.0}
        self.width = options.noise * context.target_width
        self.kept = cosine_schedule()
        self.sampling = Sampling(options.sampler, options.steps)

    def example(self, batch: Batch, time: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """x_t, and y."""
        kept = at_times(self.kept, time)  # a_t                                      (b,1,1,1,1)
        return noised(batch.target, self.width * noise, kept), batch.target

    def begin(self, source: Tensor, draw: Draw) -> Tensor:
        """Noise."""
        return self.width * draw()

    def advance(
        self, output: Tensor, state: Tensor, levels: tuple[int, int], sampler: str
    ) -> tuple[Tensor, Tensor]:
        """A step of DDIM with y as the network predicts it."""
        later, sooner = self.kept[levels[0]], self.kept[levels[1]]  # a_t, a_s
        mean, sigma = ddim_step(output, state, later, sooner, self.etas[sampler])
        return mean, self.width * sigma
