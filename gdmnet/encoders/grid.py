"""Axes, spacing and sizes: from a patch of gdmnet to the grid that an encoder knows, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from gdmnet.geometry import Shape, Spacing

T = TypeVar("T", int, float)

SAME_WITHIN = 1.5  # spacings that differ by less are taken as equal
SMALLEST_MAP = 4  # positions along an axis; statistics of fewer say nothing


@dataclass(frozen=True)
class Layout:
    """How a network's axes lie in gdmnet's (z, y, x), which point to S, P and L.

    Attributes:
        axes: for each of the network's axes, which of (z, y, x) it is.
        flipped: the network's axes that run the other way.
    """

    axes: tuple[int, int, int] = (0, 1, 2)
    flipped: tuple[int, ...] = ()

    def to_network(self, x: Tensor) -> Tensor:
        """(b, c, z, y, x) along the network's axes."""
        d, h, w = self.axes
        return x.permute(0, 1, d + 2, h + 2, w + 2).flip([axis + 2 for axis in self.flipped])

    def to_image(self, y: Tensor) -> Tensor:
        """The inverse of `to_network`."""
        z, y_, x = (self.axes.index(axis) for axis in range(3))
        return y.flip([axis + 2 for axis in self.flipped]).permute(0, 1, z + 2, y_ + 2, x + 2)

    def reordered(self, values: Sequence[T]) -> tuple[T, T, T]:
        """Numbers of (z, y, x) in the order of the network's axes."""
        d, h, w = (values[axis] for axis in self.axes)
        return d, h, w

    def restored(self, values: Sequence[T]) -> tuple[T, T, T]:
        """Numbers of the network's axes in the order (z, y, x)."""
        z, y, x = (values[self.axes.index(axis)] for axis in range(3))
        return z, y, x


SPL = Layout()  # nnU-Net's and CT-FM's
RAS = Layout((2, 1, 0), (0, 1))  # MONAI's


@dataclass(frozen=True)
class Grid:
    """What happens to a patch's grid before the network; all along the network's axes.

    Attributes:
        zoom: voxels of the network per voxel of the patch; (1, 1, 1) leaves it as it is.
        divisor: sizes are made divisible by it.
    """

    zoom: tuple[float, float, float]
    divisor: Shape

    @property
    def resamples(self) -> bool:
        """Whether the patch is resampled (else padded)."""
        return self.zoom != (1.0, 1.0, 1.0)

    def fit(self, x: Tensor) -> Tensor:
        """A patch as the network takes it.

        Resampled to sizes that are divisible, so that it covers the same region; or padded at the
        ends with its own border values.
        """
        shape = tuple(x.shape[2:])
        if self.resamples:
            sizes = [
                max(step, step * round(size * zoom / step))
                for size, zoom, step in zip(shape, self.zoom, self.divisor, strict=True)
            ]
            return resample(x, sizes)
        d, h, w = (-size % step for size, step in zip(shape, self.divisor, strict=True))
        return functional.pad(x, (0, w, 0, h, 0, d), mode="replicate") if d or h or w else x

    def crop(self, feature_map: Tensor, shape: Sequence[int], stride: Shape) -> Tensor:
        """A map without the locations that lie in the padding alone."""
        if self.resamples:
            return feature_map
        d, h, w = (-(-size // step) for size, step in zip(shape, stride, strict=True))
        return feature_map[:, :, :d, :h, :w]


def zoom_to(spacing: Spacing, wanted: Spacing | None) -> tuple[float, float, float]:
    """Factors of the resampling; all 1 where every axis is within 1.5 times of the wanted one.

    Args:
        spacing: mm of the patch, along the network's axes.
        wanted: mm that the network was trained on; None for any.
    """
    if wanted is None:
        return 1.0, 1.0, 1.0
    d, h, w = (mine / theirs for mine, theirs in zip(spacing, wanted, strict=True))
    if all(1 / SAME_WITHIN <= factor <= SAME_WITHIN for factor in (d, h, w)):
        return 1.0, 1.0, 1.0
    return d, h, w


def usable_stages(shape: Sequence[float], strides: Sequence[Shape]) -> int:
    """How many of the finest stages have maps large enough; at least one.

    A map needs four positions along every axis, or as many as the axis has voxels.

    Args:
        shape: voxels of the patch on the network's grid.
        strides: of every stage, voxels from one location to the next.
    """
    for n, stride in enumerate(strides):
        for size, step in zip(shape, stride, strict=True):
            if -(-round(size) // step) < min(SMALLEST_MAP, round(size)):
                return max(1, n)
    return len(strides)


def resample(x: Tensor, sizes: Sequence[int]) -> Tensor:
    """An image (b, c, d, h, w) at other sizes over the same region.

    An axis that grows is interpolated linearly between voxel centres; one that shrinks is averaged
    over each new voxel's extent, so that every old voxel counts and gets a gradient.
    """
    for axis, size in enumerate(sizes, start=2):
        if size != x.shape[axis]:
            weights = _weights(x.shape[axis], size).to(x)
            x = torch.tensordot(x, weights, dims=([axis], [1])).movedim(-1, axis)
    return x


def _weights(old: int, new: int) -> Tensor:
    """(new, old), rows that add up to 1."""
    factor = old / new
    if new < old:
        edges = torch.arange(new + 1, dtype=torch.float64) * factor
        lower, upper = edges[:-1, None], edges[1:, None]
        voxel = torch.arange(old, dtype=torch.float64)
        overlap = torch.minimum(upper, voxel + 1) - torch.maximum(lower, voxel)
        return overlap.clamp(min=0) / factor
    centres = ((torch.arange(new, dtype=torch.float64) + 0.5) * factor - 0.5).clamp(0, old - 1)
    distance = (centres[:, None] - torch.arange(old, dtype=torch.float64)).abs()
    return (1 - distance).clamp(min=0)
