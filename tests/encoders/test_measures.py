from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from gdmnet.encoders import measures

SHAPE = (4, 6, 8)  # unequal sides: a swapped axis shows


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(4, 1, *SHAPE, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def bodies(images) -> torch.Tensor:
    return torch.ones_like(images, dtype=torch.bool)


def test_effective_rank_counts_independent_channels():
    generator = torch.Generator().manual_seed(0)
    independent = torch.randn(5000, 8, generator=generator)
    assert measures.effective_rank(independent) == pytest.approx(8, rel=0.01)
    scaled = independent * torch.arange(1, 9)
    assert measures.effective_rank(scaled) == pytest.approx(8, rel=0.01)
    one = independent[:, :1] * torch.arange(1.0, 9)
    assert measures.effective_rank(one) == pytest.approx(1, abs=0.02)
    two = torch.cat([independent[:, :1].expand(-1, 4), independent[:, 1:2].expand(-1, 4)], 1)
    assert measures.effective_rank(two) == pytest.approx(2, rel=0.02)


def test_tissue_shares_are_read_from_a_map_that_holds_them_and_not_from_noise(images, bodies):
    edges = (-0.7, 0.0, 0.7)
    shares = functional.one_hot(torch.bucketize(images[:, 0], torch.tensor(edges)), 4)
    pooled = functional.avg_pool3d(shares.movedim(-1, 1).float(), (1, 2, 2))
    assert measures.tissue_read_out(pooled, images, bodies, edges) > 0.95
    noise = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(3))
    assert measures.tissue_read_out(noise, images, bodies, edges) < 0.1
    flipped = pooled.flip(4)  # the tokens must be those of the same place
    assert measures.tissue_read_out(flipped, images, bodies, edges) < 0.2


def test_tissue_is_read_inside_the_body_only(images, bodies):
    edges = (0.0,)
    shares = functional.one_hot(torch.bucketize(images[:, 0], torch.tensor(edges)), 2)
    feature_map = shares.movedim(-1, 1).float()
    feature_map[..., :4] = 0
    bodies[..., :4] = False
    assert measures.tissue_read_out(feature_map, images, bodies, edges) > 0.95
    assert measures.tissue_read_out(feature_map[:1], images[:1], bodies[:1], edges) == 0.0


def test_in_painting_is_the_visible_neighbours_weighted_mean(images):
    hidden = torch.zeros_like(images, dtype=torch.bool)
    hidden[:, :, 1:3, 2:4, 3:6] = True
    filled = measures.inpainted(images, hidden, (0.5, 1.0, 1.5))
    changed = torch.where(hidden, 50.0, images)
    torch.testing.assert_close(measures.inpainted(changed, hidden, (0.5, 1.0, 1.5)), filled)
    z, y, x = np.ogrid[:4, :6, :8]
    place = (1, 3, 4)
    # The obvious way, far from the borders' mirror in x; the truncation is scipy's at 4 sigma.
    weight = np.exp(-0.5 * (((z - 1) / 0.5) ** 2 + ((y - 3) / 1.0) ** 2 + ((x - 4) / 1.5) ** 2))
    weight = weight * ~hidden[0, 0].numpy()
    by_hand = (weight * images[0, 0].numpy()).sum() / weight.sum()
    assert float(filled[0, 0][place]) == pytest.approx(by_hand, abs=0.1)


def test_where_nothing_is_near_the_visible_mean_stands():
    images = torch.full((1, 1, 1, 1, 40), 3.0)
    hidden = torch.ones_like(images, dtype=torch.bool)
    hidden[..., 0] = False
    filled = measures.inpainted(images, hidden, (1.0, 1.0, 1.0))
    torch.testing.assert_close(filled, images)


def test_gradients_are_counted_by_voxel(images):
    assert measures.gradient_coverage(nn.Conv3d(1, 2, 3, padding=1), images[:1]) == 1.0

    class Half(nn.Module):
        def forward(self, x):
            return [x[..., :4], x[..., :2] * 2]

    assert measures.gradient_coverage(Half(), images[:1]) == 0.5


def test_distance_is_zero_for_equal_maps_and_measured_in_the_channels_spread(images, bodies):
    feature_map = torch.cat([images, 100 * images], dim=1)
    chosen = measures.inside(bodies, feature_map)
    assert measures.distance(feature_map, feature_map, chosen) == 0
    moved = feature_map + torch.tensor([1.0, 100.0]).reshape(1, 2, 1, 1, 1)
    wanted = 1 / float(images.std(correction=0))
    assert measures.distance(feature_map, moved, chosen) == pytest.approx(wanted, rel=1e-4)


def test_blur_noise_and_shift_are_what_they_are_called(images, bodies):
    copies = measures.degradations(images, bodies)
    assert copies["blur"].std() < 0.5 * images.std()
    ratio = (copies["noise"] - images).std() / images.std()
    assert float(ratio) == pytest.approx(measures.NOISE, rel=0.1)
    assert torch.equal(copies["shift"][..., 1:], images[..., :-1])


def test_a_dead_channel_is_counted(images):
    feature_map = torch.cat([images, torch.full_like(images, 7), 1e-6 * images], dim=1)
    assert measures.n_dead(feature_map) == 2
