"""Boxes in voxels: find one, cut it out, put it back, or pad to one.

acvl_utils has boxes and padding, too, but they import torch, which workers here start without.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gdmnet.geometry import Shape

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""First and one-past-last voxel along z, y, x."""


def bounding_box(mask: NDArray, margin: Shape = (0, 0, 0)) -> Box:
    """The smallest box around a mask's voxels, a margin wider on either side; within the array.

    Raises:
        ValueError: the mask is empty.
    """
    inside = mask != 0
    occupied = [np.flatnonzero(inside.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    if occupied[0].size == 0:
        raise ValueError("an empty mask has no bounding box")
    z, y, x = (
        (max(0, int(found[0]) - extra), min(length, int(found[-1]) + 1 + extra))
        for found, extra, length in zip(occupied, margin, mask.shape, strict=True)
    )
    return z, y, x


def crop(array: NDArray, box: Box) -> NDArray:
    """The part of (..., z, y, x) inside the box, as a view."""
    z, y, x = (slice(first, stop) for first, stop in box)
    return array[..., z, y, x]


def box_shape(box: Box) -> Shape:
    """Voxels of a box along z, y, x."""
    z, y, x = (stop - first for first, stop in box)
    return z, y, x


def uncrop(array: NDArray, box: Box, shape: Shape, fill: ArrayLike) -> NDArray:
    """The inverse of `crop`: (..., *shape), `array` in the box and `fill` (broadcast) elsewhere.

    Raises:
        ValueError: the array is not as large as the box, or the box leaves the shape.
    """
    if array.shape[-3:] != box_shape(box):
        raise ValueError(f"array of shape {array.shape[-3:]} for a box of shape {box_shape(box)}")
    if any(first < 0 or stop > side for (first, stop), side in zip(box, shape, strict=True)):
        raise ValueError(f"box {box} leaves the shape {shape}")
    whole = np.full((*array.shape[:-3], *shape), fill, dtype=array.dtype)
    crop(whole, box)[...] = array
    return whole


def pad_to(array: NDArray, shape: Shape, fill: Sequence[float]) -> tuple[NDArray, Box]:
    """Centre an array in one that is at least `shape` large, each channel with its own background.

    Args:
        array: (c, z, y, x).
        shape: least size along z, y, x; axes that are as large stay as they are.
        fill: one value a channel.

    Returns:
        The padded array (the same object if nothing is missing), and the box of the original in
        it: `crop(padded, box)` gives the original back.

    Raises:
        ValueError: not one fill value a channel.
    """
    channels, *have = array.shape
    if len(fill) != channels:
        raise ValueError(f"{len(fill)} fill values for {channels} channels")
    d, h, w = (max(pair) for pair in zip(shape, have, strict=True))
    z, y, x = (((n - m) // 2, (n - m) // 2 + m) for n, m in zip((d, h, w), have, strict=True))
    if [d, h, w] == have:
        return array, (z, y, x)
    return uncrop(array, (z, y, x), (d, h, w), np.reshape(fill, (-1, 1, 1, 1))), (z, y, x)
