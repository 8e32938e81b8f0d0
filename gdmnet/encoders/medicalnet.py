"""The 3D ResNets of MedicalNet (Chen et al. 2019), in the names of its checkpoints.

The last two stages are dilated by 2 and 4 instead of strided, as in MedicalNet's own training; a
network with the usual strides takes the same weights and computes something else. The
parameter-free shortcut of ResNet-18 and -34 stays in the graph: detached, the outputs would be the
same and the gradient at the image wrong.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from gdmnet.encoders.layers import BatchNorm, convolution
from gdmnet.geometry import Shape

WIDTH = 64
STRIDES = (1, 2, 1, 1)  # of layer1 to layer4
DILATIONS = (1, 1, 2, 4)
CUBE: Shape = (3, 3, 3)
POINT: Shape = (1, 1, 1)


class MedicalNet(nn.Module):
    """Stem, then up to four layers; the maps lie at strides 2, 4, 8, 8, 8.

    Args:
        blocks: residual blocks of each layer.
        bottleneck: ResNet-50's blocks of three convolutions, else the basic ones of two.
        projects: whether a shortcut that changes shape is a convolution (else strided and padded
            with zero channels).
        width: channels of the stem.
    """

    def __init__(
        self, blocks: Sequence[int], *, bottleneck: bool, projects: bool, width: int = WIDTH
    ) -> None:
        super().__init__()
        self.conv1 = convolution(1, width, (7, 7, 7), stride=(2, 2, 2), bias=False)
        self.bn1 = BatchNorm(width)
        block, expansion = (_Bottleneck, 4) if bottleneck else (_Basic, 1)
        c_in = width
        channels, strides = [width], [2]
        self.n_layers = len(blocks)
        for number, n in enumerate(blocks):
            inner = width * 2**number
            layer = []
            for place in range(n):
                stride = STRIDES[number] if place == 0 else 1
                c_out = inner * expansion
                shortcut: nn.Module | None = None
                if stride != 1 or c_in != c_out:
                    shortcut = _project(c_in, c_out, stride) if projects else _Pad(c_out, stride)
                layer.append(block(c_in, inner, stride, DILATIONS[number], shortcut))
                c_in = c_out
            self.add_module(f"layer{number + 1}", nn.Sequential(*layer))
            channels.append(c_in)
            strides.append(strides[-1] * (2 if number == 0 else STRIDES[number]))
        self.channels = tuple(channels)
        self.strides: tuple[Shape, ...] = tuple((s, s, s) for s in strides)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(b, 1, z, y, x) -> the stem's map and that of every layer."""
        x = functional.relu(self.bn1(self.conv1(x)))
        maps = [x]
        x = functional.max_pool3d(x, 3, stride=2, padding=1)
        for number in range(1, self.n_layers + 1):
            x = self.get_submodule(f"layer{number}")(x)
            maps.append(x)
        return maps


class _Basic(nn.Module):
    def __init__(
        self, c_in: int, inner: int, stride: int, dilation: int, shortcut: nn.Module | None
    ) -> None:
        super().__init__()
        steps = (stride, stride, stride)
        self.conv1 = convolution(c_in, inner, CUBE, stride=steps, dilation=dilation, bias=False)
        self.bn1 = BatchNorm(inner)
        self.conv2 = convolution(inner, inner, CUBE, dilation=dilation, bias=False)
        self.bn2 = BatchNorm(inner)
        self.downsample = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return functional.relu(y + (x if self.downsample is None else self.downsample(x)))


class _Bottleneck(nn.Module):
    def __init__(
        self, c_in: int, inner: int, stride: int, dilation: int, shortcut: nn.Module | None
    ) -> None:
        super().__init__()
        steps = (stride, stride, stride)
        self.conv1 = convolution(c_in, inner, POINT, bias=False)
        self.bn1 = BatchNorm(inner)
        self.conv2 = convolution(inner, inner, CUBE, stride=steps, dilation=dilation, bias=False)
        self.bn2 = BatchNorm(inner)
        self.conv3 = convolution(inner, 4 * inner, POINT, bias=False)
        self.bn3 = BatchNorm(4 * inner)
        self.downsample = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        y = functional.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return functional.relu(y + (x if self.downsample is None else self.downsample(x)))


class _Pad(nn.Module):
    """Every stride-th voxel, and zeros for the channels that are not there yet."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.channels, self.stride = channels, stride

    def forward(self, x: Tensor) -> Tensor:
        step = self.stride
        x = x[:, :, ::step, ::step, ::step]
        return torch.cat([x, x.new_zeros(x.shape[0], self.channels - x.shape[1], *x.shape[2:])], 1)


def _project(c_in: int, c_out: int, stride: int) -> nn.Sequential:
    steps = (stride, stride, stride)
    return nn.Sequential(
        convolution(c_in, c_out, POINT, stride=steps, bias=False), BatchNorm(c_out)
    )
