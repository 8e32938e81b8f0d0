import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gdmnet.arrays.crop import crop
from gdmnet.arrays.pad import pad_to

SIDES = st.tuples(*[st.integers(1, 6)] * 3)


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
