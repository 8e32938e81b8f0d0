"""Conditional flow matching: a differential equation from noise, or a source, to a target.

On straight paths z_t = (1 - t) z_0 + t y the network v descends |v(z_t, x, t) - (y - z_0)|^2, and
dz/dt = v leads from z_0 at t = 0 to a target at t = 1 (Lipman et al., ICLR 2023, Eq. 22 and 23 with
sigma_min = 0; Liu et al., "Flow straight and fast", ICLR 2023, Eq. 1). z_0 is noise, or the paired
source with a little noise (Tong et al., TMLR 2024, section 3.2, with the coupling of the pairs).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gdmnet.errors import TrainingError
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
)

STARTS = ("noise", "source")


@dataclass(frozen=True)
class FlowOptions:
    """Options of `flow`.

    Attributes:
        start: "noise", or "source" for the path from a source channel to its target.
        start_channel: which, from 0.
        noise: standard deviation of the noise that paths start from, in widths of the target.
        sigma: of the noise on a source that paths start from, likewise.
        times: a key of `TIMES`: how training draws t.
        fidelity: a key of `FIDELITIES`; only "l2" has the mean velocity as its minimum.
        solver: a key of `SOLVERS`.
        steps: of the solver.
    """

    start: str = "noise"
    start_channel: int = 0
    noise: float = 1.0
    sigma: float = 0.05
    times: str = "uniform"
    fidelity: str = "l2"
    solver: str = "euler"
    steps: int = 16


def euler(velocity: Evaluate, state: Tensor, time: float, step: float) -> Tensor:
    """Euler: z + h v(z, t), order 1."""
    return state + step * velocity(state, time)


def heun(velocity: Evaluate, state: Tensor, time: float, step: float) -> Tensor:
    """Heun: z + h (k1 + k2) / 2, k1 = v(z, t), k2 = v(z + h k1, t + h), order 2."""
    first = velocity(state, time)
    second = velocity(state + step * first, time + step)
    return state + step * (first + second) / 2


def rk4(velocity: Evaluate, state: Tensor, time: float, step: float) -> Tensor:
    """The classical method of Runge and Kutta, order 4."""
    first = velocity(state, time)
    second = velocity(state + step / 2 * first, time + step / 2)
    third = velocity(state + step / 2 * second, time + step / 2)
    fourth = velocity(state + step * third, time + step)
    return state + step * (first + 2 * second + 2 * third + fourth) / 6


SOLVERS: dict[str, tuple[Callable[[Evaluate, Tensor, float, float], Tensor], int]] = {
    "euler": (euler, 1),
    "heun": (heun, 2),
    "rk4": (rk4, 4),
}
"""One step (velocity, z, t, h), and how many velocities it takes."""


def integrate(velocity: Evaluate, start: Tensor, solver: str, steps: int) -> Tensor:
    """From z at t = 0 to z at t = 1 in equal steps."""
    advance, _ = SOLVERS[solver]
    state = start
    for i in range(steps):
        state = advance(velocity, state, i / steps, 1 / steps)
    return state


def uniform_times(n: int, rng: torch.Generator) -> Tensor:
    """Times (n,) between 0 and 1, all equally likely."""
    return torch.rand(n, generator=rng, device=rng.device)


def logit_normal_times(n: int, rng: torch.Generator) -> Tensor:
    """Times (n,), 1 / (1 + exp(-u)), u standard normal (Esser et al., ICML 2024, section 3.1)."""
    return torch.randn(n, generator=rng, device=rng.device).sigmoid()


TIMES: dict[str, Callable[[int, torch.Generator], Tensor]] = {
    "uniform": uniform_times,
    "logit_normal": logit_normal_times,
}


def between(start: Tensor, target: Tensor, time: Tensor) -> Tensor:
    """z_t = (1 - t) z_0 + t y, for times (b,)."""
    share = expand(time)
    return (1 - share) * start + share * target


class Flow(ByPatches):
    """The objective `flow`; it has no state.

    The network gives a velocity, which is no target: it is never a residual of a source.
    """

    inputs = Inputs(extra_channels=1, time=True, residual=False)
    most_steps = 10_000

    def __init__(self, options: FlowOptions, target_width: float, start_width: float) -> None:
        self.options = options
        self.state_width = target_width
        self.start_width = start_width
        self.samplers: Mapping[str, int] = {name: calls for name, (_, calls) in SOLVERS.items()}
        self.sampling = Sampling(options.solver, options.steps)

    def start(self, source: Tensor, noise: Tensor) -> Tensor:
        """z_0 from sources and standard normal noise (b, 1, z, y, x)."""
        if self.options.start == "noise":
            return self.options.noise * self.state_width * noise
        clean = start_of(source, self.options.start_channel, self.start_width)
        return clean + self.options.sigma * self.state_width * noise

    def descend(self, generator: nn.Module, batch: Batch, rng: torch.Generator) -> Descent:
        """One forward at a random time of each patch, and the gradient there."""
        time = TIMES[self.options.times](len(batch.source), rng).to(batch.source)
        start = self.start(batch.source, normal_like(batch.target, rng))
        state = between(start, batch.target, time)
        label = batch.target - start
        width, fidelity = self.state_width, self.options.fidelity
        return descend_towards(generator, batch, state, time, label, width=width, fidelity=fidelity)

    def sample(
        self,
        evaluate: Evaluate,
        source: Tensor,
        draw: Callable[[], Tensor],
        sampling: Sampling,
    ) -> Tensor:
        """Follow the velocity from z_0; one field of noise."""
        start = self.start(source, draw())
        return integrate(evaluate, start, sampling.sampler, sampling.steps)


def build_flow(context: Context) -> Flow:
    """The objective `flow` from its options.

    Raises:
        TrainingError: an unknown option or name, or a number out of range.
    """
    options = read_options(FlowOptions, context.options, objective="flow")
    require_known(options.start, STARTS, what="start")
    require_known(options.times, TIMES, what="times")
    require_known(options.fidelity, FIDELITIES, what="fidelity")
    require_known(options.solver, SOLVERS, what="solver")
    ranges = {
        "noise": is_width(options.noise),
        "sigma": 0 <= options.sigma < math.inf,
        "steps": 1 <= options.steps <= Flow.most_steps,
    }
    require_ranges("flow", options, ranges)
    if options.start == "noise" and "start_channel" in context.options:
        raise TrainingError(
            f"--start-channel {options.start_channel}: objective flow starts from noise; add"
            " --option start=source, or leave it out"
        )
    width = start_width(context, options.start_channel, objective="flow")
    return Flow(options, context.target_width, width)
