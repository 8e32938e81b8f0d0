"""What objectives with a sampler share: the network's input, a step's descent, sampled patches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from gdmnet.errors import TrainingError
from gdmnet.objectives.base import (
    Batch,
    Context,
    Descent,
    Draw,
    Evaluate,
    Inputs,
    Sampled,
    Sampling,
    Stateless,
)
from gdmnet.objectives.fidelity import all_finite, fidelity_gradient
from gdmnet.objectives.options import LEVELS

_LATER_NOISE = 20  # seeds what patches draw after the noise that they are given


def network_input(source: Tensor, state: Tensor, mask: Tensor | None, width: float) -> Tensor:
    """Source channels, then the state in widths of the target, 0 outside the mask.

    So the state is as loud as the source, whatever the target's units. Outside the mask the network
    is not trained, so that the state there is nothing to go by.

    Args:
        source: (b, c, z, y, x).
        state: (b, 1, z, y, x).
        mask: (b, 1, z, y, x), 1 inside; None is 1 everywhere.
        width: `Sampled.state_width`.

    Returns:
        (b, c + 1, z, y, x).
    """
    if mask is not None:
        state = torch.where(mask > 0.5, state, 0.0)
    return torch.cat([source, state / width], dim=1)


def sample_patches(
    objective: Sampled,
    generator: nn.Module,
    source: Tensor,
    noise: Tensor | None,
    *,
    mask: Tensor | None = None,
    sampling: Sampling | None = None,
) -> Tensor:
    """Targets of patches (b, 1, z, y, x): every call of the network sees whole patches.

    Args:
        objective: whose sampler it is.
        generator: trained by it.
        source: (b, c, z, y, x), network units.
        noise: (b, 1, z, y, x), standard normal; None is zero.
        mask: of the body, (b, 1, z, y, x); None is 1 everywhere.
        sampling: None is the objective's own.
    """
    fields = _fields(torch.zeros_like(source[:, :1]) if noise is None else noise)

    def evaluate(state: Tensor, time: float) -> Tensor:
        times = torch.full((len(state),), time, device=state.device)
        seen = network_input(source, state, mask, objective.state_width)
        output: Tensor = generator(seen, times)
        return output

    return objective.sample(evaluate, source, partial(next, fields), sampling or objective.sampling)


class PathObjective(Stateless, ABC):
    """What objectives share that lead a state along a path to the target; they have no state."""

    inputs = Inputs(extra_channels=1, time=True, residual=False)
    samplers: Mapping[str, int]
    sampling: Sampling
    most_steps: int

    def __init__(self, fidelity: str, target_width: float) -> None:
        self.fidelity = fidelity
        self.state_width = target_width

    @abstractmethod
    def example(self, batch: Batch, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """A state (b, 1, z, y, x) at times (b,) and what the network should give for it."""

    @abstractmethod
    def sample(self, evaluate: Evaluate, source: Tensor, draw: Draw, sampling: Sampling) -> Tensor:
        """Sources (b, c, z, y, x) to targets (b, 1, z, y, x), see `Sampled.sample`."""

    def descend(self, generator: nn.Module, batch: Batch, rng: torch.Generator) -> Descent:
        """One forward at a random time of each patch, and the gradient of the masked fidelity."""
        state, time, label = self.example(batch, rng)
        output = generator(network_input(batch.source, state, batch.mask, self.state_width), time)
        wanted = replace(batch, target=label)
        _, loss, gradient = fidelity_gradient(output, wanted, name=self.fidelity)
        metrics = {"fidelity": float(loss)}
        return Descent(output, gradient, metrics, all_finite(loss, gradient))

    def translate(self, generator: nn.Module, source: Tensor, noise: Tensor | None) -> Tensor:
        """All steps of the default sampler."""
        return sample_patches(self, generator, source, noise)


class DiscretePath(PathObjective):
    """A path whose times are n / N: training draws n from 1 to N, sampling walks down to 0."""

    most_steps = LEVELS

    @abstractmethod
    def begin(self, source: Tensor, draw: Draw) -> Tensor:
        """The state (b, 1, z, y, x) at n = N."""

    @abstractmethod
    def advance(
        self, output: Tensor, state: Tensor, levels: tuple[int, int], sampler: str
    ) -> tuple[Tensor, Tensor]:
        """Mean (b, 1, z, y, x) and standard deviation, a scalar, of the next state.

        Args:
            output: of the network for the state.
            state: (b, 1, z, y, x), at the first of the levels.
            levels: n of the state and of the next one, which is smaller.
            sampler: a key of `samplers`.
        """

    def sample(self, evaluate: Evaluate, source: Tensor, draw: Draw, sampling: Sampling) -> Tensor:
        """Down to the target; a field of noise for each step that adds some."""
        state = self.begin(source, draw)
        for levels in pairwise(times_down(LEVELS, sampling.steps)):
            output = evaluate(state, levels[0] / LEVELS)
            state, deviation = self.advance(output, state, levels, sampling.sampler)
            if deviation > 0:
                state = state + deviation * draw()
        return state


def random_levels(batch: Batch, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """For each patch n from 1 to N, on the CPU, and its time n / N like the batch; each (b,)."""
    n = len(batch.source)
    level = torch.randint(1, LEVELS + 1, (n,), generator=rng, device=rng.device).cpu()
    return level, (level / LEVELS).to(batch.source)


def times_down(n_levels: int, steps: int) -> list[int]:
    """Levels from n_levels to 0 in so many steps, evenly spread; the last one is 0.

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


def normal_like(tensor: Tensor, rng: torch.Generator) -> Tensor:
    """Standard normal numbers of a tensor's shape and type, on its device."""
    return torch.randn(tensor.shape, generator=rng, device=rng.device).to(tensor)


def expand(values: Tensor) -> Tensor:
    """(b,) to (b, 1, 1, 1, 1)."""
    return values.view(-1, 1, 1, 1, 1)


@dataclass(frozen=True)
class StartChannel:
    """The source channel that a path starts from.

    Attributes:
        channel: from 0.
        width: what the channel is multiplied by to be as wide as the target.
    """

    channel: int
    width: float

    def of(self, source: Tensor) -> Tensor:
        """The channel of sources (b, c, z, y, x), as wide as the target: (b, 1, z, y, x)."""
        return source[:, self.channel : self.channel + 1] * self.width


def start_channel(context: Context, channel: int, *, objective: str) -> StartChannel:
    """A dataset's source channel to start from.

    Raises:
        TrainingError: there is no such channel.
    """
    if not 0 <= channel < context.n_sources:
        raise TrainingError(
            f"--start-channel {channel}: objective {objective} starts from a source channel, and"
            f" the dataset has {context.n_sources} (0 to {context.n_sources - 1})"
        )
    widths = context.source_widths
    return StartChannel(channel, context.target_width / widths[channel] if widths else 1.0)
