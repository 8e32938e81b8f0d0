"""Pad an array to a least size, each channel with its own background."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gdmnet.arrays.crop import Box, crop
from gdmnet.geometry import Shape


def pad_to(array: NDArray, shape: Shape, fill: Sequence[float]) -> tuple[NDArray, Box]:
    """Centre an array in one that is at least `shape` large.

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
    if len(fill) != array.shape[0]:
        raise ValueError(f"{len(fill)} fill values for {array.shape[0]} channels")
    missing = [max(0, want - have) for want, have in zip(shape, array.shape[1:], strict=True)]
    starts = [(gap // 2, have) for gap, have in zip(missing, array.shape[1:], strict=True)]
    z, y, x = ((first, first + have) for first, have in starts)
    box = (z, y, x)
    if not any(missing):
        return array, box
    size = tuple(have + gap for have, gap in zip(array.shape[1:], missing, strict=True))
    padded = np.empty((array.shape[0], *size), dtype=array.dtype)
    padded[:] = np.asarray(fill, dtype=array.dtype).reshape(-1, 1, 1, 1)
    crop(padded, box)[...] = array
    return padded, box
