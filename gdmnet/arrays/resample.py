"""Resample onto another number of voxels over the same field of view: splines on every axis."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from gdmnet.geometry import Shape, Spacing

_NEGLIGIBLE = 1e-9  # weights below would be denormal float32 far from the voxel, and very slow
_SLAB = 16  # rows of the result at a time; measured: 8 and 64 cost more
_FINER = 1.01  # times as many voxels along an axis: less than that is the rounding of sizes


def resampled_shape(shape: Shape, spacing: Spacing, new_spacing: Spacing) -> Shape:
    """The number of voxels (z, y, x) that cover the same field of view; at least one an axis."""
    sides = zip(shape, spacing, new_spacing, strict=True)
    z, y, x = (max(1, round(n * old / new)) for n, old, new in sides)
    return z, y, x


def resample(array: NDArray, shape: Shape, *, order: int = 3) -> NDArray:
    """Resample each channel; the outer EDGES of the first and last voxels stay where they are.

    B-spline interpolation on every axis, through-plane too; axes that shrink are first smoothed
    (Gaussian, sigma = (factor - 1) / 2 voxels, as skimage.transform.resize). Tensor-product
    splines are separable, so each axis is one matrix product: no float64 copy of the volume.

    Args:
        array: (c, z, y, x) float32.
        shape: voxels wanted along z, y, x.
        order: 1 (linear) or 3 (cubic).

    Returns:
        float32 (c, *shape), within each channel's original range; the same array if it has this
        shape already.

    Raises:
        ValueError: another order.
    """
    if array.shape[1:] == tuple(shape):
        return array
    result = np.empty((array.shape[0], *shape), dtype=np.float32)
    for rows, slab in resampled_slabs(array, shape, order=order):
        result[:, rows] = slab
    return result


def resampled_slabs(
    array: NDArray, shape: Shape, *, order: int = 3
) -> Iterator[tuple[slice, NDArray]]:
    """The result of `resample` a few axial slices at a time: no second volume is in memory.

    Any kind of real numbers will do.

    Yields:
        Slices n along z, and their voxels, float32 (c, n, y, x); a view of the array if it has this
        shape already.

    Raises:
        ValueError: another order.
    """
    if order not in (1, 3):
        raise ValueError(f"order {order}: use 1 (linear) or 3 (cubic)")
    every = [slice(first, min(first + _SLAB, shape[0])) for first in range(0, shape[0], _SLAB)]
    if array.shape[1:] == tuple(shape):
        yield from ((rows, array[:, rows]) for rows in every)
        return
    weights = [_weights(old, new, order) for old, new in zip(array.shape[1:], shape, strict=True)]
    limits = [(float(volume.min()), float(volume.max())) for volume in array]
    for rows in every:
        slab = np.empty((len(array), rows.stop - rows.start, *shape[1:]), dtype=np.float32)
        for volume, (low, high), result in zip(array, limits, slab, strict=True):
            np.clip(_slab_of(volume, weights, rows), low, high, out=result)
        yield rows, slab


def resample_mask(mask: NDArray, shape: Shape) -> NDArray:
    """Resample a mask (z, y, x) to uint8 0 and 1: linear, inside from one half on."""
    return np.concatenate([slab for _, slab in mask_slabs(mask, shape)]).astype(np.uint8)


def mask_slabs(mask: NDArray, shape: Shape) -> Iterator[tuple[slice, NDArray]]:
    """The result of `resample_mask` a few axial slices at a time: slices n, and bool (n, y, x)."""
    for rows, soft in resampled_slabs((mask != 0)[None], shape, order=1):
        yield rows, soft[0] >= 0.5 - 1e-4  # float32 rounding must not decide a tie


def lost_detail(image: NDArray, coarse_shape: Shape) -> NDArray | None:
    """An image minus what is left of it on a grid with fewer voxels.

    Both are float32 (c, z, y, x). Only the axes that get coarser count: along the others the grid,
    over the same field of view, holds all of the image. None where no axis gets coarser.
    """
    shape = image.shape[1:]
    sides = zip(shape, coarse_shape, strict=True)
    z, y, x = (few if many > _FINER * few else many for many, few in sides)
    if (z, y, x) == shape:
        return None
    return np.asarray(image - resample(resample(image, (z, y, x)), shape), dtype=np.float32)


def _weights(old: int, new: int, order: int) -> NDArray | None:
    """float32 (new, old): the response of each new voxel to each old one; None changes nothing."""
    if new == old:
        return None
    impulses = np.eye(old)
    if new < old:
        impulses = ndimage.gaussian_filter1d(impulses, (old / new - 1) / 2, axis=0, mode="nearest")
    weights = ndimage.zoom(impulses, (new / old, 1), order=order, mode="nearest", grid_mode=True)
    weights[np.abs(weights) < _NEGLIGIBLE] = 0
    return weights.astype(np.float32)


def _slab_of(volume: NDArray, weights: list[NDArray | None], rows: slice) -> NDArray:
    """Some slices of a resampled (z, y, x): first along z, then the axis that shrinks most."""
    along_z, *_ = weights
    if along_z is None:
        array = np.ascontiguousarray(volume[rows], dtype=np.float32)
    else:
        array = _along(0, along_z[rows], volume)
    for axis in sorted((1, 2), key=lambda axis: _growth(weights[axis])):
        matrix = weights[axis]
        array = array if matrix is None else _along(axis, matrix, array)
    return array


def _growth(matrix: NDArray | None) -> float:
    return 1.0 if matrix is None else matrix.shape[0] / matrix.shape[1]


def _along(axis: int, matrix: NDArray, array: NDArray) -> NDArray:
    """The product along one axis: a few rows at a time, with the voxels alone that they see."""
    shape = (*array.shape[:axis], len(matrix), *array.shape[axis + 1 :])
    result = np.empty(shape, dtype=np.float32)
    lead = (slice(None),) * axis
    for first in range(0, len(matrix), _SLAB):
        rows = slice(first, first + _SLAB)
        seen = np.flatnonzero(matrix[rows].any(axis=0))
        span = slice(seen[0], seen[-1] + 1)
        here, there = (*lead, span), (*lead, rows)
        part, voxels, made = matrix[rows, span], array[here], result[there]
        if axis == 0:
            flat = np.ascontiguousarray(voxels, dtype=np.float32).reshape(len(voxels), -1)
            np.matmul(part, flat, out=made.reshape(len(made), -1))
        elif axis == 1:
            np.matmul(part, voxels, out=made)
        else:
            np.matmul(voxels, part.T, out=made)
    return result
