"""The generator: a residual-encoder U-Net built from an `Architecture`.

The plan of stages follows nnU-Net's residual-encoder presets (Isensee et al., "nnU-Net Revisited",
MICCAI 2024); upsampling is linear interpolation, since transposed convolutions write their stride
into the image (Odena et al., "Deconvolution and Checkerboard Artifacts", Distill 2016).
"""

from __future__ import annotations

import math
from contextlib import ExitStack

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from torch import Tensor, nn

from gdmnet.geometry import Shape
from gdmnet.plan import Architecture

_SLOPE = 0.01  # of LeakyReLU, as in nnU-Net
N_WAVES = 64  # features of a time, half of them sines
_LONGEST = 10_000.0  # ratio of the longest period to the shortest
_SCALE = 1000.0  # times in [0, 1] count as steps of a thousand, as in DDPM


class Generator(nn.Module):
    """Residual encoder, plain decoder, linear output; weights from torch's global random numbers.

    Args:
        architecture: features, kernels, strides and encoder blocks, one entry a stage.
        n_sources: source channels; they come first in the input.
        extra_channels: further input channels of an objective, for example noise.
        residual_channel: the source channel k that is the same quantity as the target: the output
            is then source k plus a correction, which starts at exactly zero.
        time: the module takes times (b,) in [0, 1] beside the input; FiLM by them in every
            residual block and decoder stage starts as the identity.

    Raises:
        ValueError: the architecture's entries disagree, or there is no such source channel.
    """

    def __init__(
        self,
        architecture: Architecture,
        *,
        n_sources: int,
        extra_channels: int = 0,
        residual_channel: int | None = None,
        time: bool = False,
    ) -> None:
        super().__init__()
        features, kernels = architecture.features, architecture.kernels
        lengths = {len(kernels), len(architecture.strides), len(architecture.blocks)}
        if not features or lengths != {len(features)} or architecture.strides[0] != (1, 1, 1):
            raise ValueError("an architecture needs one entry a stage, and a first stride of 1")
        if residual_channel is not None and not 0 <= residual_channel < n_sources:
            raise ValueError(f"residual channel {residual_channel} of {n_sources} source channels")
        self.residual_channel = residual_channel
        self.stem = nn.Sequential(
            _convolution(n_sources + extra_channels, features[0], kernels[0]),
            _norm_act(features[0]),
        )
        stages = zip(kernels, architecture.strides, architecture.blocks, strict=True)
        self.encoder = nn.ModuleList(
            _stage(features[max(i - 1, 0)], features[i], *stage, time=time)
            for i, stage in enumerate(stages)
        )
        self.decoder = nn.ModuleList(
            _UpStage(features[i + 1], features[i], kernels[i], time=time)
            for i in reversed(range(len(features) - 1))
        )
        self.head = _convolution(features[0], 1, (1, 1, 1), bias=True)
        self.time = TimeEmbedding() if time else None
        if residual_channel is not None:
            nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        """The translated image, float32 (b, 1, z, y, x) in network units.

        It is made of float32 (b, n_sources + extra_channels, z, y, x), any size of at least one
        voxel an axis, and times (b,), where the generator was built with them.
        """
        if (self.time is None) != (time is None):
            raise ValueError("times are for a generator that was built with time, and for no other")
        moment = None if self.time is None else self.time(time)
        hidden = self.stem(x)
        skips = []
        for stage in self.encoder:
            for block in stage.children():
                hidden = block(hidden, moment)
            skips.append(hidden)
        skips.pop()
        for stage in self.decoder:
            hidden = stage(hidden, skips.pop(), moment)
        # The output keeps float32 under autocast: bfloat16 would round bone to some 8 HU.
        with torch.autocast(x.device.type, enabled=False):
            output = self.head(hidden.float())
            if self.residual_channel is None:
                return output
            return x[:, self.residual_channel : self.residual_channel + 1].float() + output


def embed_time(time: Tensor) -> Tensor:
    """Waves e = [cos(1000 t w_i), sin(1000 t w_i)], w_i = 10000^(-2 i / n), i = 0 .. n / 2 - 1.

    Vaswani et al., NeurIPS 2017, section 3.5, as DDPM uses it for time. Times (b,) from 0 to 1 give
    float32 (b, n), n = `N_WAVES`.
    """
    half = N_WAVES // 2
    index = torch.arange(half, device=time.device, dtype=torch.float32)
    angles = _SCALE * time.float()[:, None] * torch.exp(-math.log(_LONGEST) * index / half)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class TimeEmbedding(nn.Module):
    """Times (b,) to features (b, N_WAVES): the waves through two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(N_WAVES, N_WAVES), nn.SiLU(), nn.Linear(N_WAVES, N_WAVES), nn.SiLU()
        )

    def forward(self, time: Tensor) -> Tensor:
        """(b,) to (b, N_WAVES)."""
        features: Tensor = self.layers(embed_time(time))
        return features


class Film(nn.Module):
    """Feature-wise linear modulation, x (1 + a) + b with a, b linear in the time's features.

    Perez et al., AAAI 2018, Eq. 2; a and b start at zero, so that it starts as the identity.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer = nn.Linear(N_WAVES, 2 * channels)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        """(b, c, z, y, x) and (b, N_WAVES) to (b, c, z, y, x)."""
        scale, shift = self.layer(features)[:, :, None, None, None].chunk(2, dim=1)
        return x * (1 + scale) + shift


