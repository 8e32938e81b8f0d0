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
Zoom = tuple[float, float, float]

SAME_WITHIN = 1.5  # spacings that differ by less are taken as equal
SMALLEST_MAP = 4  # positions along an axis; statistics of fewer say nothing
UNCHANGED: Zoom = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class AxisLayout:
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
        unflipped = y.flip([axis + 2 for axis in self.flipped])
        return unflipped.permute(0, 1, *(axis + 2 for axis in self.restored((0, 1, 2))))

    def reordered(self, values: Sequence[T]) -> tuple[T, T, T]:
        """Numbers of (z, y, x) in the order of the network's axes."""
        d, h, w = (values[axis] for axis in self.axes)
        return d, h, w

    def restored(self, values: Sequence[T]) -> tuple[T, T, T]:
        """Numbers of the network's axes in the order (z, y, x)."""
        z, y, x = (values[self.axes.index(axis)] for axis in range(3))
        return z, y, x


SPL = AxisLayout()  # nnU-Net's and CT-FM's
RAS = AxisLayout((2, 1, 0), (0, 1))  # MONAI's


def fit(x: Tensor, zoom: Zoom, divisor: Shape) -> Tensor:
    """A patch (b, c, d, h, w) as the network takes it: all sides divisible, the same region.

    Args:
        x: along the network's axes.
        zoom: voxels of the network per voxel of the patch: resampled, unless all are 1: then
            padded at the ends with its own border values.
        divisor: of the sides.
    """
    shape = tuple(x.shape[2:])
    if zoom != UNCHANGED:
        sides = zip(shape, zoom, divisor, strict=True)
        return resample(x, [max(step, step * round(n * by / step)) for n, by, step in sides])
    d, h, w = (-size % step for size, step in zip(shape, divisor, strict=True))
    return functional.pad(x, (0, w, 0, h, 0, d), mode="replicate") if d or h or w else x


def cut_padding(feature_map: Tensor, shape: Sequence[int], stride: Shape) -> Tensor:
    """A map of a padded patch without the locations that lie in the padding alone.

    Args:
        feature_map: (b, c, d, h, w).
        shape: of the patch along the network's axes, before `fit`.
        stride: voxels of the patch from one location to the next.
    """
    d, h, w = (-(-size // step) for size, step in zip(shape, stride, strict=True))
    return feature_map[:, :, :d, :h, :w]


def zoom_to(spacing: Spacing, wanted: Spacing | None) -> Zoom:
    """Factors of the resampling; all 1 where every axis is within 1.5 times of the wanted one.

    Args:
        spacing: mm of the patch, along the network's axes.
        wanted: mm that the network was trained on; None for any.
    """
    d, h, w = (mine / theirs for mine, theirs in zip(spacing, wanted or spacing, strict=True))
    same = all(1 / SAME_WITHIN <= factor <= SAME_WITHIN for factor in (d, h, w))
    return UNCHANGED if same else (d, h, w)


def usable_stages(shape: Sequence[float], strides: Sequence[Shape]) -> int:
    """How many of the finest stages have maps large enough; at least one.

    A map needs four positions along every axis, or as many as the axis has voxels.

    Args:
        shape: voxels of the patch on the network's grid.
        strides: of every stage, voxels from one location to the next.
    """
    sizes = [round(size) for size in shape]
    for n, stride in enumerate(strides):
        pairs = zip(sizes, stride, strict=True)
        if any(-(-size // step) < min(SMALLEST_MAP, size) for size, step in pairs):
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
    factor, voxel = old / new, torch.arange(old, dtype=torch.float64)
    if new < old:
        edges = torch.arange(new + 1, dtype=torch.float64)[:, None] * factor
        overlap = torch.minimum(edges[1:], voxel + 1) - torch.maximum(edges[:-1], voxel)
        return overlap.clamp(min=0) / factor
    centres = ((torch.arange(new, dtype=torch.float64) + 0.5) * factor - 0.5).clamp(0, old - 1)
    return (1 - (centres[:, None] - voxel).abs()).clamp(min=0)
