"""An encoder that is used and never changed, the stages of its network, and where it came from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from gdmnet.geometry import Shape


@dataclass(frozen=True)
class StagedNetwork:
    """A network whose stages give a map each, and how its tensors are called in checkpoints.

    Attributes:
        build: its first n stages: (b, 1, d, h, w) -> a list of maps (b, c, d', h', w'), finest
            first, of which the first n are meant.
        anchor: a tensor's name that every checkpoint has, at the end of its full name.
        channels: of every stage's map.
        strides: of every stage's map, voxels along the network's axes between two locations.
        renamed: parts of names in some files, and what they are called here.
        heads: how the names of a pretraining's own tensors begin, which are not needed.
        extra: whether the packages of gdmnet[encoders] are needed.
    """

    build: Callable[[int], nn.Module]
    anchor: str
    channels: tuple[int, ...]
    strides: tuple[Shape, ...]
    renamed: tuple[tuple[str, str], ...] = ()
    heads: tuple[str, ...] = ()
    extra: bool = False


def total_strides(strides: Sequence[Shape]) -> tuple[Shape, ...]:
    """Voxels from one location of a stage's map to the next, of strides from stage to stage."""
    totals, (d, h, w) = [], (1, 1, 1)
    for stride in strides:
        d, h, w = d * stride[0], h * stride[1], w * stride[2]
        totals.append((d, h, w))
    return tuple(totals)


@dataclass(frozen=True)
class EncoderReport:
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


class FrozenEncoder(nn.Module):
    """An encoder that stays as it is: no weight gradients, always eval; images get gradients."""

    def __init__(self, encoder: nn.Module, report: EncoderReport | None = None) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(False)
        self.report = report
        self.train(False)

    def train(self, mode: bool = True) -> FrozenEncoder:
        """Stay in eval mode whatever the loop asks for."""
        del mode
        return super().train(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """The encoder's feature maps, finest first."""
        return self.encoder(x)
