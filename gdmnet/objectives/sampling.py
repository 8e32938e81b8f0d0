"""What objectives with a sampler share: the network's input, a step's descent, sampled patches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from gdmnet.errors import TrainingError
from gdmnet.objectives.base import Batch, Context, Descent, Sampled, Sampling, Stateless
from gdmnet.objectives.fidelity import fidelity_gradient

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


def descend_towards(
    generator: nn.Module,
    batch: Batch,
    state: Tensor,
    time: Tensor,
    label: Tensor,
    *,
    width: float,
    fidelity: str,
) -> Descent:
    """One forward at a state and a time, and the gradient of sum(m rho(output - label)) / sum(m).

    Args:
        generator: (b, c + 1, z, y, x) and (b,) to (b, 1, z, y, x).
        batch: its source and mask; summed over the ranks as `fidelity_loss` does.
        state: (b, 1, z, y, x).
        time: (b,), from 0 to 1.
        label: what the network should give, (b, 1, z, y, x).
        width: `Sampled.state_width`.
        fidelity: rho, a key of `FIDELITIES`.
    """
    output = generator(network_input(batch.source, state, batch.mask, width), time)
    asked = replace(batch, target=label)
    _, loss, gradient = fidelity_gradient(output, asked, name=fidelity)
    finite = bool(torch.isfinite(loss) & torch.isfinite(gradient).all())
    return Descent(output, gradient, {"fidelity": float(loss)}, finite)


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


class ByPatches(Stateless):
    """What objectives with a sampler and without a state share."""

    def translate(
        self: Sampled, generator: nn.Module, source: Tensor, noise: Tensor | None
    ) -> Tensor:
        """All steps of the default sampler."""
        return sample_patches(self, generator, source, noise)


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


def times_down(n_levels: int, steps: int) -> list[int]:
    """Levels from n_levels to 0 in so many steps, evenly spread; the last one is 0.

    They begin at the last level, where nothing of the target is known ("trailing" in Lin et al.,
    WACV 2024, section 3.3).
    """
    return [round(n_levels * (steps - i) / steps) for i in range(steps + 1)]


def start_of(source: Tensor, channel: int, width: float) -> Tensor:
    """The source channel that a path starts from, as wide as the target: (b, 1, z, y, x)."""
    return source[:, channel : channel + 1] * width


def start_width(context: Context, channel: int, *, objective: str) -> float:
    """What a source channel is multiplied by to be as wide as the target.

    Raises:
        TrainingError: there is no such channel.
    """
    if not 0 <= channel < context.n_sources:
        raise TrainingError(
            f"--start-channel {channel}: objective {objective} starts from a source channel, and"
            f" the dataset has {context.n_sources} (0 to {context.n_sources - 1})"
        )
    widths = context.source_widths
    return context.target_width / widths[channel] if widths else 1.0


def require_ranges(objective: str, options: object, ranges: Mapping[str, bool]) -> None:
    """Raise a TrainingError for the first option that is not in its range."""
    for name, right in ranges.items():
        if not right:
            value = getattr(options, name)
            raise TrainingError(f"option {name} of objective {objective} is out of range: {value}")


def is_width(value: float) -> bool:
    """Above 0 and finite."""
    return 0 < value < math.inf