class CountCalls(ExitStack):
    """Counts the calls of every generator in a module, inside a with block, in `count`."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.count = 0
        for part in module.modules():
            if isinstance(part, Generator):
                self.callback(part.register_forward_hook(self._called).remove)

    def _called(self, *_: object) -> None:
        self.count += 1


class InstanceNorm(nn.InstanceNorm3d):
    """Instance normalisation that lets a map of a single voxel pass, where torch refuses to train.

    A single voxel minus its own mean would be zero: all of the bottleneck would be forgotten.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-5, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, z, y, x), each channel with mean and deviation of its own."""
        if x[0, 0].numel() == 1:
            return x * self.weight.view(1, -1, 1, 1, 1) + self.bias.view(1, -1, 1, 1, 1)
        return super().forward(x)


class _Block(nn.Module):
    """Two convolutions and a shortcut (He et al. 2015), with ResNet-D's average-pooled shortcut."""

    def __init__(
        self, n_in: int, n_out: int, kernel: Shape, stride: Shape, *, time: bool = False
    ) -> None:
        super().__init__()
        self.film = Film(n_out) if time else None
        self.first = nn.Sequential(_convolution(n_in, n_out, kernel, stride), _norm_act(n_out))
        last_norm = InstanceNorm(n_out)
        nn.init.zeros_(last_norm.weight)  # each block starts as its shortcut
        self.second = nn.Sequential(_convolution(n_out, n_out, kernel), last_norm)
        shortcut: list[nn.Module] = []
        if stride != (1, 1, 1):
            shortcut.append(_Average(stride))
        if n_in != n_out:
            shortcut.append(_convolution(n_in, n_out, (1, 1, 1)))
            shortcut.append(InstanceNorm(n_out))
        self.shortcut = nn.Sequential(*shortcut)
        self.activation = nn.LeakyReLU(_SLOPE, inplace=True)

    def forward(self, x: Tensor, moment: Tensor | None = None) -> Tensor:
        hidden = _modulated(self.first, x, self.film, moment)
        return self.activation(self.second(hidden) + self.shortcut(x))


class _Average(nn.Module):
    """The mean over windows of one stride; partial windows at the upper faces count their voxels.

    So any size n gives ceil(n / stride), as the convolutions beside it do.
    """

    def __init__(self, stride: Shape) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        window = [min(s, n) for s, n in zip(self.stride, x.shape[2:], strict=True)]
        return F.avg_pool3d(x, window, self.stride, ceil_mode=True, count_include_pad=False)


class _UpStage(nn.Module):
    """Coarse features brought to the skip's size, joined with it, convolved once."""

    def __init__(self, n_coarse: int, n_out: int, kernel: Shape, *, time: bool = False) -> None:
        super().__init__()
        self.film = Film(n_out) if time else None
        self.reduce = _convolution(n_coarse, n_out, (1, 1, 1), bias=True)
        self.merge = nn.Sequential(_convolution(2 * n_out, n_out, kernel), _norm_act(n_out))

    def forward(self, coarse: Tensor, skip: Tensor, moment: Tensor | None = None) -> Tensor:
        # A 1 x 1 x 1 convolution commutes with interpolation; before it, it is 8 times cheaper.
        reduced = self.reduce(coarse)
        size = skip.shape[2:]
        # Autocast would raise and concatenate in float32: the largest tensors of a step, twice.
        with torch.autocast(reduced.device.type, enabled=False):
            raised = F.interpolate(reduced, size=size, mode="trilinear", align_corners=False)
        return _modulated(self.merge, torch.cat([raised, skip], dim=1), self.film, moment)


def _stage(
    n_in: int, n_out: int, kernel: Shape, stride: Shape, blocks: int, *, time: bool
) -> nn.Sequential:
    first = _Block(n_in, n_out, kernel, stride, time=time)
    rest = (_Block(n_out, n_out, kernel, (1, 1, 1), time=time) for _ in range(blocks - 1))
    return nn.Sequential(first, *rest)


def _modulated(
    layers: nn.Sequential, x: Tensor, film: Film | None, moment: Tensor | None
) -> Tensor:
    """Convolution, normalisation, FiLM if there is one, activation."""
    if film is None:
        return layers(x)
    convolution, normalised = layers
    norm, activation = normalised.children()
    return activation(film(norm(convolution(x)), moment))


def _norm_act(channels: int) -> nn.Sequential:
    return nn.Sequential(InstanceNorm(channels), nn.LeakyReLU(_SLOPE, inplace=True))


def _convolution(
    n_in: int, n_out: int, kernel: Shape, stride: Shape = (1, 1, 1), *, bias: bool = False
) -> nn.Conv3d:
    """A convolution that keeps the size at stride 1, initialised after He et al. 2015.

    Without a bias by default, because the normalisation that follows would subtract it.
    """
    padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
    convolution = nn.Conv3d(n_in, n_out, kernel, stride, padding, bias=bias)
    nn.init.kaiming_normal_(convolution.weight, a=_SLOPE)
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    return convolution
