"""Boxes in voxels: find one, cut it out, put it back."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gdmnet.geometry import Shape

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""First and one-past-last voxel along z, y, x."""


def bounding_box(mask: NDArray, margin: Shape = (0, 0, 0)) -> Box:
    """The smallest box around the non-zero voxels, widened and clipped to the array.

    Args:
        mask: (z, y, x).
        margin: voxels added on either side along z, y, x.

    Raises:
        ValueError: the mask is empty.
    """
    inside = mask != 0
    sides = []
    for axis, extra in enumerate(margin):
        others = tuple(other for other in range(3) if other != axis)
        occupied = np.flatnonzero(inside.any(axis=others))
        if occupied.size == 0:
            raise ValueError("an empty mask has no bounding box")
        first, last = int(occupied[0]), int(occupied[-1])
        sides.append((max(0, first - extra), min(mask.shape[axis], last + 1 + extra)))
    return sides[0], sides[1], sides[2]


def crop(array: NDArray, box: Box) -> NDArray:
    """The part of (..., z, y, x) inside the box, as a view."""
    z, y, x = (slice(first, stop) for first, stop in box)
    return array[..., z, y, x]


def box_shape(box: Box) -> Shape:
    """Voxels of a box along z, y, x."""
    z, y, x = (stop - first for first, stop in box)
    return z, y, x


def uncrop(array: NDArray, box: Box, shape: Shape, fill: float) -> NDArray:
    """The inverse of `crop`: (..., *shape) that holds `array` in the box and `fill` elsewhere.

    Raises:
        ValueError: the array is not as large as the box, or the box leaves the shape.
    """
    extent = tuple(stop - first for first, stop in box)
    if array.shape[-3:] != extent:
        raise ValueError(f"array of shape {array.shape[-3:]} for a box of shape {extent}")
    if any(first < 0 or stop > side for (first, stop), side in zip(box, shape, strict=True)):
        raise ValueError(f"box {box} leaves the shape {shape}")
    whole = np.full((*array.shape[:-3], *shape), fill, dtype=array.dtype)
    crop(whole, box)[...] = array
    return whole
