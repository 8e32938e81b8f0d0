"""Conditional flow matching: a differential equation from noise, or a source, to a target.

On straight paths z_t = (1 - t) z_0 + t y the network v descends |v(z_t, x, t) - (y - z_0)|^2, and
dz/dt = v leads from z_0 at t = 0 to a target at t = 1 (Lipman et al., ICLR 2023, Eq. 22 and 23 with
sigma_min = 0; Liu et al., "Flow straight and fast", ICLR 2023, Eq. 1). z_0 is noise, or the paired
source with a little noise (Tong et al., TMLR 2024, section 3.2, with the coupling of the pairs).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from gdmnet.objectives.base import Batch, Context, Draw, Evaluate, Sampling
from gdmnet.objectives.options import MOST_STEPS, FlowOptions, read_options
from gdmnet.objectives.sampling import PathObjective, expand, normal_like, start_channel


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


class Flow(PathObjective):
    """The objective `flow`.

    The network gives a velocity, which is no target: it is never a residual of a source.
    """

    samplers: Mapping[str, int] = {name: calls for name, (_, calls) in SOLVERS.items()}
    most_steps = MOST_STEPS

    def __init__(self, options: FlowOptions, context: Context) -> None:
        super().__init__(options.fidelity, context.target_width)
        self.options = options
        self.channel = start_channel(context, options.start_channel or 0, objective="flow")
        self.sampling = Sampling(options.solver, options.steps)

    def start(self, source: Tensor, noise: Tensor) -> Tensor:
        """z_0 from sources and standard normal noise (b, 1, z, y, x)."""
        if self.options.start == "noise":
            return self.options.noise * self.state_width * noise
        return self.channel.of(source) + self.options.sigma * self.state_width * noise

    def example(self, batch: Batch, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """z_t = (1 - t) z_0 + t y, t, and the velocity y - z_0."""
        time = TIMES[self.options.times](len(batch.source), rng).to(batch.source)
        start = self.start(batch.source, normal_like(batch.target, rng))
        state = (1 - expand(time)) * start + expand(time) * batch.target
        return state, time, batch.target - start

    def sample(self, evaluate: Evaluate, source: Tensor, draw: Draw, sampling: Sampling) -> Tensor:
        """Follow the velocity from z_0; one field of noise."""
        return integrate(evaluate, self.start(source, draw()), sampling.sampler, sampling.steps)


def build_flow(context: Context) -> Flow:
    """The objective `flow` from its options.

    Raises:
        GdmnetError: an unknown option or name, a number out of bounds, no such source channel.
    """
    return Flow(read_options(FlowOptions, context.options, objective="flow"), context)
