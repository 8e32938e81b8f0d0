"""The encoders of nnU-Net's networks, in the names of its checkpoints.

Plain: stacks of convolution, instance norm, leaky ReLU. Residual: a stem, then basic blocks whose
shortcut averages where the block strides and projects where it widens. Sizes must be divisible by
the strides.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor, nn
from torch.nn import functional

from gdmnet.encoders.frozen import StagedNetwork, total_strides
from gdmnet.geometry import Shape

POINT: Shape = (1, 1, 1)


@dataclass(frozen=True)
class UNetStages:
    """An encoder's shape, one entry a stage, finest first; axes are the network's own.

    Attributes:
        features: channels.
        kernels: of every convolution of the stage.
        strides: of the stage's first convolution.
        depths: convolutions (plain) or blocks (residual).
        residual: blocks of a ResidualEncoderUNet; else convolutions of a PlainConvUNet.
        bias: whether the convolutions have one.
        slope: of the leaky ReLU; 1 for none.
        eps: of the instance norm.
    """

    features: tuple[int, ...]
    kernels: tuple[Shape, ...]
    strides: tuple[Shape, ...]
    depths: tuple[int, ...]
    residual: bool = False
    bias: bool = True
    slope: float = 0.01
    eps: float = 1e-5


def unet_encoder(shape: UNetStages) -> StagedNetwork:
    """The encoder of this shape, in nnU-Net's names."""
    return StagedNetwork(
        build=partial(UNetEncoder, shape),
        anchor="stem.convs.0.conv.weight" if shape.residual else "stages.0.0.convs.0.conv.weight",
        channels=shape.features,
        strides=total_strides(shape.strides),
    )


class UNetEncoder(nn.Module):
    """The first n stages: `stages.S.0.convs.C.{conv,norm}`, or `stem` and `stages.S.blocks.B`."""

    def __init__(self, shape: UNetStages, n: int) -> None:
        super().__init__()
        c_in, kernels = 1, shape.kernels
        if shape.residual:
            c_in = shape.features[0]
            self.stem = _Stack("convs", [_ConvNorm(1, c_in, kernels[0], POINT, shape)])
        self.stages = nn.ModuleList()
        for stage, features in enumerate(shape.features[:n]):
            layers: list[nn.Module] = []
            for number in range(shape.depths[stage]):
                layer, stride = _Block if shape.residual else _ConvNorm, shape.strides[stage]
                stride = POINT if number else stride
                layers.append(layer(c_in, features, kernels[stage], stride, shape))
                c_in = features
            stack = _Stack("blocks" if shape.residual else "convs", layers)
            self.stages.append(stack if shape.residual else nn.Sequential(stack))

    def forward(self, x: Tensor) -> list[Tensor]:
        """(b, 1, d, h, w) -> the map of every stage, finest first."""
        x = self.stem(x) if hasattr(self, "stem") else x
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class _Stack(nn.ModuleDict):
    """Layers one after another, under a name of their own in the checkpoint."""

    def __init__(self, name: str, layers: list[nn.Module]) -> None:
        super().__init__({name: nn.Sequential(*layers)})

    def forward(self, x: Tensor) -> Tensor:
        (layers,) = self.values()
        return layers(x)


class _ConvNorm(nn.Module):
    def __init__(
        self, c_in: int, c_out: int, kernel: Shape, stride: Shape, shape: UNetStages
    ) -> None:
        super().__init__()
        self.slope = shape.slope
        d, h, w = (side // 2 for side in kernel)
        self.conv = nn.Conv3d(c_in, c_out, kernel, stride, (d, h, w), bias=shape.bias)
        self.norm = nn.InstanceNorm3d(c_out, eps=shape.eps, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        return x if self.slope == 1 else functional.leaky_relu(x, self.slope)


class _Block(nn.Module):
    def __init__(
        self, c_in: int, c_out: int, kernel: Shape, stride: Shape, shape: UNetStages
    ) -> None:
        super().__init__()
        self.slope, linear = shape.slope, replace(shape, slope=1)
        self.conv1 = _ConvNorm(c_in, c_out, kernel, stride, shape)
        self.conv2 = _ConvNorm(c_out, c_out, kernel, POINT, linear)
        shortcut: list[nn.Module] = []
        if stride != POINT:
            shortcut.append(nn.AvgPool3d(stride, stride))
        if c_in != c_out:
            shortcut.append(_ConvNorm(c_in, c_out, POINT, POINT, replace(linear, bias=False)))
        self.skip = nn.Sequential(*shortcut)

    def forward(self, x: Tensor) -> Tensor:
        return functional.leaky_relu(self.conv2(self.conv1(x)) + self.skip(x), self.slope)
