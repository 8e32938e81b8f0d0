import itertools
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import given, settings
from hypothesis import strategies as st

from gdmnet.errors import SettingError
from gdmnet.geometry import (
    Geometry,
    NiftiForms,
    grid_difference,
    lps_frame,
    nearest_lps,
    to_lps,
    to_stored,
)

ORIENTATIONS = ["LPS", "RAS", "PIR", "ASL", "RSP", "SAR", "LIP", "PSR"]


def image_in(code, shape=(3, 4, 5)):
    """An ITK image stored in the orientation of the code, spacing and origin all different."""
    image = sitk.GetImageFromArray(np.random.default_rng(1).normal(size=shape).astype(np.float32))
    image.SetSpacing((0.7, 1.1, 2.5))
    image.SetOrigin((-12.5, 30.0, 7.25))
    return sitk.DICOMOrient(image, code)


def rotated(seed, mirrored):
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    if (np.linalg.det(rotation) < 0) != mirrored:
        rotation[:, 0] *= -1
    image = image_in("LPS")
    image.SetDirection(rotation.ravel())
    return image


def geometry_of(image):
    axes, flips = nearest_lps(image.GetDirection())
    shape, spacing = image.GetSize()[::-1], image.GetSpacing()[::-1]
    return Geometry(
        shape=tuple(shape[axis] for axis in axes),
        spacing=tuple(spacing[axis] for axis in axes),
        itk_origin=image.GetOrigin(),
        itk_direction=image.GetDirection(),
        axes=axes,
        flips=flips,
    )


def assert_as_itk_orients(image):
    """ITK's own reorientation is the oracle for the array, the spacing and the frame."""
    geometry = geometry_of(image)
    oriented = sitk.DICOMOrient(image, "LPS")
    stored = sitk.GetArrayFromImage(image)
    array = to_lps(stored, geometry)
    np.testing.assert_array_equal(array, sitk.GetArrayFromImage(oriented))
    assert array.flags.c_contiguous
    assert geometry.shape == oriented.GetSize()[::-1]
    assert geometry.spacing == oriented.GetSpacing()[::-1]
    origin, direction = lps_frame(geometry)
    np.testing.assert_allclose(origin, oriented.GetOrigin(), atol=1e-9)
    np.testing.assert_allclose(direction.ravel(), oriented.GetDirection(), atol=1e-9)
    np.testing.assert_array_equal(to_stored(array, geometry), stored)
    assert geometry.itk_spacing == image.GetSpacing()


@pytest.mark.parametrize("code", ORIENTATIONS)
def test_every_orientation_is_brought_to_lps_as_itk_does_it(code):
    assert_as_itk_orients(image_in(code))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_an_oblique_volume_goes_to_the_nearest_axes_and_back(seed, mirrored):
    assert_as_itk_orients(rotated(seed, mirrored))


def test_all_48_permutations_and_flips_come_back():
    stored = np.arange(24).reshape(2, 3, 4)
    for axes in itertools.permutations(range(3)):
        for flips in itertools.product([False, True], repeat=3):
            geometry = Geometry((2, 3, 4), (1.0, 1.0, 1.0), axes=axes, flips=flips)
            np.testing.assert_array_equal(to_stored(to_lps(stored, geometry), geometry), stored)


def test_the_same_patient_in_any_orientation_is_on_the_same_grid():
    first = geometry_of(image_in("LPS"))
    for code in ORIENTATIONS:
        assert grid_difference(first, geometry_of(image_in(code))) is None


def test_grids_that_differ_are_told_apart_with_both_values():
    grid = Geometry((10, 20, 30), (3.0, 1.0, 0.9))
    turned = (0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0)
    for other, words in [
        (replace(grid, shape=(10, 20, 31)), "shape (10, 20, 30) against (10, 20, 31)"),
        (replace(grid, spacing=(3.0, 1.0, 1.0)), "spacing (3, 1, 0.9) against (3, 1, 1) mm"),
        (replace(grid, itk_direction=turned), "direction"),
        (replace(grid, itk_origin=(0.0, 0.5, 0.0)), "origin (0, 0, 0) against (0, 0.5, 0) mm"),
    ]:
        assert words in grid_difference(grid, other)
        assert grid_difference(grid, grid) is None


def test_the_rounding_of_a_float32_header_is_no_difference():
    grid = Geometry((10, 20, 30), (3.0, 1.0, 0.9), itk_origin=(-123.456789, 87.654321, 11.1))
    rounded = replace(
        grid,
        spacing=tuple(float(np.float32(s)) for s in grid.spacing),
        itk_origin=tuple(float(np.float32(o)) for o in grid.itk_origin),
    )
    assert grid_difference(grid, rounded) is None


def test_the_rounding_of_a_quaternion_does_not_move_a_volume_that_is_stored_reversed():
    angle = 4e-4  # the root of float32's epsilon, to which half a turn leaves its scalar part
    turned = (-1.0, 0.0, 0.0, 0.0, np.cos(angle), -np.sin(angle), 0.0, np.sin(angle), np.cos(angle))
    straight = (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    (axes, flips), shape = nearest_lps(straight), (400, 500, 500)
    first, second = (
        Geometry(shape, (1.0, 0.5, 0.5), (3.0, -40.0, 12.5), direction, axes, flips)
        for direction in (straight, turned)
    )
    assert flips[2]
    assert grid_difference(first, second) is None
    moved = replace(second, itk_origin=(3.0, -40.0, 12.52))
    assert "origin (3, -40, 12.5) against (3, -40, 12.52)" in grid_difference(first, moved)


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"shape": (0, 2, 3)}, "shape"),
        ({"spacing": (1.0, float("nan"), 1.0)}, "spacing"),
        ({"axes": (0, 0, 1)}, "axes"),
        ({"itk_direction": (1.0, 0.0)}, "itk_direction"),
    ],
)
def test_what_is_no_grid_is_refused_by_its_field(wrong, field):
    with pytest.raises(SettingError, match=rf"^{field} is none that a grid can have"):
        Geometry(**({"shape": (1, 2, 3), "spacing": (1.0, 1.0, 1.0)} | wrong))


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"codes": (1, 1_000_000)}, "codes"),
        ({"qform": ()}, "qform"),
        ({"sform": (1.0,) * 26}, "sform"),
        ({"pixdim": (1.0, 1e300, 1.0, 1.0)}, "pixdim"),
    ],
)
def test_forms_that_no_header_holds_are_refused_by_their_field(wrong, field):
    forms = {"codes": (1, 1), "pixdim": (1.0,) * 4, "qform": (0.0,) * 6, "sform": (0.0,) * 12}
    with pytest.raises(SettingError, match=rf"^{field} "):
        NiftiForms(**(forms | wrong))
