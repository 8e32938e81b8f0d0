"""The embedded feature encoder: a masked autoencoder's network and loss, nothing of its training.

Three convolutions without any normalisation layer: instance and group norm recompute their
statistics on every patch and so hide contrast and texture strength, just what regression loses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gdmnet.encoders.frozen import EncoderReport, FrozenEncoder
from gdmnet.encoders.networks import POINT, total_strides
from gdmnet.encoders.weights import check, read_plain
from gdmnet.errors import CheckpointError
from gdmnet.geometry import Shape, Spacing
from gdmnet.plan import Architecture

FEATURES = (16, 32, 32)  # channels of the three maps; larger encoders bought nothing (method 10)
SLOPE = 0.2  # of the leaky ReLU between the convolutions
CELL_MM = 16.0  # side of a masked cell
MASK_RATIO = 0.6
WEIGHTS = "weights"  # key of the encoder's tensors in its file
REMEDY = "delete it to train the encoder anew"


class PlainEncoder(nn.Module):
    """Three convolutions from one channel, leaky ReLU between, the last one linear."""

    def __init__(
        self, kernels: tuple[Shape, ...], strides: tuple[Shape, ...], channels: tuple[int, int, int]
    ) -> None:
        super().__init__()
        self.kernels, self.strides, self.channels = kernels, strides, channels
        layers = zip((1, *channels[:-1]), channels, kernels, strides, strict=True)
        self.convolutions = nn.ModuleList(_convolution(*layer) for layer in layers)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(b, 1, z, y, x) in the target's network units to the three maps, finest first."""
        first, second, third = self.convolutions
        fine = functional.leaky_relu(first(x), SLOPE)
        middle = functional.leaky_relu(second(fine), SLOPE)
        return [fine, middle, third(middle)]


