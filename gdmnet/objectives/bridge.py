"""The image-to-image Schroedinger bridge, I2SB: noisy paths between a source and its target.

Liu et al., ICML 2023. With the variance s^2 gathered since the target (t = 0) and that left until
the source (t = 1), r^2, a path from y to x_k is known at any time (Eq. 11):

    x_t ~ N(w y + (1 - w) x_k,  s^2 r^2 / (s^2 + r^2)),   w = r^2 / (s^2 + r^2)

The network descends |u(x_t, x, t) - (x_t - y) / s|^2 (Eq. 12), so that x_t - s u estimates y, and
sampling walks from the source to the target by the posterior of DDPM (Eq. 4). Without noise, in
training and sampling alike, paths are straight: the optimal-transport ODE (Proposition 3.4).
"""

from __future__ import annotations

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
    start_of,
    start_width,
    times_down,
)

LEVELS = 1000  # N: times that training knows, n / N
LEAST, MOST = 1e-4, 3e-4  # beta at the ends and, were the rise not mirrored halfway, at the last
PAPER_WIDTH = 0.5  # about the standard deviation of the paper's images, which lie in [-1, 1]
SAMPLERS: Mapping[str, int] = {"sde": 1, "ode": 1}


@dataclass(frozen=True)
class BridgeOptions:
    """Options of `bridge`.

    Attributes:
        start_channel: the source channel that paths start from, from 0.
        noise: of the paths, as a multiple of the paper's; in widths of the target.
        ot_ode: train on the straight paths of the optimal-transport ODE, without noise.
        fidelity: a key of `FIDELITIES`.
        sampler: "sde", or "ode" that leaves out the noise of each step; "ode" with `ot_ode`.
        steps: of the sampler.
    """

    start_channel: int = 0
    noise: float = 1.0
    ot_ode: bool = False
    fidelity: str = "l2"
    sampler: str = "sde"
    steps: int = 16


def variances(width: float) -> Tensor:
    """s_n^2 for n = 0 .. N: the sum of beta up to n, float64 (N + 1,).

    sqrt(beta) rises linearly over the first half and falls over the second one, mirrored (section
    4.1 of the paper and its settings: beta_max = 0.3, N = 1000).

    Args:
        width: standard deviations are multiplied by it.
    """
    rise = torch.linspace(LEAST**0.5, MOST**0.5, LEVELS, dtype=torch.float64)[: LEVELS // 2] ** 2
    steps = torch.cat([rise, rise.flip(0)]) * width**2
    return torch.cat([steps.new_zeros(1), steps.cumsum(0)])


def on_path(
    target: Tensor, start: Tensor, gathered: Tensor, total: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean and variance of x_t between y and x_k (Eq. 11).

    Args:
        target: y, (b, 1, z, y, x).
        start: x_k, likewise.
        gathered: s^2, (b, 1, 1, 1, 1).
        total: s^2 + r^2.
    """
    share = gathered / total
    return (1 - share) * target + share * start, gathered * (1 - share)


def posterior(
    target: Tensor, state: Tensor, later: Tensor, sooner: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean and variance of x_n given y and the x_m from that it comes, n < m (Eq. 4).

    Args:
        target: y.
        state: x_m.
        later: s_m^2.
        sooner: s_n^2.
    """
    share = sooner / later
    return (1 - share) * target + share * state, sooner * (1 - share)


class Bridge(ByPatches):
    """The objective `bridge`; it has no state.

    The network gives (x_t - y) / s, from which the target follows by what is left of the source
    in x_t: it is no residual of a source itself.
    """

    inputs = Inputs(extra_channels=1, time=True, residual=False)
    most_steps = LEVELS

    def __init__(self, options: BridgeOptions, target_width: float, start_width: float) -> None:
        self.options = options
        self.state_width = target_width
        self.start_width = start_width
        self.variances = variances(options.noise * target_width / PAPER_WIDTH)
        name = "ode" if options.ot_ode else options.sampler
        self.samplers: Mapping[str, int] = {name: SAMPLERS[name]} if options.ot_ode else SAMPLERS
        self.sampling = Sampling(name, options.steps)

    def descend(self, generator: nn.Module, batch: Batch, rng: torch.Generator) -> Descent:
        """One forward at a random time of each patch, and the gradient there."""
        n = len(batch.source)
        level = torch.randint(1, LEVELS + 1, (n,), generator=rng, device=rng.device).cpu()
        gathered = expand(self.variances[level]).to(batch.source)
        start = start_of(batch.source, self.options.start_channel, self.start_width)
        mean, variance = on_path(batch.target, start, gathered, self.variances[-1].to(gathered))
        noise = normal_like(batch.target, rng)
        state = mean if self.options.ot_ode else mean + variance.sqrt() * noise
        label = (state - batch.target) / gathered.sqrt()
        time = (level / LEVELS).to(batch.source)
        width, fidelity = self.state_width, self.options.fidelity
        return descend_towards(generator, batch, state, time, label, width=width, fidelity=fidelity)

    def sample(
        self,
        evaluate: Evaluate,
        source: Tensor,
        draw: Callable[[], Tensor],
        sampling: Sampling,
    ) -> Tensor:
        """From the source channel down to the target; a field of noise a step, but not the last."""
        state = start_of(source, self.options.start_channel, self.start_width)
        levels = times_down(LEVELS, sampling.steps)
        for level, following in pairwise(levels):
            later, sooner = self.variances[level], self.variances[following]
            target = state - later.sqrt() * evaluate(state, level / LEVELS)
            state, variance = posterior(target, state, later, sooner)
            if sampling.sampler == "sde" and following > 0:
                state = state + variance.sqrt() * draw()
        return state


def build_bridge(context: Context) -> Bridge:
    """The objective `bridge` from its options.

    Raises:
        TrainingError: an unknown option or name, or a number out of range.
    """
    options = read_options(BridgeOptions, context.options, objective="bridge")
    require_known(options.fidelity, FIDELITIES, what="fidelity")
    require_known(options.sampler, SAMPLERS, what="sampler")
    ranges = {"noise": is_width(options.noise), "steps": 1 <= options.steps <= LEVELS}
    require_ranges("bridge", options, ranges)
    width = start_width(context, options.start_channel, objective="bridge")
    return Bridge(options, context.target_width, width)
