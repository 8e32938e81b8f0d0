from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from encoders.fakes import BODIES, CT, MR, fingerprint
from torch import nn
from torch.nn import functional

from gdmnet.arrays import normalise
from gdmnet.encoders.adapter import (
    RAS,
    SPL,
    UNCHANGED,
    AxisLayout,
    EncoderAdapter,
    HuWindow,
    IntensityMap,
    ZScore,
    fit,
    intensity_map,
    moments,
    resample,
    usable_stages,
    zoom_to,
)
from gdmnet.errors import PlanError
from gdmnet.plan import Normalisation


class Pyramid(nn.Module):
    """Means of growing blocks: what a map shows is where it lies."""

    strides = ((1, 1, 1), (1, 1, 2), (1, 2, 4))

    def forward(self, x):
        self.seen = x
        return [nn.functional.avg_pool3d(x, stride) for stride in self.strides]


def adapter(*values, **bounds):
    intensities = IntensityMap(*(values or (1.0, 0.0)), **bounds)
    strides = dict(enumerate(Pyramid.strides))
    return EncoderAdapter(Pyramid(), strides, intensities=intensities, layout=RAS)


def image(*shape, seed=5):
    return torch.randn(2, 1, *shape, generator=torch.Generator().manual_seed(seed))


def test_maps_come_back_in_the_images_axes_and_place():
    x = image(8, 6, 5)
    made = adapter()
    fine, middle, coarse = made(x)
    assert torch.equal(made.network.seen, x.permute(0, 1, 4, 3, 2).flip(2, 3))
    assert torch.equal(fine, x)
    torch.testing.assert_close(middle, nn.functional.avg_pool3d(x, (2, 1, 1)))
    torch.testing.assert_close(coarse, nn.functional.avg_pool3d(x, (4, 2, 1)))


def test_padding_lies_at_the_networks_end_and_is_cut_off():
    x = image(5, 5, 3)
    fine, middle, coarse = adapter()(x)
    assert torch.equal(fine, x)
    assert middle.shape[2:] == (3, 5, 3)
    assert coarse.shape[2:] == (2, 3, 3)
    # y is flipped: the network's last location, half of it padding, is the image's first
    whole = nn.functional.avg_pool3d(x[:, :, :4, 1:], (4, 2, 1))
    torch.testing.assert_close(coarse[:, :, :1, 1:], whole)


def test_intensities_are_mapped_and_clamped_before_the_network():
    x = image(8, 4, 4)
    made = adapter(2.0, 0.5, low=0.0, high=1.0)
    fine = made(x)[0]
    torch.testing.assert_close(fine, (2 * x + 0.5).clamp(0, 1))


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


CTFM = HuWindow(-1024.0, 2048.0)


def seen(mapped, value):
    return min(max(mapped.scale * value + mapped.offset, mapped.low), mapped.high)


def in_units(hu, target=CT):
    return float(normalise.apply(np.array([hu]), target)[0])


@pytest.mark.parametrize(
    ("hu", "wanted"), [(-1024, 0), (2048, 1), (0, 1 / 3), (3000, 1), (-3000, 0), (1024, 2 / 3)]
)
def test_hounsfield_units_arrive_in_the_encoders_window(hu, wanted):
    assert seen(intensity_map(CTFM, CT, BODIES, name="x"), in_units(hu)) == pytest.approx(
        wanted, abs=1e-6
    )


def test_nnunets_window_is_a_clip_and_a_z_score():
    low, high, mean, std = -900.0, 1300.0, -50.0, 200.0
    expects = HuWindow(low, high, (low - mean) / std, (high - mean) / std)
    mapped = intensity_map(expects, CT, BODIES, name="x")
    for hu in (-1000, -900, -50, 0, 77, 1300, 2500):
        wanted = (np.clip(hu, low, high) - mean) / std
        assert seen(mapped, in_units(hu)) == pytest.approx(wanted, abs=1e-5)


