import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.transform import resize

from gdmnet.arrays.resample import lost_detail, resample, resample_mask, resampled_shape

SHAPES = st.tuples(*[st.integers(1, 12)] * 3)


def waves(shape, field_of_view):
    """A smooth function of the position in mm, at the voxels' centres."""
    z, y, x = np.meshgrid(
        *[(np.arange(n) + 0.5) * f / n for n, f in zip(shape, field_of_view, strict=True)],
        indexing="ij",
    )
    return (np.sin(z / 5) * np.cos(y / 7) + 0.3 * np.sin(x / 4 + z / 9)).astype(np.float32)


def by_skimage(image, shape, order):
    """The same by a library that walks over every voxel in float64."""
    factors = [max(0, (old / new - 1) / 2) for old, new in zip(image.shape, shape, strict=True)]
    return resize(
        image,
        shape,
        order=order,
        mode="edge",
        anti_aliasing=any(factors),
        anti_aliasing_sigma=factors if any(factors) else None,
        clip=True,
    )


@settings(deadline=None, max_examples=30)
@given(SHAPES, SHAPES, st.sampled_from([1, 3]), st.integers(0, 2**32 - 1))
def test_it_equals_the_slow_resampling_of_scikit_image(old, new, order, seed):
    image = np.random.default_rng(seed).normal(size=old).astype(np.float32)
    result = resample(image[None], new, order=order)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result[0], by_skimage(image, new, order), atol=2e-5)


@pytest.mark.parametrize(("order", "tolerance"), [(3, 5e-3), (1, 6e-2)])
def test_a_smooth_function_keeps_its_place_when_thick_slices_are_refined(order, tolerance):
    field_of_view = (60.0, 50.0, 40.0)
    thick = waves((20, 50, 40), field_of_view)  # 3 x 1 x 1 mm
    fine = resample(thick[None], (60, 50, 80), order=order)[0]
    error = np.abs(fine - waves((60, 50, 80), field_of_view))[18:-18, 6:-6, 12:-12]
    assert error.max() < tolerance  # of cubic: where a crest is clipped to the original range
    assert error.mean() < tolerance / 5


def test_cubic_beats_linear_through_the_slices():
    fine, field_of_view = (60, 20, 20), (60.0, 20.0, 20.0)
    thick = waves((15, 20, 20), field_of_view)[None]
    truth = waves(fine, field_of_view)
    errors = [np.abs(resample(thick, fine, order=o)[0] - truth)[8:-8].mean() for o in (1, 3)]
    assert errors[1] < 0.2 * errors[0]


def test_each_axis_has_its_own_factor():
    ramp = np.zeros((1, 4, 6, 8), dtype=np.float32)
    ramp += np.arange(4, dtype=np.float32).reshape(1, 4, 1, 1)
    result = resample(ramp, (8, 6, 4), order=1)[0]
    assert np.ptp(result, axis=0).min() == 3  # z is refined and keeps its whole range
    assert np.ptp(result, axis=(1, 2)).max() < 1e-6


def test_what_shrinks_is_smoothed_first():
    checkerboard = np.indices((1, 32, 32)).sum(axis=0).astype(np.float32)[None] % 2
    small = resample(checkerboard, (1, 8, 8))
    np.testing.assert_allclose(small[0, 0, 2:-2, 2:-2], 0.5, atol=0.05)


def test_the_cubic_overshoot_is_clipped_to_each_channel_s_own_range():
    step = np.zeros((2, 1, 4, 20), dtype=np.float32)
    step[0, ..., 10:] = 3000
    step[1, ..., 10:] = -1
    result = resample(step, (1, 9, 50))
    assert (result[0].min(), result[0].max()) == (0, 3000)
    assert (result[1].min(), result[1].max()) == (-1, 0)


@pytest.mark.parametrize("order", [1, 3])
def test_a_constant_and_the_flux_of_a_slice_stay(order, rng):
    constant = np.full((1, 3, 7, 5), -1024, dtype=np.float32)
    np.testing.assert_allclose(resample(constant, (5, 3, 11), order=order), -1024)
    single = rng.normal(size=(1, 1, 6, 6)).astype(np.float32)
    thick = resample(single, (4, 6, 6), order=order)[0]
    np.testing.assert_allclose(thick, np.repeat(single[0], 4, axis=0), atol=1e-6)


def test_the_same_shape_is_the_same_array(rng):
    array = rng.normal(size=(1, 3, 4, 5)).astype(np.float32)
    assert resample(array, (3, 4, 5)) is array


def test_no_copy_larger_than_the_result_is_made():
    array = np.zeros((1, 40, 60, 60), dtype=np.float32)
    tracemalloc.start()
    result = resample(array, (60, 90, 90))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.5 * result.nbytes


def test_another_order_is_refused():
    with pytest.raises(ValueError, match="order 0"):
        resample(np.zeros((1, 2, 2, 2), dtype=np.float32), (3, 3, 3), order=0)


def test_a_resampled_box_keeps_its_place_and_size():
    mask = np.zeros((10, 20, 20), dtype=np.uint8)
    mask[2:8, 5:15, 4:12] = 9
    fine = resample_mask(mask, (20, 40, 60))
    assert fine.dtype == np.uint8
    expected = np.zeros((20, 40, 60), dtype=np.uint8)
    expected[4:16, 10:30, 12:36] = 1
    # Linear interpolation rounds off the edges between faces by a voxel.
    assert (fine != expected).sum() < 0.06 * expected.sum()
    np.testing.assert_array_equal(fine[6:14, 14:26, 12:36], 1)
    np.testing.assert_array_equal(fine[:4], 0)


def test_masks_that_are_full_or_empty_stay_so():
    assert resample_mask(np.ones((3, 5, 7)), (1, 9, 2)).all()
    assert not resample_mask(np.zeros((3, 5, 7)), (1, 9, 2)).any()


def test_the_new_shape_covers_the_same_field_of_view_with_at_least_one_voxel():
    assert resampled_shape((48, 204, 168), (3.0, 1.0, 1.0), (1.0, 1.0, 2.0)) == (144, 204, 84)
    assert resampled_shape((1, 10, 10), (1.0, 1.0, 1.0), (5.0, 1.0, 1.0)) == (1, 10, 10)


@pytest.fixture
def image():
    return np.random.default_rng(3).normal(size=(1, 10, 24, 30)).astype(np.float32)


def test_what_a_coarser_grid_keeps_and_what_it_loses_make_the_image(image):
    coarse = (10, 12, 15)
    kept = resample(resample(image, coarse), image.shape[1:])
    np.testing.assert_allclose(kept + lost_detail(image, coarse), image, atol=1e-6)


def test_nothing_is_lost_on_an_equal_or_a_finer_grid(image):
    assert lost_detail(image, (10, 24, 30)) is None
    assert lost_detail(image, (20, 24, 31)) is None


def test_axes_that_become_finer_lose_nothing(image):
    np.testing.assert_array_equal(
        lost_detail(image, (30, 24, 15)), lost_detail(image, (10, 24, 15))
    )


def test_a_smooth_image_has_hardly_any_detail():
    z, y, x = np.meshgrid(*(np.linspace(0, 1, n) for n in (8, 40, 40)), indexing="ij")
    smooth = np.sin(2 * z + y + 3 * x)[None].astype(np.float32)
    assert np.abs(lost_detail(smooth, (8, 20, 20))[:, :, 2:-2, 2:-2]).max() < 0.01
