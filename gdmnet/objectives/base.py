"""What an objective is: it ends where gradients reach the generator's output."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gdmnet.errors import TrainingError
from gdmnet.plan import Configuration


@dataclass(frozen=True)
class Inputs:
    """What the generator takes beside the source channels, and what it gives."""

    extra_channels: int = 0  # of a sampler's state, after the source channels
    time: bool = False  # takes times (b,) from 0 to 1, too
    # Where a source has the target's quantity the output is that plus a correction; False for what
    # is no target, a velocity, say.
    residual: bool = True


@dataclass(frozen=True)
class Batch:
    """Patches in network units, float32."""

    source: Tensor  # (b, c, z, y, x)
    target: Tensor  # (b, 1, z, y, x)
    mask: Tensor  # (b, 1, z, y, x), 1 inside the body and inside the volume, else 0

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        parts = (self.source, self.target, self.mask)
        return Batch(*(part.to(device, non_blocking=True) for part in parts))


Metrics = dict[str, "float | Tensor"]


@dataclass(frozen=True)
class Descent:
    """Where an objective ends and the loop begins."""

    tensor: Tensor  # a scalar loss, or the generator's output with its graph
    cotangent: Tensor | None  # None for a loss; else dL/d(output), float32, shaped like the output
    metrics: Metrics = field(default_factory=dict)  # the log reads detached tensors when it must
    finite: bool = True  # False asks the loop to skip and count this step


# About the standard deviation inside the body that each scheme of normalisation leaves.
WIDTHS = {"ct": 1.0, "zscore": 1.0, "percentiles": 0.25, "none": 1.0}


@dataclass(frozen=True)
class Context:
    """What an objective may know when it is built."""

    configuration: Configuration  # of the plan
    options: Mapping[str, Any] = field(default_factory=dict)  # the objective's own, by name
    total_steps: int = 1  # of the whole training
    seed: int = 0
    encoder: nn.Module | None = None

    @property
    def target_width(self) -> float:
        """About the target's standard deviation inside the body, network units."""
        return WIDTHS[self.configuration.target.scheme]

    def frozen_encoder(self) -> nn.Module:
        """The encoder, or a TrainingError where there is none."""
        if self.encoder is None:
            raise TrainingError("the objective needs a frozen encoder and was given none")
        return self.encoder.eval().requires_grad_(False)


class Objective(ABC):
    """One way to train the generator; what is not overridden is that of one call and no state."""

    inputs = Inputs()

    @abstractmethod
    def descend(self, generator: nn.Module, batch: Batch, rng: torch.Generator) -> Descent:
        """One forward of the generator and the gradient at its output."""

    def translate(self, generator: nn.Module, source: Tensor, noise: Tensor | None) -> Tensor:
        """Source patches to target patches, network units, (b, c, z, y, x) to (b, 1, z, y, x)."""
        output: Tensor = generator(source)
        return output

    def modules(self) -> dict[str, nn.Module]:
        """Parts with state: the loop moves them to the device and saves them."""
        return {}

    def optimizers(self) -> dict[str, Optimizer]:
        """Optimisers that the objective steps itself, for example a critic's."""
        return {}

    def on_validation(self, metrics: Mapping[str, float]) -> None:  # noqa: B027
        """Take one epoch's validation metrics, such as "mae" and "sharpness"."""

    def twin(self) -> tuple[Objective, int] | None:
        """What a twin of the generator descends, and the step in which it begins; None for none."""
        return None
