import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gdmnet.planning.topology import is_thin, topology, total_stride

SPACINGS = st.tuples(*[st.sampled_from([0.4, 0.7, 1.0, 1.6, 2.5, 5.0, 9.0])] * 3)
PATCHES = st.tuples(*[st.integers(1, 300)] * 3)


def test_an_isotropic_patch_is_halved_on_all_axes_down_to_four_voxels():
    patch, kernels, strides = topology((1, 1, 1), (128, 128, 128))
    assert patch == (128, 128, 128)
    assert strides == ((1, 1, 1),) + ((2, 2, 2),) * 5
    assert set(kernels) == {(3, 3, 3)}


def test_a_coarse_axis_waits_until_the_others_have_caught_up():
    patch, kernels, strides = topology((5.0, 0.7, 0.7), (24, 256, 256))
    assert patch == (24, 256, 256)
    assert kernels == ((1, 3, 3),) * 2 + ((3, 3, 3),) * 5
    assert strides == ((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2), (1, 2, 2))


def test_the_coarse_axis_may_be_any():
    patch, kernels, strides = topology((0.7, 0.7, 5.0), (256, 256, 24))
    turned = topology((5.0, 0.7, 0.7), (24, 256, 256))
    assert patch == turned[0][::-1]
    assert kernels == tuple(kernel[::-1] for kernel in turned[1])
    assert strides == tuple(stride[::-1] for stride in turned[2])


def test_a_single_last_axis_is_halved_from_twelve_voxels_on():
    assert topology((1, 1, 1), (7, 7, 11))[2] == ((1, 1, 1),)
    assert topology((1, 1, 1), (7, 7, 12))[2] == ((1, 1, 1), (1, 1, 2))


def test_a_short_fine_axis_does_not_keep_the_others_from_depth():
    _, _, strides = topology((1.0, 4.0, 4.0), (11, 96, 64))
    assert total_stride(strides) == (1, 16, 16)


def test_an_axis_of_twice_the_spacing_waits_for_one_stage():
    _, kernels, strides = topology((2.0, 1.0, 1.0), (64, 64, 64), max_stages=3)
    assert kernels == ((1, 3, 3), (3, 3, 3), (3, 3, 3))
    assert strides == ((1, 1, 1), (1, 2, 2), (2, 2, 2))


def test_odd_sizes_are_halved_upwards():
    patch, _, strides = topology((1, 1, 1), (15, 15, 15))  # 15, 8, 4
    assert total_stride(strides) == (4, 4, 4)
    assert patch == (16, 16, 16)


def test_the_patch_is_padded_up_to_the_total_stride():
    patch, _, strides = topology((1, 1, 1), (50, 61, 64), max_stages=4)
    assert total_stride(strides) == (8, 8, 8)
    assert patch == (56, 64, 64)


@pytest.mark.parametrize("slices", [1, 2, 5, 9, 10])
@pytest.mark.parametrize("thickness", [0.5, 1.0, 5.0])
def test_a_thin_stack_is_treated_slice_by_slice(slices, thickness):
    for axis in range(3):
        shape = tuple(np.insert([64, 96], axis, slices))
        spacing = tuple(np.insert([1.0, 1.0], axis, thickness))
        patch, kernels, strides = topology(spacing, shape)
        assert patch[axis] == slices
        assert {kernel[axis] for kernel in kernels} == {1}
        assert {stride[axis] for stride in strides} == {1}
        assert len(strides) >= 4


def test_small_cubes_are_not_thin():
    assert not is_thin((8, 8, 8), 0)
    assert is_thin((8, 32, 32), 0)
    assert not is_thin((8, 32, 32), 1)
    assert is_thin((1, 1, 1), 2)


@settings(max_examples=60, deadline=None)
@given(SPACINGS, PATCHES, st.sampled_from([None, 1, 4]))
def test_what_holds_for_every_topology(spacing, wished, max_stages):
    patch, kernels, strides = topology(spacing, wished, max_stages=max_stages)
    stride = total_stride(strides)
    assert strides[0] == (1, 1, 1)
    assert len(kernels) == len(strides) <= (max_stages or 99)
    for axis in range(3):
        assert patch[axis] % stride[axis] == 0
        assert wished[axis] <= patch[axis] < wished[axis] + stride[axis]
        assert stride[axis] == 1 or patch[axis] // stride[axis] >= 4
        of_axis = [kernel[axis] for kernel in kernels]
        assert of_axis == sorted(of_axis)  # once 3, always 3
        if wished[axis] == 1:
            assert set(of_axis) == {1}
