"""The encoders of nnU-Net's networks, in the names of its checkpoints.

Plain: stacks of convolution, instance norm, leaky ReLU. Residual: a stem, then basic blocks whose
shortcut averages where the block strides and projects where it widens. Sizes must be divisible by
the strides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from gdmnet.encoders.layers import convolution
from gdmnet.geometry import Shape

POINT: Shape = (1, 1, 1)


@dataclass(frozen=True)
class Stages:
    """A network's shape, one entry a stage, finest first; axes are the network's own.

    Attributes:
        features: channels.
        kernels: of every convolution of the stage.
        strides: of the stage's first convolution.
        blocks: convolutions (plain) or blocks (residual).
        bias: whether the convolutions have one.
        slope: of the leaky ReLU.
        eps: of the instance norm.
    """

    features: Sequence[int]
    kernels: Sequence[Shape]
    strides: Sequence[Shape]
    blocks: Sequence[int]
    bias: bool = True
    slope: float = 0.01
    eps: float = 1e-5

    def first(self, n: int) -> Stages:
        """The n finest stages."""
        return Stages(
            self.features[:n],
            self.kernels[:n],
            self.strides[:n],
            self.blocks[:n],
            self.bias,
            self.slope,
            self.eps,
        )

    @property
    def total_strides(self) -> tuple[Shape, ...]:
        """Voxels from one location of a stage's map to the next."""
        totals, (d, h, w) = [], POINT
        for stride in self.strides:
            d, h, w = d * stride[0], h * stride[1], w * stride[2]
            totals.append((d, h, w))
        return tuple(totals)


class PlainUNetEncoder(nn.Module):
    """The encoder of a PlainConvUNet: `stages.S.0.convs.C.{conv,norm}`."""

    def __init__(self, shape: Stages) -> None:
        super().__init__()
        self.channels, self.strides = tuple(shape.features), shape.total_strides
        self.stages = nn.ModuleList()
        c_in = 1
        for stage, features in enumerate(shape.features):
            convs = []
            for number in range(shape.blocks[stage]):
                stride = shape.strides[stage] if number == 0 else POINT
                convs.append(_ConvNorm(c_in, features, shape.kernels[stage], stride, shape))
                c_in = features
            self.stages.append(nn.Sequential(_Convs(convs)))

    def forward(self, x: Tensor) -> list[Tensor]:
        """(b, 1, d, h, w) -> the map of every stage, finest first."""
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class ResidualUNetEncoder(nn.Module):
    """The encoder of a ResidualEncoderUNet: `stem.convs.0`, `stages.S.blocks.B.{conv1,...}`."""

    def __init__(self, shape: Stages) -> None:
        super().__init__()
        self.channels, self.strides = tuple(shape.features), shape.total_strides
        c_in = shape.features[0]
        self.stem = _Convs([_ConvNorm(1, c_in, shape.kernels[0], POINT, shape)])
        self.stages = nn.ModuleList()
        for stage, features in enumerate(shape.features):
            blocks = []
            for number in range(shape.blocks[stage]):
                stride = shape.strides[stage] if number == 0 else POINT
                blocks.append(_Block(c_in, features, shape.kernels[stage], stride, shape))
                c_in = features
            self.stages.append(nn.ModuleDict({"blocks": nn.Sequential(*blocks)}))

    def forward(self, x: Tensor) -> list[Tensor]:
        """(b, 1, d, h, w) -> the map of every stage, finest first."""
        maps = []
        x = self.stem(x)
        for stage in self.stages:
            assert isinstance(stage, nn.ModuleDict)
            x = stage["blocks"](x)
            maps.append(x)
        return maps


class _ConvNorm(nn.Module):
    """Convolution and instance norm, with the leaky ReLU unless `bare`."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: Shape,
        stride: Shape,
        shape: Stages,
        *,
        bare: bool = False,
        bias: bool | None = None,
    ) -> None:
        super().__init__()
        self.slope = 1.0 if bare else shape.slope
        bias = shape.bias if bias is None else bias
        self.conv = convolution(c_in, c_out, kernel, stride=stride, bias=bias)
        self.norm = nn.InstanceNorm3d(c_out, eps=shape.eps, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        return x if self.slope == 1 else functional.leaky_relu(x, self.slope)


class _Convs(nn.Module):
    def __init__(self, convs: list[_ConvNorm]) -> None:
        super().__init__()
        self.convs = nn.Sequential(*convs)

    def forward(self, x: Tensor) -> Tensor:
        return self.convs(x)


class _Block(nn.Module):
    def __init__(self, c_in: int, c_out: int, kernel: Shape, stride: Shape, shape: Stages) -> None:
        super().__init__()
        self.slope = shape.slope
        self.conv1 = _ConvNorm(c_in, c_out, kernel, stride, shape)
        self.conv2 = _ConvNorm(c_out, c_out, kernel, POINT, shape, bare=True)
        shortcut: list[nn.Module] = []
        if stride != POINT:
            shortcut.append(nn.AvgPool3d(stride, stride))
        if c_in != c_out:
            shortcut.append(_ConvNorm(c_in, c_out, POINT, POINT, shape, bare=True, bias=False))
        self.skip = nn.Sequential(*shortcut)

    def forward(self, x: Tensor) -> Tensor:
        return functional.leaky_relu(self.conv2(self.conv1(x)) + self.skip(x), self.slope)