class Decoder(nn.Module):
    """From the encoder's coarsest map back to the image; no skips, thrown away after training.

    Without skips the deep maps must carry the image, which keeps them rich (encoders 3).
    """

    def __init__(self, encoder: PlainEncoder) -> None:
        super().__init__()
        fine, middle, coarse = encoder.channels
        self.middle = _convolution(coarse, middle, encoder.kernels[1], POINT)
        self.fine = _convolution(middle, fine, encoder.kernels[0], POINT)
        self.image = nn.utils.skip_init(nn.Conv3d, fine, 1, 1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """(b, 1, z, y, x) from the coarsest of the encoder's maps; the others give only shapes."""
        fine, middle, x = maps
        for finer, layer in ((middle, self.middle), (fine, self.fine)):
            x = functional.interpolate(x, size=finer.shape[2:], mode="nearest")
            x = functional.leaky_relu(layer(x), SLOPE)
        return self.image(x)


def encoder_for(
    architecture: Architecture, *, seed: int, features: tuple[int, int, int] = FEATURES
) -> PlainEncoder:
    """The plan's encoder with seeded Kaiming weights: start of "self" and all of "random".

    Strides are those of the plan's stages 1 and 2 where it has them. An axis whose plan kernel is 1
    keeps kernel 1 as long as it is not strided, so single slices and thick slices work.
    """
    strides = (POINT, *(*architecture.strides[1:], POINT, POINT)[:2])
    kernels = []
    for stage, stride in enumerate(strides):
        planned = architecture.kernels[min(stage, len(architecture.kernels) - 1)]
        z, y, x = (1 if k == 1 and s == 1 else 3 for k, s in zip(planned, stride, strict=True))
        kernels.append((z, y, x))
    encoder = PlainEncoder(tuple(kernels), strides, features)
    _initialise(encoder, torch.Generator().manual_seed(seed))
    return encoder


def decoder_for(encoder: PlainEncoder, *, seed: int) -> Decoder:
    """A seeded decoder for the encoder; its first image is zero.

    A random image would have to be unlearned first: of a minute's few hundred steps that is many.
    """
    decoder = Decoder(encoder)
    _initialise(decoder, torch.Generator().manual_seed(seed))
    nn.init.zeros_(decoder.image.weight)
    return decoder


def _initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Kaiming normal weights (He et al. 2015, eq. 15) and zero biases in every convolution."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv3d):
            nn.init.kaiming_normal_(layer.weight, a=SLOPE, generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def cell_shape(spacing: Spacing, patch: Shape) -> Shape:
    """Voxels (z, y, x) of one masked cell: about 16 mm, a power of two, 2 to a quarter patch.

    An axis shorter than eight voxels cannot have both limits: there the quarter wins, at least 1.
    """
    sides = []
    for mm, n in zip(spacing, patch, strict=True):
        wanted = max(1, round(math.log2(CELL_MM / mm)))
        sides.append(2 ** min(wanted, math.floor(math.log2(max(1, n // 4)))))
    return sides[0], sides[1], sides[2]


def random_mask(
    n: int, shape: Shape, cell: Shape, *, ratio: float, generator: torch.Generator
) -> Tensor:
    """Bool (n, 1, z, y, x), True where a voxel is hidden from the encoder.

    Whole cells are chosen at random, an exact number in every patch, at least one.
    """
    grid = [math.ceil(side / step) for side, step in zip(shape, cell, strict=True)]
    n_cells = math.prod(grid)
    n_masked = min(max(1, round(ratio * n_cells)), n_cells)
    ranks = torch.rand(n, n_cells, generator=generator).argsort(dim=1).argsort(dim=1)
    mask = (ranks < n_masked).reshape(n, 1, *grid)
    for axis, step in enumerate(cell):
        mask = mask.repeat_interleave(step, dim=axis + 2)
    return mask[:, :, : shape[0], : shape[1], : shape[2]]


def masked_error(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error over the hidden voxels alone (He et al. 2022, masked autoencoders)."""
    error = (prediction.float() - target.float()).square() * mask
    return error.sum() / mask.sum().clamp(min=1)


def random_encoder(architecture: Architecture, *, seed: int) -> FrozenEncoder:
    """The control of every table: the network of "self" with random weights; no file is read."""
    encoder = encoder_for(architecture, seed=seed)
    return FrozenEncoder(encoder, _report("random", encoder))


def self_encoder(architecture: Architecture, *, file: Path) -> FrozenEncoder:
    """The encoder that a training left in `file`; every tensor must be there and fit.

    Raises:
        CheckpointError: the file is missing, damaged or belongs to another architecture.
    """
    encoder, weights = encoder_for(architecture, seed=0), read_file(file).get(WEIGHTS)
    items = weights.items() if isinstance(weights, Mapping) else ()
    found = {key: value for key, value in items if isinstance(value, Tensor)}
    try:
        check(found, encoder.state_dict())
    except CheckpointError as problem:
        raise CheckpointError(f"{file}: not this configuration's ({problem}); {REMEDY}") from None
    encoder.load_state_dict(found)
    return FrozenEncoder(encoder, _report("self", encoder, str(file)))


def _report(name: str, encoder: PlainEncoder, file: str | None = None) -> EncoderReport:
    return EncoderReport(
        name,
        file,
        n_tensors=len(encoder.state_dict()),
        stages=tuple(range(len(encoder.strides))),
        channels=encoder.channels,
        strides=total_strides(encoder.strides),
    )


def read_file(file: Path) -> Mapping[str, Any]:
    """An encoder file as the dict that was saved; a CheckpointError if it is missing or damaged."""
    if not file.is_file():
        raise CheckpointError(f"{file}: no such encoder; run gdm_train, which makes it")
    return read_plain(file, remedy=REMEDY)


def _convolution(c_in: int, c_out: int, kernel: Shape, stride: Shape) -> nn.Conv3d:
    # skip_init: the default initialisation would draw from torch's global generator, and what is
    # built next would depend on whether the encoder came from its file or was made.
    z, y, x = (k // 2 for k in kernel)
    return nn.utils.skip_init(nn.Conv3d, c_in, c_out, kernel, stride=stride, padding=(z, y, x))
