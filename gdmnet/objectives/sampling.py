"""What objectives with a sampler share: the network's input, a step's descent, sampled patches."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from gdmnet.errors import TrainingError
from gdmnet.objectives.base import WIDTHS, Batch, Context, Descent, Inputs, Objective
from gdmnet.objectives.fidelity import all_finite, fidelity_gradient
from gdmnet.objectives.options import N_TIMES

_LATER_NOISE = 20  # seeds what patches draw after the noise that they are given

Evaluate = Callable[[Tensor, float], Tensor]
"""One call of the network: a state (b, 1, z, y, x) and a time to an output (b, 1, z, y, x)."""

Draw = Callable[[], Tensor]
"""The next standard normal field (b, 1, z, y, x), always the same ones in the same order."""


@dataclass(frozen=True)
class Sampling:
    """How a target is sampled: a name in the objective's `samplers`, and how many steps of it."""

    sampler: str
    steps: int


def network_input(source: Tensor, state: Tensor, mask: Tensor | None, width: float) -> Tensor:
    """Source channels, then the state in widths of the target: (b, c + 1, z, y, x).

    So the state is as loud as the source, whatever the target's units. It is 0 outside the mask,
    where the network is not trained, so that the state is nothing to go by; no mask is 1
    everywhere.
    """
    if mask is not None:
        state = torch.where(mask > 0.5, state, 0.0)
    return torch.cat([source, state / width], dim=1)


class Sampled(Objective):
    """An objective that leads a state along a path to the target, a call of the network a step.

    It knows neither windows nor folds: in `sample` the network may be called on patches, or on a
    whole volume by windows, blended. It has no state between steps of training. States are divided
    by `state_width` before the network sees them.
    """

    inputs = Inputs(extra_channels=1, time=True, residual=False)
    samplers: Mapping[str, int]  # name -> calls of the network in one step
    sampling: Sampling  # what is used unless asked otherwise
    most_steps = N_TIMES  # that a sampler can take

    def __init__(self, fidelity: str, target_width: float) -> None:
        self.fidelity = fidelity  # a key of `FIDELITIES`, of the network's output
        self.state_width = target_width

    @abstractmethod
    def draw_times(self, n: int, rng: torch.Generator) -> Tensor:
        """Times (n,) from 0 to 1 that training looks at, on the generator's device."""

    @abstractmethod
    def example(self, batch: Batch, time: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """States and what the network should give for them, each (b, 1, z, y, x).

        The time is (b, 1, 1, 1, 1), the noise (b, 1, z, y, x), standard normal.
        """

    @abstractmethod
    def sample(self, evaluate: Evaluate, source: Tensor, draw: Draw, sampling: Sampling) -> Tensor:
        """Sources (b, c, z, y, x) of the whole field to targets (b, 1, z, y, x), network units."""

    def descend(self, generator: nn.Module, batch: Batch, rng: torch.Generator) -> Descent:
        """One forward at a random time of each patch, and the gradient of the masked fidelity."""
        time = self.draw_times(len(batch.source), rng).to(batch.source)  # t                    [b]
        noise = torch.randn(batch.target.shape, generator=rng, device=rng.device).to(batch.target)
        state, label = self.example(batch, time.view(-1, 1, 1, 1, 1), noise)
        output = generator(network_input(batch.source, state, batch.mask, self.state_width), time)
        wanted = replace(batch, target=label)
        _, loss, gradient = fidelity_gradient(output, wanted, name=self.fidelity)
        return Descent(output, gradient, {"fidelity": loss}, all_finite(loss, gradient))

    def translate(
        self,
        generator: nn.Module,
        source: Tensor,
        noise: Tensor | None,
        *,
        mask: Tensor | None = None,
        sampling: Sampling | None = None,
    ) -> Tensor:
        """Targets of patches (b, 1, z, y, x): every call of the network sees whole patches.

        No noise is zero noise, no mask is 1 everywhere, no sampling the objective's own.
        """

        def evaluate(state: Tensor, time: float) -> Tensor:
            times = torch.full((len(state),), time, device=state.device)
            output: Tensor = generator(network_input(source, state, mask, self.state_width), times)
            return output

        fields = _fields(torch.zeros_like(source[:, :1]) if noise is None else noise)
        return self.sample(evaluate, source, partial(next, fields), sampling or self.sampling)


class DiscretePath(Sampled):
    """A path whose times are n / N: training draws n from 1 to N, sampling walks down to 0."""

    def draw_times(self, n: int, rng: torch.Generator) -> Tensor:
        """All levels but 0 equally likely."""
        return torch.randint(1, N_TIMES + 1, (n,), generator=rng, device=rng.device) / N_TIMES

    @abstractmethod
    def begin(self, source: Tensor, draw: Draw) -> Tensor:
        """The state (b, 1, z, y, x) at n = N."""

    @abstractmethod
    def advance(
        self, output: Tensor, state: Tensor, levels: tuple[int, int], sampler: str
    ) -> tuple[Tensor, Tensor]:
        """Mean (b, 1, z, y, x) and standard deviation, a scalar, of the next state.

        `levels` are n of the state and of the next one, which is smaller.
        """

    def sample(self, evaluate: Evaluate, source: Tensor, draw: Draw, sampling: Sampling) -> Tensor:
        """Down to the target; a field of noise for each step that adds some."""
        state = self.begin(source, draw)
        for levels in pairwise(times_down(N_TIMES, sampling.steps)):
            output = evaluate(state, levels[0] / N_TIMES)
            state, deviation = self.advance(output, state, levels, sampling.sampler)
            if deviation > 0:
                state = state + deviation * draw()
        return state


def at_times(schedule: Tensor, time: Tensor) -> Tensor:
    """A schedule's entries n, (N + 1,), float64 on the CPU, at times n / N; like the times."""
    return schedule[(time.cpu() * N_TIMES).round().long()].to(time)


def times_down(n_levels: int, steps: int) -> list[int]:
    """Levels from n_levels to 0 in so many equal steps; the last one is 0.

    They begin at the last level, where nothing of the target is known ("trailing" in Lin et al.,
    WACV 2024, section 3.3).
    """
    return [round(n_levels * (steps - i) / steps) for i in range(steps + 1)]


def _fields(first: Tensor) -> Iterator[Tensor]:
    """The given noise, then further standard normal fields like it, always the same ones."""
    yield first
    rng = torch.Generator().manual_seed(_LATER_NOISE)
    while True:
        yield torch.randn(first.shape, generator=rng).to(first)


def start_channel(context: Context, channel: int) -> Callable[[Tensor], Tensor]:
    """What takes sources (b, c, z, y, x) to a channel as wide as the target, (b, 1, z, y, x).

    Raises:
        TrainingError: there is no such channel.
    """
    sources = context.configuration.sources
    if channel >= len(sources):
        raise TrainingError(
            f"--start-channel {channel}: the objective starts from a source channel, and the"
            f" dataset has {len(sources)} (0 to {len(sources) - 1})"
        )
    factor = context.target_width / WIDTHS[sources[channel].scheme]
    return lambda source: source[:, channel : channel + 1] * factor
