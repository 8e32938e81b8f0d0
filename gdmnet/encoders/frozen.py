"""An encoder that is used and never changed, and what is known of where it came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from gdmnet.geometry import Shape


@dataclass(frozen=True)
class Report:
    """Where an encoder's weights came from and how it sees a patch.

    Attributes:
        name: of the encoder.
        file: of the weights; None for random ones.
        sha256: of that file.
        prefix: before the encoder's names in the file.
        n_tensors: read into the whole network.
        n_others: tensors of the file that are not the encoder's.
        stages: of the network whose maps are used, 0 is the finest.
        channels: of each map.
        strides: of each map: voxels of the network's grid along z, y, x between two locations.
        zoom: voxels of the network's grid per voxel of the patch, along z, y, x.
        outside: share of the target's intensity range that the encoder cannot tell apart.
    """

    name: str
    file: str | None = None
    sha256: str | None = None
    prefix: str = ""
    n_tensors: int = 0
    n_others: int = 0
    stages: tuple[int, ...] = ()
    channels: tuple[int, ...] = ()
    strides: tuple[Shape, ...] = ()
    zoom: tuple[float, float, float] = (1.0, 1.0, 1.0)
    outside: float = 0.0


class FeatureEncoder(Protocol):
    """What gdm needs: frozen maps of a target-like image; `Frozen` is one.

    Attributes:
        report: where it came from; None where nobody said.
    """

    report: Report | None

    def __call__(self, x: Tensor) -> list[Tensor]:
        """Maps (b, c, z', y', x'), finest first, of (b, 1, z, y, x) in the target's units."""
        ...


class Frozen(nn.Module):
    """An encoder that stays as it is: no weight gradients, always eval; images get gradients."""

    def __init__(self, encoder: nn.Module, report: Report | None = None) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(False)
        self.report = report
        self.train(False)

    def train(self, mode: bool = True) -> Frozen:
        """Stay in eval mode whatever the loop asks for."""
        del mode
        return super().train(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """The encoder's feature maps, finest first."""
        return self.encoder(x)
