"""Another grid: places and values against affine fields, whose linear interpolation is exact."""

import numpy as np
import pytest

from gdmnet.data.case import Volume
from gdmnet.data.regrid import axial_grid, regrid
from gdmnet.geometry import Geometry, lps_frame, nearest_lps, to_lps


def grid(shape, spacing, direction, origin=(-30.0, 12.5, 100.25)):
    """A grid from stored shape and spacing (z, y, x) and a direction matrix."""
    cosines = tuple(float(cosine) for cosine in np.ravel(direction))
    axes, flips = nearest_lps(cosines)
    return Geometry(
        tuple(shape[a] for a in axes), tuple(spacing[a] for a in axes), origin, cosines, axes, flips
    )


def places(geometry):
    """Patient positions (z, y, x, 3) of all LPS voxels."""
    origin, direction = lps_frame(geometry)
    z, y, x = np.meshgrid(*(np.arange(n) for n in geometry.shape), indexing="ij")
    dz, dy, dx = geometry.spacing
    return origin + np.stack([x * dx, y * dy, z * dz], axis=-1) @ direction.T


def affine_field(geometry):
    """A value that is an affine function of the place: 3x - 2y + 5z + 7."""
    return (places(geometry) @ np.array([3.0, -2.0, 5.0]) + 7).astype(np.float32)


def turned(degrees=20.0):
    a, b = np.deg2rad([degrees, degrees / 3])
    about_x = [[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]]
    about_z = [[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]]
    return np.array(about_z) @ np.array(about_x)


SAGITTAL = np.array([[0.0, 0, 1], [1, 0, 0], [0, -1, 0]])


def test_values_stay_at_their_place_in_the_patient():
    geometry = grid((12, 14, 16), (2.0, 1.5, 1.0), turned())
    volume = Volume(affine_field(geometry)[None], geometry)
    wanted = axial_grid(geometry)
    result = regrid(volume, wanted, fill=-9999.0)
    assert result.geometry is wanted
    inside = result.array[0] != -9999
    assert 0.4 < inside.mean() < 0.8
    error = np.abs(result.array[0] - affine_field(wanted))[inside]
    assert (error < 1e-2).mean() > 0.75
    assert error.max() < 10  # on the outer half voxel the border is repeated


def test_the_axial_grid_holds_every_voxel_centre_and_little_more():
    geometry = grid((12, 14, 16), (2.0, 1.5, 1.0), turned())
    wanted = axial_grid(geometry)
    assert wanted.spacing == (2.0, 1.0, 1.0)
    assert wanted.itk_direction == (1, 0, 0, 0, 1, 0, 0, 0, 1)
    old, new = places(geometry).reshape(-1, 3), places(wanted).reshape(-1, 3)
    assert (new.min(axis=0) <= old.min(axis=0) + 1e-6).all()
    over = new.max(axis=0) - old.max(axis=0)
    assert (over >= -1e-3).all()
    assert (over < np.array([1.0, 1.0, 2.0])).all()


@pytest.mark.parametrize("direction", [np.eye(3), SAGITTAL, np.diag([1.0, -1, -1])])
def test_a_grid_along_the_axes_with_square_pixels_is_copied_to_the_bit(rng, direction):
    spacing = (1.1, 1.1, 1.1)
    geometry = grid((5, 6, 7), spacing, direction)
    volume = Volume(rng.normal(size=(1, *geometry.shape)).astype(np.float32), geometry)
    wanted = axial_grid(geometry)
    result = regrid(volume, wanted, fill=0.0)
    assert result.array is volume.array
    np.testing.assert_allclose(places(wanted), places(geometry), atol=1e-9)


def test_pixels_that_are_not_square_become_square():
    geometry = grid((7, 6, 5), (3.0, 1.0, 1.0), SAGITTAL)  # slices of 3 mm along x
    assert geometry.spacing == (1.0, 1.0, 3.0)
    wanted = axial_grid(geometry)
    assert wanted.spacing == (1.0, 1.0, 1.0)
    assert wanted.shape == (6, 5, 19)
    result = regrid(Volume(affine_field(geometry)[None], geometry), wanted, fill=0.0)
    np.testing.assert_allclose(result.array[0], affine_field(wanted), atol=1e-3)


def test_one_slice_stays_one_slice():
    geometry = grid((1, 6, 7), (4.0, 1.0, 1.0), np.eye(3))
    assert axial_grid(geometry).shape == (1, 6, 7)


def test_outside_is_the_fill_and_channels_stay_apart():
    geometry = grid((5, 6, 7), (2.0, 1.0, 1.0), np.eye(3), origin=(0.0, 0.0, 0.0))
    wanted = grid((5, 6, 7), (2.0, 1.0, 1.0), np.eye(3), origin=(3.0, 0.0, -4.0))
    array = np.stack([affine_field(geometry), -affine_field(geometry)])
    result = regrid(Volume(array, geometry), wanted, fill=-1024.0).array
    np.testing.assert_allclose(result[:, 2:, :, :4], array[:, :3, :, 3:], atol=1e-4)
    assert (result[:, :2] == -1024).all()
    assert (result[..., 4:] == -1024).all()


def test_thin_slices_are_averaged_into_thick_ones(rng):
    geometry = grid((60, 8, 8), (1.0, 1.0, 1.0), np.eye(3), origin=(0.0, 0.0, 0.0))
    wanted = grid((12, 8, 8), (5.0, 1.0, 1.0), np.eye(3), origin=(0.0, 0.0, 2.0))
    noise = rng.normal(size=(1, *geometry.shape)).astype(np.float32)
    result = regrid(Volume(noise, geometry), wanted, fill=0.0).array
    assert result.std() < 0.6 * noise.std()
    assert to_lps(noise[0], geometry).std() == pytest.approx(1, abs=0.1)
