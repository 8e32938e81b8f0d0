"""Layers that the public encoders share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from gdmnet.geometry import Shape


class StagedNetwork(Protocol):
    """A network that gives one map a stage; an `nn.Module`.

    Attributes:
        channels: of each map, finest first.
        strides: voxels (along the network's own three axes) from one location to the next.
    """

    channels: tuple[int, ...]
    strides: tuple[Shape, ...]

    def __call__(self, x: Tensor) -> list[Tensor]:
        """Maps of (b, 1, d, h, w), finest first."""
        ...


def convolution(
    c_in: int,
    c_out: int,
    kernel: Shape,
    *,
    stride: Shape = (1, 1, 1),
    dilation: int = 1,
    bias: bool,
) -> nn.Conv3d:
    """A convolution that keeps the size but for its stride; odd kernels."""
    d, h, w = (dilation * (k // 2) for k in kernel)
    return nn.Conv3d(
        c_in, c_out, kernel, stride=stride, padding=(d, h, w), dilation=dilation, bias=bias
    )


class BatchNorm(nn.Module):
    """Batch norm that only uses its running statistics.

    torch's own counts batches in a tensor that some checkpoints lack and nobody needs.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, z, y, x) -> the same shape."""
        return functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, training=False
        )


def instance_norm(channels: int) -> nn.Module:
    """Instance norm with learnt scale and offset."""
    return nn.InstanceNorm3d(channels, affine=True)


NORMS: dict[str, Callable[[int], nn.Module]] = {"batch": BatchNorm, "instance": instance_norm}
