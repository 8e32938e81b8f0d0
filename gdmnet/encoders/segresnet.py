"""The encoder of MONAI's SegResNetDS, in the names of its checkpoints: CT-FM and VISTA3D.

Residual blocks with normalisation first (Myronenko 2018), a strided convolution between stages.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from gdmnet.encoders.layers import NORMS, convolution
from gdmnet.geometry import Shape

CUBE: Shape = (3, 3, 3)


class SegResEncoder(nn.Module):
    """Stages of residual blocks; width doubles and size halves from one to the next.

    Args:
        width: channels of the first stage.
        blocks: residual blocks of each stage; as many stages.
        norm: a key of `NORMS`.
    """

    def __init__(self, width: int, blocks: Sequence[int], *, norm: str) -> None:
        super().__init__()
        self.channels = tuple(width * 2**stage for stage in range(len(blocks)))
        self.strides: tuple[Shape, ...] = tuple((2**s, 2**s, 2**s) for s in range(len(blocks)))
        self.conv_init = convolution(1, width, CUBE, bias=False)
        self.layers = nn.ModuleList()
        for stage, (channels, n) in enumerate(zip(self.channels, blocks, strict=True)):
            layer = nn.ModuleDict(
                {"blocks": nn.Sequential(*(_Block(channels, norm) for _ in range(n)))}
            )
            if stage < len(blocks) - 1:
                layer["downsample"] = convolution(
                    channels, 2 * channels, CUBE, stride=(2, 2, 2), bias=False
                )
            self.layers.append(layer)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(b, 1, z, y, x) -> the map of every stage, finest first."""
        maps = []
        x = self.conv_init(x)
        for layer in self.layers:
            assert isinstance(layer, nn.ModuleDict)
            x = layer["blocks"](x)
            maps.append(x)
            if "downsample" in layer:
                x = layer["downsample"](x)
        return maps


class _Block(nn.Module):
    def __init__(self, channels: int, norm: str) -> None:
        super().__init__()
        self.norm1 = NORMS[norm](channels)
        self.conv1 = convolution(channels, channels, CUBE, bias=False)
        self.norm2 = NORMS[norm](channels)
        self.conv2 = convolution(channels, channels, CUBE, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(functional.relu(self.norm1(x)))
        return x + self.conv2(functional.relu(self.norm2(y)))
