import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gdmnet.arrays.crop import bounding_box, crop, pad_to, uncrop

SIDES = st.tuples(*[st.integers(1, 6)] * 3)


def slow_box(mask, margin):
    voxels = np.argwhere(mask)
    low = np.maximum(voxels.min(axis=0) - margin, 0)
    high = np.minimum(voxels.max(axis=0) + 1 + margin, mask.shape)
    return tuple((int(a), int(b)) for a, b in zip(low, high, strict=True))


@settings(deadline=None, max_examples=50)
@given(SIDES, st.tuples(*[st.integers(0, 3)] * 3), st.integers(0, 2**32 - 1))
def test_the_box_is_the_extent_of_the_mask_plus_the_margin(shape, margin, seed):
    mask = np.random.default_rng(seed).random(shape) < 0.2
    mask[tuple(n // 2 for n in shape)] = True
    assert bounding_box(mask, margin) == slow_box(mask, margin)


@settings(deadline=None, max_examples=50)
@given(SIDES, st.integers(0, 2**32 - 1))
def test_what_is_cropped_is_put_back_with_the_fill_around_it(shape, seed):
    generator = np.random.default_rng(seed)
    array = generator.normal(size=(2, *shape)).astype(np.float32)
    mask = generator.random(shape) < 0.3
    mask[0, -1, 0] = True
    box = bounding_box(mask)
    inside = np.zeros(shape, dtype=bool)
    inside[tuple(slice(a, b) for a, b in box)] = True
    back = uncrop(crop(array, box), box, shape, -7.0)
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back, np.where(inside, array, np.float32(-7)))


def test_a_crop_is_a_view():
    array = np.zeros((1, 4, 5, 6))
    crop(array, ((1, 2), (2, 4), (0, 6)))[...] = 1
    assert array.sum() == 12


def test_an_empty_mask_has_no_box():
    with pytest.raises(ValueError, match="empty"):
        bounding_box(np.zeros((2, 3, 4)))


def test_an_array_of_another_size_than_the_box_is_refused():
    box = ((0, 2), (0, 2), (0, 2))
    with pytest.raises(ValueError, match="for a box of shape"):
        uncrop(np.zeros((1, 2, 2)), box, (4, 4, 4), 0)
    with pytest.raises(ValueError, match="leaves the shape"):
        uncrop(np.zeros((2, 2, 2)), box, (4, 1, 4), 0)


@settings(deadline=None, max_examples=50)
@given(SIDES, SIDES)
def test_the_original_lies_in_its_box_amid_each_channel_s_own_fill(shape, least):
    array = np.full((2, *shape), 5, dtype=np.float32)
    padded, box = pad_to(array, least, (-1.0, 3.0))
    assert padded.shape == (2, *np.maximum(shape, least))
    np.testing.assert_array_equal(crop(padded, box), array)
    n_new = padded[0].size - array[0].size
    assert (padded[0] == -1).sum() == n_new
    assert (padded[1] == 3).sum() == n_new


def test_the_original_is_centred():
    _, box = pad_to(np.zeros((1, 2, 3, 4)), (6, 4, 2), [0])
    assert box == ((2, 4), (0, 3), (0, 4))


def test_an_array_that_is_large_enough_is_not_copied():
    array = np.zeros((1, 4, 4, 4))
    assert pad_to(array, (4, 1, 3), [0])[0] is array


def test_each_channel_needs_a_fill():
    with pytest.raises(ValueError, match="1 fill values for 2 channels"):
        pad_to(np.zeros((2, 1, 1, 1)), (2, 2, 2), [0])
