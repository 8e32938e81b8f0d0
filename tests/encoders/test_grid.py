from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional

from gdmnet.encoders.grid import (
    RAS,
    SPL,
    UNCHANGED,
    AxisLayout,
    cut_padding,
    fit,
    resample,
    usable_stages,
    zoom_to,
)


def image(*shape):
    return torch.randn(2, 1, *shape, generator=torch.Generator().manual_seed(5))


def test_monais_axes_are_right_anterior_superior():
    z, y, x = 3, 4, 5
    coordinates = np.stack(np.meshgrid(*map(np.arange, (z, y, x)), indexing="ij"))
    volume = torch.tensor(coordinates, dtype=torch.float32)[None]  # towards S, P, L
    seen = RAS.to_network(volume)
    assert seen.shape == (1, 3, x, y, z)
    superior, posterior, left = seen[0]
    assert (left.diff(dim=0) == -1).all()  # the first axis runs to the right
    assert (posterior.diff(dim=1) == -1).all()  # the second to the front
    assert (superior.diff(dim=2) == 1).all()  # the third upwards
    assert torch.equal(volume.permute(0, 1, 4, 3, 2).flip(2, 3), seen)


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flipped", [(), (0,), (1, 2)])
def test_a_layout_is_undone_and_its_numbers_follow(axes, flipped):
    layout = AxisLayout(axes, flipped)
    x = image(3, 4, 5)
    seen = layout.to_network(x)
    assert tuple(seen.shape[2:]) == layout.reordered(x.shape[2:])
    assert torch.equal(layout.to_image(seen), x)
    assert layout.restored(layout.reordered((1, 2, 3))) == (1, 2, 3)
    assert SPL.to_network(x) is x or torch.equal(SPL.to_network(x), x)


@pytest.mark.parametrize("sizes", [(9, 14, 11), (6, 7, 16)])
def test_growing_axes_are_interpolated_between_voxel_centres(sizes):
    x = image(6, 7, 8)
    wanted = functional.interpolate(x, size=sizes, mode="trilinear", align_corners=False)
    torch.testing.assert_close(resample(x, sizes), wanted, rtol=1e-5, atol=1e-5)


def test_shrinking_axes_are_averaged_over_the_new_voxels_extent():
    x = image(12, 10, 7)
    thirds = functional.avg_pool3d(x, (3, 2, 1))
    torch.testing.assert_close(resample(x, (4, 5, 7)), thirds)
    fine = x.repeat_interleave(3, dim=4)  # in thirds: seven are a new voxel
    wanted = functional.avg_pool3d(fine, (1, 1, 7))
    torch.testing.assert_close(resample(x, (12, 10, 3)), wanted, rtol=1e-4, atol=1e-5)


def test_a_constant_image_stays_constant_and_means_are_kept():
    ones = torch.ones(1, 1, 9, 10, 11)
    for sizes in ((3, 20, 11), (5, 4, 3), (20, 21, 22)):
        torch.testing.assert_close(resample(ones, sizes), torch.ones(1, 1, *sizes))
    x = image(9, 10, 12)
    torch.testing.assert_close(resample(x, (4, 3, 5)).mean((2, 3, 4)), x.mean((2, 3, 4)))


def test_a_threefold_thinning_leaves_no_voxel_without_gradient():
    x = image(12, 12, 12).requires_grad_(True)
    resample(x, (4, 4, 4)).square().sum().backward()
    assert bool((x.grad != 0).all())


@pytest.mark.parametrize(
    ("spacing", "wanted", "zoom"),
    [
        ((1.0, 1.0, 1.0), None, (1.0, 1.0, 1.0)),
        ((1.5, 1.0, 0.7), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0)),
        ((1.6, 1.0, 0.7), (1.0, 1.0, 1.0), (1.6, 1.0, 0.7)),
        ((1.0, 1.0, 1.0), (3.0, 1.0, 1.0), (1 / 3, 1.0, 1.0)),
        ((0.6, 1.0, 1.0), (1.0, 1.0, 1.0), (0.6, 1.0, 1.0)),
    ],
)
def test_patches_are_resampled_only_where_spacings_differ(spacing, wanted, zoom):
    assert zoom_to(spacing, wanted) == pytest.approx(zoom)


def test_sizes_become_divisible_by_each_axis_own_stride():
    x = image(5, 12, 16)
    padded = fit(x, UNCHANGED, (1, 8, 16))
    assert padded.shape[2:] == (5, 16, 16)
    assert torch.equal(padded[:, :, :5, :12], x)
    assert torch.equal(padded[:, :, :, 12:], x[:, :, :, -1:].expand(-1, -1, -1, 4, -1))
    assert fit(image(1, 8, 8), UNCHANGED, (16, 8, 8)).shape[2:] == (16, 8, 8)
    assert fit(x, (3.0, 1.0, 0.4), (8, 4, 4)).shape[2:] == (16, 12, 8)
    assert fit(x, (0.1, 1.0, 1.0), (8, 4, 4)).shape[2:] == (8, 12, 16)


def test_what_lies_in_the_padding_is_cut_from_the_maps():
    padded = fit(image(5, 12, 16), UNCHANGED, (8, 8, 8))
    pooled = functional.avg_pool3d(padded, (2, 4, 8))
    assert cut_padding(pooled, (5, 12, 16), (2, 4, 8)).shape[2:] == (3, 3, 2)


@pytest.mark.parametrize(
    ("shape", "n"),
    [
        ((64, 64, 64), 5),
        ((32, 64, 64), 4),
        ((33, 64, 64), 4),
        ((49, 64, 64), 5),
        ((1, 64, 64), 5),
        ((2, 64, 64), 1),
        ((3, 3, 3), 1),
        ((1, 1, 1), 5),
    ],
)
def test_maps_have_four_positions_along_every_axis_that_has_them(shape, n):
    strides = [(2**s,) * 3 for s in range(5)]
    assert usable_stages(shape, strides) == n