def test_a_narrow_window_is_warned_of(caplog):
    mapped = intensity_map(HuWindow(-175.0, 250.0), CT, BODIES, name="voco")
    assert mapped.outside == pytest.approx(1 - 425 / 2150)
    assert "encoder voco: 80 % of the target's range lie outside" in caplog.text
    caplog.clear()
    assert intensity_map(CTFM, CT, BODIES, name="x").outside == 0
    assert intensity_map(HuWindow(-800.0, 1200.0), CT, BODIES, name="x").outside < 0.1
    assert not caplog.text
    assert intensity_map(CTFM, CT, None, name="x").outside == pytest.approx(1023 / 4095)
    assert intensity_map(HuWindow(2000.0, 3000.0), CT, BODIES, name="x").outside == 1


def test_targets_without_hounsfield_units_are_refused_by_encoders_of_ct():
    with pytest.raises(PlanError, match=r"encoder ctfm: .*percentiles.*gdm_info --encoders"):
        intensity_map(CTFM, MR, BODIES, name="ctfm")
    with pytest.raises(PlanError, match=r"fingerprint\.json"):
        intensity_map(ZScore(), MR, None, name="x")


@pytest.mark.parametrize("whole", [True, False])
def test_a_z_score_is_that_of_the_training_targets_in_network_units(whole):
    """Two volumes of body and air, by hand."""
    rng = np.random.default_rng(0)
    values, facts = [], []
    for mean, n_body, n_air in ((100.0, 3000, 7000), (260.0, 8000, 2000)):
        body, air = rng.normal(mean, 50, n_body), np.full(n_air, -1000.0)
        volume = np.concatenate([body, air]) if whole else body
        values.append((volume - CT.centre) / CT.scale)
        share = n_body / (n_body + n_air)
        facts.append((body.mean(), body.std(), -950.0, -900.0, 900.0, 1200.0, -1000.0, share))
    mapped = intensity_map(ZScore(whole=whole), CT, fingerprint(*facts), name="x")
    mean = np.mean([v.mean() for v in values])
    std = np.sqrt(np.mean([np.mean(v**2) for v in values]) - mean**2)
    for x in (-1.0, 0.0, 2.5):
        assert seen(mapped, x) == pytest.approx((x - mean) / std, rel=1e-5)


def test_each_case_of_an_mr_is_scored_in_its_own_units():
    """The second scanner is ten times brighter, which the network never sees."""
    first = (300.0, 100.0, 5.0, 10.0, 510.0, 600.0, 0.0, 0.5)
    second = (*(10 * value for value in first[:-1]), 0.5)
    mean, std = moments(fingerprint(first, second), MR, whole=False)
    assert (mean, std) == pytest.approx(((300 - 10) / 500, 100 / 500))
    mean, _ = moments(fingerprint(first, second), MR, whole=True)
    assert mean == pytest.approx(0.5 * 290 / 500 + 0.5 * -10 / 500)


def test_a_z_scored_target_is_left_as_it_is_and_air_is_clipped_to_the_plan():
    scored = Normalisation("zscore", 0.0, 1.0, None, None, 0.0)
    facts = (300.0, 100.0, 5.0, 10.0, 510.0, 600.0, 0.0, 1.0)
    assert moments(fingerprint(facts), scored, whole=False) == pytest.approx((0.0, 1.0))
    below = (0.0, 300.0, -950.0, -900.0, 900.0, 1200.0, -3000.0, 0.5)
    mean, _ = moments(fingerprint(below), CT, whole=True)
    assert mean == pytest.approx((0.5 * 0 + 0.5 * -1024 + 200) / 400)


def test_a_flat_target_does_not_divide_by_zero():
    flat = fingerprint((5.0, 0.0, 5.0, 5.0, 5.0, 5.0, 5.0, 1.0))
    mapped = intensity_map(ZScore(), MR, flat, name="x")
    assert math.isfinite(mapped.scale)
    assert math.isfinite(mapped.offset)
