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

from gdmnet.objectives.base import Batch, Context
from gdmnet.objectives.options import MOST_STEPS, FlowOptions, read_objective_options
from gdmnet.objectives.sampling import Draw, Evaluate, Sampled, Sampling, start_channel


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


class Flow(Sampled):
    """The objective `flow`.

    The network gives a velocity, which is no target: it is never a residual of a source.
    """

    samplers: Mapping[str, int] = {name: calls for name, (_, calls) in SOLVERS.items()}
    most_steps = MOST_STEPS

    def __init__(self, context: Context) -> None:
        self.options: FlowOptions = read_objective_options("flow", context.options)
        super().__init__(self.options.fidelity, context.target_width)
        self.start_of = start_channel(context, self.options.start_channel or 0)
        self.sampling = Sampling(self.options.solver, self.options.steps)

    def start(self, source: Tensor, noise: Tensor) -> Tensor:
        """z_0 from sources and standard normal noise (b, 1, z, y, x)."""
        if self.options.start == "noise":
            return self.options.noise * self.state_width * noise
        return self.start_of(source) + self.options.sigma * self.state_width * noise

    def draw_times(self, n: int, rng: torch.Generator) -> Tensor:
        """All times equally likely, or sigmoid(u) of a normal u (Esser et al., ICML 2024, 3.1)."""
        if self.options.times == "logit_normal":
            return torch.randn(n, generator=rng, device=rng.device).sigmoid()
        return torch.rand(n, generator=rng, device=rng.device)

    def example(self, batch: Batch, time: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """z_t = (1 - t) z_0 + t y, and the velocity y - z_0."""
        start = self.start(batch.source, noise)
        return (1 - time) * start + time * batch.target, batch.target - start

    def sample(self, evaluate: Evaluate, source: Tensor, draw: Draw, sampling: Sampling) -> Tensor:
        """Follow the velocity from z_0; one field of noise."""
        return integrate(evaluate, self.start(source, draw()), sampling.sampler, sampling.steps)
