from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gdmnet.drifting.representations import (
    LEVELS,
    Candidates,
    Draw,
    Views,
    block_locations,
    block_window,
    coverage,
    draw_places,
    look,
    masked_moments,
    sample_weights,
)

SHAPE = (8, 12, 16)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(locations: int = 64, seed: int = 0, **options) -> Draw:
    return Draw(locations, rng(seed), **options)


def views(shape=SHAPE, mask=None, *, same: bool = False, kind=torch.float32) -> Views:
    """Two maps, the second at half the resolution, of a volume of this shape."""
    half = [max(1, side // 2) for side in shape]
    maps = [
        [
            torch.randn(2, c, *size, generator=rng(seed)).to(kind)
            for c, size in ((3, shape), (5, half))
        ]
        for seed in (1, 1 if same else 2)
    ]
    return Views(*maps, torch.ones(2, 1, *shape) if mask is None else mask)


def located(shape=SHAPE) -> torch.Tensor:
    """A map whose three channels are each location's own z, y and x; the sample adds 100."""
    grid = torch.stack(torch.meshgrid(*(torch.arange(float(n)) for n in shape), indexing="ij"))
    return torch.stack([grid, grid + 100])


@settings(max_examples=20, deadline=None)
@given(
    shape=st.tuples(*[st.integers(2, 7)] * 3),
    window=st.tuples(*[st.integers(1, 2)] * 3),
    data=st.data(),
)
def test_blocks_are_where_a_plain_loop_finds_them(shape, window, data):
    maps = located(shape)
    counts = [side // size for side, size in zip(shape, window, strict=True)]
    corner = [data.draw(st.integers(0, n - 1)) for n in counts]
    index = (corner[0] * counts[1] + corner[1]) * counts[2] + corner[2]
    (found,) = block_locations(shape, window, torch.tensor([index]))
    z, y, x = (slice(c * size, (c + 1) * size) for c, size in zip(corner, window, strict=True))
    assert torch.equal(maps[0].flatten(1)[:, found], maps[0, :, z, y, x].reshape(3, -1))


def test_moments_count_only_what_is_valid():
    maps = torch.randn(2, 3, *SHAPE, generator=rng()) * 5 + 40
    valid = torch.rand(2, 1, *SHAPE, generator=rng(1)) > 0.3
    mean, std = masked_moments(maps, sample_weights(valid.flatten(1)))
    for b in range(2):
        for c in range(3):
            inside = maps[b, c][valid[b, 0]].double()
            assert float(mean[b, c]) == pytest.approx(float(inside.mean()), rel=1e-5)
            expected = math.sqrt(float(inside.var(correction=0)) + 1e-6)
            assert float(std[b, c]) == pytest.approx(expected, rel=1e-4)


def test_the_slope_of_moments_is_the_numerical_one():
    maps = torch.randn(2, 2, 3, 2, 4, generator=rng(), dtype=torch.float64).requires_grad_()
    valid = torch.rand(2, 1, 3, 2, 4, generator=rng(1)) > 0.3
    valid[1] = False  # a sample without a valid location
    weights = torch.randn(2, 2, 2, generator=rng(2))

    def total(maps):
        moments = masked_moments(maps, sample_weights(valid.flatten(1)))
        return sum((w * m).sum() for w, m in zip(weights, moments, strict=True))

    (slope,) = torch.autograd.grad(total(maps), maps)
    for index in [(0, 0, 1, 1, 2), (0, 1, 0, 0, 0), (1, 1, 2, 0, 3)]:
        step = torch.zeros_like(maps)
        step[index] = 0.01
        numerical = (total((maps + step).detach()) - total((maps - step).detach())) / 0.02
        assert float(slope[index]) == pytest.approx(float(numerical), abs=2e-4)


def test_deviations_of_a_constant_have_a_finite_slope():
    maps = torch.zeros(2, 2, *SHAPE, requires_grad=True)
    both = Views([maps], [maps.detach()], torch.ones(2, 1, *SHAPE))
    for level in ("global", "local"):
        (rows,) = (entry for entry in LEVELS[level](both, draw()) if "std" in entry.name)
        (slope,) = torch.autograd.grad(rows.generated.sum(), maps)
        assert torch.isfinite(slope).all()
        assert torch.allclose(rows.generated, torch.full_like(rows.generated, 1e-3))


def test_local_rows_are_the_moments_of_blocks():
    both = views()
    rows = {entry.name: entry for entry in LEVELS["local"](both, draw(10_000, minimum=1))}
    assert set(rows) == {"local_mean_0", "local_std_0", "local_mean_1", "local_std_1"}
    for stage, (window, n) in enumerate([((4, 4, 4), 2 * 2 * 3 * 4), ((2, 3, 4), 2 * 2 * 2 * 2)]):
        blocks = []
        for maps in both.generated[stage]:
            z, y, x = (size for size in window)
            for k in range(maps.shape[1] // z):
                for j in range(maps.shape[2] // y):
                    for i in range(maps.shape[3] // x):
                        blocks.append(
                            maps[:, k * z : k * z + z, j * y : j * y + y, i * x : i * x + x]
                        )
        assert len(blocks) == n
        means = sorted(block.mean(dim=(1, 2, 3)).tolist() for block in blocks)
        stds = sorted(
            (block.flatten(1).var(1, correction=0) + 1e-6).sqrt().tolist() for block in blocks
        )
        for name, expected in (("mean", means), ("std", stds)):
            found = sorted(rows[f"local_{name}_{stage}"].generated.tolist())
            assert torch.allclose(torch.tensor(found), torch.tensor(expected), atol=1e-5)


def test_global_rows_are_the_moments_of_the_whole():
    both = views()
    rows = {entry.name: entry for entry in LEVELS["global"](both, draw())}
    assert list(rows) == ["global_mean_0", "global_std_0", "global_mean_1", "global_std_1"]
    expected = both.generated[1].mean(dim=(2, 3, 4))
    assert torch.allclose(rows["global_mean_1"].generated, expected, atol=1e-5)
    expected = (both.target[0].var(dim=(2, 3, 4), correction=0) + 1e-6).sqrt()
    assert torch.allclose(rows["global_std_0"].target, expected, atol=1e-5)


def test_spatial_rows_are_feature_vectors_at_equal_numbers_of_distinct_places():
    maps = located()
    both = Views([maps], [maps + 1000], torch.ones(2, 1, *SHAPE))
    (rows,) = LEVELS["spatial"](both, draw(64))
    assert rows.generated.shape == (64, 3)
    assert torch.equal(rows.generated + 1000, rows.target)
    assert len({tuple(row) for row in rows.generated.tolist()}) == 64
    assert int((rows.generated[:, 0] >= 100).sum()) == 32


@pytest.mark.parametrize("level", sorted(LEVELS))
def test_both_sides_come_from_the_same_places(level):
    for rows in LEVELS[level](views(same=True), draw()):
        assert torch.equal(rows.generated, rows.target)


@pytest.mark.parametrize("level", sorted(LEVELS))
def test_rows_are_float32_and_carry_the_gradient(level):
    both = views(kind=torch.bfloat16)
    for maps in both.generated:
        maps.requires_grad_(True)
    found = LEVELS[level](both, draw())
    assert found
    for rows in found:
        assert rows.generated.dtype == rows.target.dtype == torch.float32
        assert rows.generated.requires_grad
        assert not rows.target.requires_grad


@pytest.mark.parametrize("level", ["spatial", "local"])
def test_rows_lie_inside_the_mask(level):
    mask = torch.zeros(2, 1, *SHAPE)
    mask[:, :, :, :, 8:] = 1
    maps = torch.zeros(2, 1, *SHAPE) + 7 * mask
    rows = LEVELS[level](Views([maps], [maps], mask), draw(16, minimum=1))[0]
    inside = (rows.generated > 3.5).float().mean(dim=1)  # the coverage must exceed one half
    assert float(inside.min()) > 0.5
    assert rows.generated.shape[0] >= 8


def test_global_moments_lie_inside_the_mask_and_empty_samples_have_no_row():
    mask = torch.zeros(2, 1, *SHAPE)
    mask[1, :, :4] = 1
    maps = torch.randn(2, 3, *SHAPE) + 50 * (1 - mask)
    rows = LEVELS["global"](Views([maps], [maps], mask), draw())
    assert [entry.generated.shape for entry in rows] == [(1, 3), (1, 3)]
    assert torch.allclose(rows[0].generated[0], maps[1, :, :4].mean(dim=(1, 2, 3)), atol=1e-5)
    nothing = Views([maps], [maps], torch.zeros_like(mask))
    assert LEVELS["global"](nothing, draw()) == []


def test_a_map_with_too_few_places_is_left_out():
    mask = torch.zeros(2, 1, *SHAPE)
    mask[0, 0, 0, 0, :] = 1
    mask[1, 0, 0, 0, :15] = 1
    assert LEVELS["spatial"](views(mask=mask), draw()) == []
    mask[1, 0, 0, 0, 15] = 1
    (rows,) = LEVELS["spatial"](views(mask=mask), draw())
    assert rows.generated.shape[0] == 32


def test_coverage_is_the_share_of_the_mask():
    mask = torch.zeros(1, 1, 4, 4, 4)
    mask[0, 0, 0, :2, 0] = 1
    assert float(coverage(mask, (2, 2, 2))[0, 0, 0, 0, 0]) == pytest.approx(2 / 8)
    assert coverage(mask, (4, 4, 4)) is mask


@pytest.mark.parametrize(
    ("shape", "window"),
    [
        ((48, 48, 48), (4, 4, 4)),
        ((1, 48, 48), (1, 4, 4)),
        ((3, 7, 2), (1, 3, 1)),
        ((1, 1, 1), (1, 1, 1)),
    ],
)
def test_the_window_of_a_block_is_per_axis(shape, window):
    assert block_window(shape) == window


@pytest.mark.parametrize("shape", [(1, 48, 56), (3, 24, 32), (5, 8, 40)])
def test_thin_volumes_keep_every_level(shape):
    for level, rows_of in LEVELS.items():
        rows = rows_of(views(shape), draw(256))
        assert rows, level
        assert all(torch.isfinite(entry.generated).all() for entry in rows)


def test_blocks_of_one_location_have_no_deviation():
    found = LEVELS["local"](views((1, 3, 3)), draw(64, minimum=1))
    assert [entry.name for entry in found] == ["local_mean_0", "local_mean_1"]


@pytest.mark.parametrize("count", [40, 40_000])
def test_places_are_distinct_seeded_and_valid(count):
    valid = torch.zeros(3, count, dtype=torch.bool)
    valid[:, ::2] = True
    candidates = Candidates(valid, valid.sum(dim=1).tolist())
    places = draw_places(candidates, draw(30, minimum=1))
    assert places.shape == (30, 2)
    assert torch.equal(places[:, 0], torch.arange(3).repeat_interleave(10))
    assert len({tuple(place) for place in places.tolist()}) == 30
    assert bool(valid[places[:, 0], places[:, 1]].all())
    assert torch.equal(places, draw_places(candidates, draw(30, minimum=1)))
    assert not torch.equal(places, draw_places(candidates, draw(30, seed=1, minimum=1)))


@pytest.mark.parametrize(("locations", "n"), [(16, 15), (32, 30), (1, 3)])
def test_few_places_are_drawn_where_few_are_asked_for(locations, n):
    valid = torch.ones(3, 20, dtype=torch.bool)
    assert draw_places(Candidates(valid, [20] * 3), draw(locations)).shape == (n, 2)
    assert draw_places(Candidates(valid[:, :10], [10] * 3), draw(locations)) is None


def test_places_cover_the_whole_map_evenly():
    valid = torch.ones(1, 100_000, dtype=torch.bool)
    places = draw_places(Candidates(valid, [100_000]), draw(1000))[:, 1].double()
    assert places.shape == (1000,)
    assert float(places.mean()) == pytest.approx(50_000, rel=0.06)
    assert float(places.std()) == pytest.approx(100_000 / 12**0.5, rel=0.06)


def test_moments_of_half_precision_are_those_of_its_numbers():
    maps = (torch.randn(2, 3, *SHAPE, generator=rng()) + 4).bfloat16().requires_grad_()
    weights = sample_weights(torch.ones(2, math.prod(SHAPE), dtype=torch.bool))
    raised = maps.detach().float().requires_grad_()
    for found, expected in zip(
        masked_moments(maps, weights), masked_moments(raised, weights), strict=True
    ):
        assert torch.equal(found, expected)
    slopes = [
        torch.autograd.grad(masked_moments(m, weights)[1].sum(), m)[0] for m in (maps, raised)
    ]
    assert slopes[0].dtype is torch.bfloat16
    assert torch.allclose(slopes[0].float(), slopes[1], rtol=0.01)


class Itself(nn.Module):
    """An encoder whose only map is the volume."""

    def forward(self, x):
        return [x * 1.0]


def test_outside_the_mask_the_encoder_sees_the_target_and_sends_nothing_back():
    mask = torch.zeros(2, 1, *SHAPE)
    mask[..., 8:] = 1
    target, generated = (torch.randn(2, 1, *SHAPE, generator=rng(seed)) for seed in (1, 2))
    generated.requires_grad_(True)
    found = look(Itself(), generated, target, mask)
    assert torch.equal(found.target[0], target)
    assert torch.equal(found.generated[0], torch.where(mask > 0, generated, target))
    (slope,) = torch.autograd.grad(found.generated[0].sum(), generated)
    assert torch.equal(slope, mask)
    assert not found.target[0].requires_grad
