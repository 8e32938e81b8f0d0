"""What an objective is: it ends where gradients reach the generator's output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gdmnet.geometry import Shape, Spacing
from gdmnet.plan import Architecture


@dataclass(frozen=True)
class Inputs:
    """What the generator takes beside the source channels."""

    extra_channels: int = 0
    time: bool = False


@dataclass(frozen=True)
class Batch:
    """Patches in network units.

    Attributes:
        source: float32 (b, c, z, y, x).
        target: float32 (b, 1, z, y, x).
        mask: float32 (b, 1, z, y, x), 1 inside the body and inside the volume, else 0.
    """

    source: Tensor
    target: Tensor
    mask: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        return Batch(
            self.source.to(device, non_blocking=True),
            self.target.to(device, non_blocking=True),
            self.mask.to(device, non_blocking=True),
        )


@dataclass(frozen=True)
class Descent:
    """Where an objective ends and the loop begins.

    Attributes:
        tensor: a scalar loss, or the generator's output with its graph.
        cotangent: None for a scalar loss; else dL/d(output), float32, shaped like the output.
        metrics: numbers for the log.
        finite: False asks the loop to skip and count this step.
    """

    tensor: Tensor
    cotangent: Tensor | None
    metrics: dict[str, float] = field(default_factory=dict)
    finite: bool = True


@dataclass(frozen=True)
class Context:
    """What an objective may know when it is built.

    Attributes:
        total_steps: steps of the whole training, for schedules.
        patch_size: voxels (z, y, x).
        spacing: mm (z, y, x).
        n_sources: source channels.
        encoder: the frozen feature encoder, for objectives that need one.
        seed: of the run.
        options: the objective's own options by name; unknown names raise TrainingError.
        architecture: of the generator, for objectives with a network of their own.
    """

    total_steps: int
    patch_size: Shape
    spacing: Spacing
    n_sources: int
    encoder: nn.Module | None = None
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    architecture: Architecture | None = None


class Objective(Protocol):
    """One way to train the generator; see documentation/architecture.md."""

    inputs: Inputs

    def modules(self) -> dict[str, nn.Module]:
        """Parts with state: the loop moves them to the device and saves them."""
        ...

    def optimizers(self) -> dict[str, Optimizer]:
        """Optimisers that the objective steps itself, for example a critic's."""
        ...

    def descend(self, generator: nn.Module, batch: Batch, rng: torch.Generator) -> Descent:
        """One forward of the generator and the gradient at its output."""
        ...

    def translate(self, generator: nn.Module, source: Tensor, noise: Tensor | None) -> Tensor:
        """Source patches to target patches, network units, (b, c, z, y, x) to (b, 1, z, y, x)."""
        ...


@runtime_checkable
class Watches(Protocol):
    """An objective that looks at validation, for example to weaken its realism; optional."""

    def on_validation(self, metrics: Mapping[str, float]) -> None:
        """Take one epoch's validation metrics, such as "mae" and "sharpness"."""
        ...


@runtime_checkable
class Dialled(Protocol):
    """An objective whose realism can be dialled at prediction; optional."""

    def twin(self) -> tuple[Objective, int] | None:
        """What a twin of the generator descends, and the step in which it begins; None for none."""
        ...
