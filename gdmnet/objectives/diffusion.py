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

from gdmnet.objectives.base import Batch, Context, Draw, Inputs, Sampling
from gdmnet.objectives.options import LEVELS, DiffusionOptions, read_options
from gdmnet.objectives.sampling import DiscretePath, expand, normal_like, random_levels

OFFSET = 0.008  # s of the cosine schedule
MOST_BETA = 0.999


def cosine_schedule() -> Tensor:
    """a_t for t = 0 .. T, float64 (T + 1,): 1 at t = 0.

    Eq. 17: f(t) = cos((t / T + s) / (1 + s) pi / 2)^2, a_t = f(t) / f(0), and beta_t = 1 - a_t /
    a_(t-1) at most 0.999.
    """
    time = torch.arange(LEVELS + 1, dtype=torch.float64) / LEVELS
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

    e = (x_t - sqrt(a_t) y) / sqrt(1 - a_t),
    sigma = eta sqrt((1 - a_s) / (1 - a_t)) sqrt(1 - a_t / a_s),
    x_s = sqrt(a_s) y + sqrt(1 - a_s - sigma^2) e + sigma z.

    Args:
        target: y as the network predicts it.
        state: x_t.
        later: a_t.
        sooner: a_s.
        eta: from 0 (no noise) to 1.
    """
    noise = (state - later.sqrt() * target) / (1 - later).sqrt()
    sigma = eta * ((1 - sooner) / (1 - later)).sqrt() * (1 - later / sooner).sqrt()
    left = (1 - sooner - sigma**2).clamp(min=0.0).sqrt()
    return sooner.sqrt() * target + left * noise, sigma


def ancestral_step(
    target: Tensor, state: Tensor, later: Tensor, sooner: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of x_s given x_t and y, s < t (Ho et al., Eq. 6 and 7).

    With alpha = a_t / a_s and beta = 1 - alpha,
    mean = (sqrt(a_s) beta y + sqrt(alpha) (1 - a_s) x_t) / (1 - a_t),
    variance = beta (1 - a_s) / (1 - a_t).
    """
    alpha = later / sooner
    beta = 1 - alpha
    mean = sooner.sqrt() * beta * target + alpha.sqrt() * (1 - sooner) * state
    return mean / (1 - later), (beta * (1 - sooner) / (1 - later)).sqrt()


class Diffusion(DiscretePath):
    """The objective `diffusion`.

    The network gives the target, where there is a residual channel as a correction of it.
    """

    inputs = Inputs(extra_channels=1, time=True)
    samplers: Mapping[str, int] = {"ddim": 1, "ancestral": 1}

    def __init__(self, options: DiffusionOptions, context: Context) -> None:
        super().__init__(options.fidelity, context.target_width)
        self.eta = options.eta
        self.width = options.noise * context.target_width
        self.kept = cosine_schedule()
        self.sampling = Sampling(options.sampler, options.steps)

    def example(self, batch: Batch, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """x_t, t, and y."""
        level, time = random_levels(batch, rng)
        kept = expand(self.kept[level]).to(batch.source)  # a_t                      (b,1,1,1,1)
        state = noised(batch.target, self.width * normal_like(batch.target, rng), kept)
        return state, time, batch.target

    def begin(self, source: Tensor, draw: Draw) -> Tensor:
        """Noise."""
        return self.width * draw()

    def advance(
        self, output: Tensor, state: Tensor, levels: tuple[int, int], sampler: str
    ) -> tuple[Tensor, Tensor]:
        """A step of DDIM or of ancestral sampling with y as the network predicts it."""
        later, sooner = self.kept[levels[0]], self.kept[levels[1]]  # a_t, a_s
        if sampler == "ancestral":
            mean, sigma = ancestral_step(output, state, later, sooner)
        else:
            mean, sigma = ddim_step(output, state, later, sooner, self.eta)
        return mean, self.width * sigma


def build_diffusion(context: Context) -> Diffusion:
    """The objective `diffusion` from its options.

    Raises:
        SettingError: an unknown option or name, or a number out of bounds.
    """
    options = read_options(DiffusionOptions, context.options, objective="diffusion")
    return Diffusion(options, context)
