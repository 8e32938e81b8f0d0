"""Conditional diffusion that predicts the target: DDPM in training, DDIM or DDPM in sampling.

x_t = sqrt(a_t) y + sqrt(1 - a_t) e with noise e (Ho et al., NeurIPS 2020, Eq. 4; a is their alpha
bar), on the cosine schedule (Nichol and Dhariwal, ICML 2021, Eq. 17). The network descends
|u(x_t, x, t) - y|^2: it predicts the target, not the noise, as is customary for CT (Friedrich et
al., "cWDM", 2024). At t = 1 nothing of the target is left in x_t: one step is a regression.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from gdmnet.objectives.base import Batch, Context, Descent, Evaluate, Inputs, Sampling
from gdmnet.objectives.fidelity import FIDELITIES
from gdmnet.objectives.options import read_options, require_known
from gdmnet.objectives.sampling import (
    ByPatches,
    descend_towards,
    expand,
    is_width,
    normal_like,
    require_ranges,
    times_down,
)

LEVELS = 1000  # T: times that training knows, t / T
OFFSET = 0.008  # s of the cosine schedule
MOST_BETA = 0.999
SAMPLERS: Mapping[str, int] = {"ddim": 1, "ancestral": 1}


@dataclass(frozen=True)
class DiffusionOptions:
    """Options of `diffusion`.

    Attributes:
        noise: standard deviation of the noise, in widths of the target.
        fidelity: a key of `FIDELITIES`; only "l2" has the mean target as its minimum.
        sampler: "ddim" or "ancestral".
        eta: of ddim: 0 adds no noise, 1 as much as ancestral sampling.
        steps: of the sampler.
    """

    noise: float = 1.0
    fidelity: str = "l2"
    sampler: str = "ddim"
    eta: float = 0.0
    steps: int = 16


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


class Diffusion(ByPatches):
    """The objective `diffusion`; it has no state.

    The network gives the target, where there is a residual channel as a correction of it.
    """

    inputs = Inputs(extra_channels=1, time=True)
    samplers = SAMPLERS
    most_steps = LEVELS

    def __init__(self, options: DiffusionOptions, target_width: float) -> None:
        self.options = options
        self.state_width = target_width
        self.width = options.noise * target_width
        self.kept = cosine_schedule()
        self.sampling = Sampling(options.sampler, options.steps)

    def descend(self, generator: nn.Module, batch: Batch, rng: torch.Generator) -> Descent:
        """One forward at a random time of each patch, and the gradient there."""
        n = len(batch.source)
        level = torch.randint(1, LEVELS + 1, (n,), generator=rng, device=rng.device).cpu()
        kept = expand(self.kept[level]).to(batch.source)
        state = noised(batch.target, self.width * normal_like(batch.target, rng), kept)
        time = (level / LEVELS).to(batch.source)
        width, fidelity = self.state_width, self.options.fidelity
        return descend_towards(
            generator, batch, state, time, batch.target, width=width, fidelity=fidelity
        )

    def sample(
        self,
        evaluate: Evaluate,
        source: Tensor,
        draw: Callable[[], Tensor],
        sampling: Sampling,
    ) -> Tensor:
        """From noise to the target; a further field of noise for each step that adds some."""
        state = self.width * draw()
        levels = times_down(LEVELS, sampling.steps)
        for level, following in pairwise(levels):
            target = evaluate(state, level / LEVELS)
            later, sooner = self.kept[level], self.kept[following]
            if sampling.sampler == "ancestral":
                state, sigma = ancestral_step(target, state, later, sooner)
            else:
                state, sigma = ddim_step(target, state, later, sooner, self.options.eta)
            if sigma > 0:
                state = state + self.width * sigma * draw()
        return state


def build_diffusion(context: Context) -> Diffusion:
    """The objective `diffusion` from its options.

    Raises:
        TrainingError: an unknown option or name, or a number out of range.
    """
    options = read_options(DiffusionOptions, context.options, objective="diffusion")
    require_known(options.fidelity, FIDELITIES, what="fidelity")
    require_known(options.sampler, SAMPLERS, what="sampler")
    ranges = {
        "noise": is_width(options.noise),
        "eta": 0 <= options.eta <= 1,
        "steps": 1 <= options.steps <= LEVELS,
    }
    require_ranges("diffusion", options, ranges)
    return Diffusion(options, context.target_width)
