"""Cutting patches out of prepared cases: where they lie, and what stands where no voxel is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gdmnet.geometry import Shape


def patch_start(centre: Sequence[int], patch: Shape, shape: Shape) -> Shape:
    """First voxel of a patch around a voxel, shifted so that the patch stays inside the volume.

    Args:
        centre: voxel (z, y, x).
        patch: size (z, y, x).
        shape: of the volume (z, y, x).

    Returns:
        The start (z, y, x); negative on axes where the volume is smaller than the patch, where
        the volume then lies in the middle of the patch.
    """
    starts = []
    for middle, size, length in zip(centre, patch, shape, strict=True):
        if length <= size:
            starts.append(-((size - length) // 2))
        else:
            starts.append(min(max(int(middle) - size // 2, 0), length - size))
    return (starts[0], starts[1], starts[2])


def read_patch(array: Any, start: Shape, size: Shape, fill: float | Sequence[float]) -> NDArray:  # noqa: ANN401
    """Read one patch; voxels outside the volume are filled.

    Args:
        array: (c, z, y, x) or (z, y, x), numpy or blosc2 (only the patch is decompressed).
        start: first voxel (z, y, x), possibly outside the volume.
        size: of the patch (z, y, x).
        fill: value outside the volume, one a channel.

    Returns:
        A new float32 array (c, *size) or (*size).
    """
    *channels, depth, height, width = array.shape
    patch = np.empty((*channels, *size), dtype=np.float32)
    patch[...] = np.reshape(np.asarray(fill, dtype=np.float32), (*channels, 1, 1, 1))
    inside = [
        slice(max(first, 0), min(first + length, n))
        for first, length, n in zip(start, size, (depth, height, width), strict=True)
    ]
    if all(part.start < part.stop for part in inside):
        there = [
            slice(part.start - first, part.stop - first)
            for part, first in zip(inside, start, strict=True)
        ]
        every = [slice(None)] * len(channels)
        patch[tuple(every + there)] = array[tuple(every + inside)]
    return patch
