"""Resample onto another number of voxels over the same field of view: splines on every axis."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from gdmnet.geometry import Shape, Spacing

_NEGLIGIBLE = 1e-9  # weights below would be denormal float32 far from the voxel, and very slow
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
    if order not in (1, 3):
        raise ValueError(f"order {order}: use 1 (linear) or 3 (cubic)")
    if array.shape[1:] == tuple(shape):
        return array
    result = np.empty((array.shape[0], *shape), dtype=np.float32)
    weights = [_weights(old, new, order) for old, new in zip(array.shape[1:], shape, strict=True)]
    for channel, volume in zip(result, array, strict=True):
        _resample_axes(volume, weights, channel)
        np.clip(channel, volume.min(), volume.max(), out=channel)
    return result


def resample_mask(mask: NDArray, shape: Shape) -> NDArray:
    """Resample a mask (z, y, x) to uint8 0 and 1: linear, inside from one half on."""
    soft = resample((mask != 0)[None].astype(np.float32), shape, order=1)[0]
    return (soft >= 0.5 - 1e-4).astype(np.uint8)  # float32 rounding must not decide a tie


def lost_detail(image: NDArray, coarse_shape: Shape) -> NDArray | None:
    """An image minus what is left of it on a grid with fewer voxels.

    Only the axes that get coarser count: along the others the grid holds all of the image.

    Args:
        image: float32 (c, z, y, x).
        coarse_shape: voxels (z, y, x) of a grid over the same field of view.

    Returns:
        float32 (c, z, y, x); None where no axis gets coarser.
    """
    shape = image.shape[1:]
    sides = zip(shape, coarse_shape, strict=True)
    z, y, x = (few if many > _FINER * few else many for many, few in sides)
    if (z, y, x) == shape:
        return None
    return np.asarray(image - resample(resample(image, (z, y, x)), shape), dtype=np.float32)


def _weights(old: int, new: int, order: int) -> NDArray:
    """float32 (new, old): the response of each new voxel to each old one."""
    impulses = np.eye(old)
    if new < old:
        impulses = ndimage.gaussian_filter1d(impulses, (old / new - 1) / 2, axis=0, mode="nearest")
    weights = ndimage.zoom(impulses, (new / old, 1), order=order, mode="nearest", grid_mode=True)
    weights[np.abs(weights) < _NEGLIGIBLE] = 0
    return weights.astype(np.float32)


def _resample_axes(volume: NDArray, weights: list[NDArray], result: NDArray) -> None:
    """Axes that shrink most come first, so that what lies between is never larger than needed."""
    order = sorted(range(3), key=lambda axis: len(weights[axis]) / volume.shape[axis])
    array = np.ascontiguousarray(volume, dtype=np.float32)
    for axis in order[:2]:
        array = _along(axis, weights[axis], array)
    _along(order[2], weights[order[2]], array, result)


def _along(axis: int, matrix: NDArray, array: NDArray, result: NDArray | None = None) -> NDArray:
    """The product along one axis as matrix products that need no transposed copy."""
    if result is None:
        result = np.empty((*array.shape[:axis], len(matrix), *array.shape[axis + 1 :]), np.float32)
    if axis == 0:
        np.matmul(matrix, array.reshape(len(array), -1), out=result.reshape(len(matrix), -1))
    elif axis == 1:
        np.matmul(matrix, array, out=result)
    else:
        np.matmul(array, matrix.T, out=result)
    return result
