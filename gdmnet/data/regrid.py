"""Another grid in the same physical space: where two grids differ in more than spacing."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray
from scipy import ndimage

from gdmnet.data.case import Volume
from gdmnet.geometry import Geometry, lps_frame, stored_geometry

_TURNED = 1e-6  # of direction cosines: 0.3 micrometres over 30 cm


def bounds(geometry: Geometry) -> tuple[NDArray, NDArray]:
    """The lowest and the highest (x, y, z) in mm of a grid's voxel centres in the patient."""
    origin, direction = lps_frame(geometry)
    ends = (np.array(geometry.shape[::-1]) - 1) * np.array(geometry.spacing[::-1])
    corners = np.stack(np.meshgrid(*((0.0, end) for end in ends), indexing="ij"), axis=-1)
    places = corners.reshape(-1, 3) @ direction.T + origin
    return places.min(axis=0), places.max(axis=0)


def share_inside(first: Geometry, second: Geometry) -> float:
    """Which share of the box around the first grid lies in the box around the second, 0 to 1."""
    lowest, highest = bounds(first)
    other_lowest, other_highest = bounds(second)
    sides = np.minimum(highest, other_highest) - np.maximum(lowest, other_lowest)
    whole = np.maximum(highest - lowest, 1e-6)  # a single slice has no thickness
    return float(np.prod(np.clip(np.where(sides < 0, 0, np.maximum(sides, 1e-6)) / whole, 0, 1)))


def axial_grid(geometry: Geometry) -> Geometry:
    """The axial grid with square pixels that holds all voxel centres of a grid.

    Rows run to the left, columns to the back, slices to the head. The pixel is the smaller of the
    spacings along x and y, the distance of slices that along z. A grid that is axial and square
    already, in whatever order it is stored, keeps its voxels exactly.
    """
    z, y, x = geometry.spacing
    pixel = min(y, x)
    steps = np.array([pixel, pixel, z])
    lowest, highest = bounds(geometry)
    sides = np.ceil((highest - lowest) / steps - 1e-4).astype(int) + 1  # (x, y, z)
    return stored_geometry(sides[::-1].tolist(), (z, pixel, pixel), lowest, np.eye(3))


def regrid(volume: Volume, geometry: Geometry, *, fill: float) -> Volume:
    """A volume on another grid: linear in physical space, `fill` outside of it.

    Axes along which voxels grow are smoothed first (Gaussian, sigma = (factor - 1) / 2 voxels, as
    `arrays.resample`), so that thin slices do not alias into thick ones. Where the new grid's
    voxels are the old ones, they are copied, not interpolated.
    """
    origin, direction = lps_frame(volume.geometry)
    new_origin, new_direction = lps_frame(geometry)
    if (
        geometry.shape == volume.geometry.shape
        and np.allclose(geometry.spacing, volume.geometry.spacing, rtol=_TURNED, atol=0)
        and np.allclose(new_direction, direction, rtol=0, atol=_TURNED)
        and np.allclose(new_origin, origin, rtol=0, atol=1e-4 * min(geometry.spacing))
    ):
        return Volume(volume.array, geometry)
    array = np.empty((len(volume.array), *geometry.shape), dtype=np.float32)
    for channel, result in zip(volume.array, array, strict=True):
        moved = sitk.Resample(
            as_image(_smooth(channel, volume.geometry, geometry), volume.geometry),
            geometry.shape[::-1],
            outputOrigin=new_origin.tolist(),
            outputSpacing=geometry.spacing[::-1],
            outputDirection=new_direction.ravel().tolist(),
            defaultPixelValue=fill,
        )
        result[...] = sitk.GetArrayFromImage(moved)  # a view would dangle
    return Volume(array, geometry)


def as_image(array: NDArray, geometry: Geometry) -> sitk.Image:
    """An array (z, y, x) in LPS axes at its place in the space of the files, as float32."""
    origin, direction = lps_frame(geometry)
    image = sitk.GetImageFromArray(array.astype(np.float32, copy=False))
    image.SetSpacing(geometry.spacing[::-1])
    image.SetOrigin(origin.tolist())
    image.SetDirection(direction.ravel().tolist())
    return image


def _smooth(channel: NDArray, old: Geometry, new: Geometry) -> NDArray:
    growth = np.array(new.spacing) / np.array(old.spacing)
    sigma = np.maximum((growth - 1) / 2, 0)
    if sigma.max() < 0.05:  # a kernel that would not be noticed
        return channel
    return np.asarray(ndimage.gaussian_filter(channel, sigma, mode="nearest"))
