import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gdmnet.training.patches import patch_start, read_patch

sizes = st.tuples(*[st.integers(1, 9)] * 3)


@settings(max_examples=60, deadline=None)
@given(sizes, sizes, st.data())
def test_a_patch_lies_inside_a_larger_volume_and_contains_its_centre(patch, shape, data):
    centre = [data.draw(st.integers(0, n - 1)) for n in shape]
    start = patch_start(centre, patch, shape)
    for first, size, length, middle in zip(start, patch, shape, centre, strict=True):
        assert first <= middle < first + size
        if length >= size:
            assert 0 <= first <= length - size
        else:  # the volume lies in the middle of the patch
            before, after = -first, first + size - length
            assert before >= 0
            assert after - before in (0, 1)


def test_a_centre_far_from_the_border_is_the_patch_centre():
    assert patch_start((10, 20, 30), (4, 6, 8), (40, 40, 60)) == (8, 17, 26)


@settings(max_examples=60, deadline=None)
@given(sizes, sizes, st.tuples(*[st.integers(-12, 12)] * 3))
def test_reading_equals_slicing_a_generously_padded_volume(shape, size, start):
    rng = np.random.default_rng(0)
    array = rng.normal(size=(2, *shape)).astype(np.float32)
    fill = [-3.0, 7.0]
    margin = 25
    padded = np.stack(
        [np.pad(channel, margin, constant_values=f) for channel, f in zip(array, fill, strict=True)]
    )
    box = tuple(slice(margin + s, margin + s + n) for s, n in zip(start, size, strict=True))
    expected = padded[(slice(None), *box)]
    np.testing.assert_array_equal(read_patch(array, start, size, fill), expected)
    np.testing.assert_array_equal(read_patch(array[1], start, size, 7.0), expected[1])


def test_a_patch_is_a_copy():
    array = np.zeros((1, 4, 4, 4), np.float32)
    read_patch(array, (0, 0, 0), (4, 4, 4), [0.0])[...] = 1
    assert not array.any()
