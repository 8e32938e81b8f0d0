from __future__ import annotations

import pytest
import torch
from gdmnet.objectives.gdm_options import GdmOptions
from objectives.small import PATCH, CountingEncoder, make_batch

from gdmnet.drifting.representations import Draw, Views, global_rows
from gdmnet.objectives.gdm_levels import level_losses, push_rows, ring_sizes
from gdmnet.objectives.gdm_state import DriftState

OPTIONS = GdmOptions(locations=64, bank=64, global_minimum=0)


def views(step: int = 0) -> Views:
    batch, encoder = make_batch(step), CountingEncoder()
    with torch.no_grad():
        maps = [encoder(volume) for volume in (batch.source, batch.target)]
    return Views(*maps, (batch.source, batch.target), batch.mask)


def draw(minimum: int = 32) -> Draw:
    return Draw(64, torch.Generator().manual_seed(0), (4, 4, 4), minimum=minimum)


def empty(options: GdmOptions = OPTIONS) -> DriftState:
    return DriftState(options.levels, ring_sizes(views(), draw(1), options))


def test_rings_are_as_wide_as_the_rows_and_as_long_as_the_options_say():
    sizes = ring_sizes(views(), draw(1), GdmOptions(bank_capacity=100, global_bank=20))
    assert sizes["global_mean_0"] == sizes["global_std_0_generated"] == (20, 4)
    assert sizes["local_std_1"] == sizes["spatial_2"] == (100, 6)
    assert "local_mean_0_generated" not in sizes
    assert ring_sizes(views(), draw(), GdmOptions(pairing="paired")) == {}


def test_losses_only_read_the_rings():
    state = empty()
    first = level_losses(views(), draw(), state, OPTIONS)
    assert set(first.losses) == {"global", "local", "spatial"}
    assert all(len(ring) == 0 for ring in state.rings.values())
    again = level_losses(views(), draw(), state, OPTIONS)
    assert {k: float(v) for k, v in first.losses.items()} == {
        k: float(v) for k, v in again.losses.items()
    }


def test_rings_take_targets_and_generated_rows_apart():
    state = empty()
    found = level_losses(views(), draw(), state, OPTIONS)
    push_rows(found.rows, state)
    for rows in global_rows(views(), draw()):
        assert torch.equal(state.ring(rows.name).rows[:2], rows.target)
        assert torch.equal(state.ring(rows.name + "_generated").rows[:2], rows.generated)
    assert len(state.ring("spatial_0")) == 64


@pytest.mark.parametrize("ring", ["global_mean_0", "global_mean_0_generated", "spatial_1"])
def test_what_lies_in_a_ring_moves_the_field(ring):
    level = ring.split("_")[0]
    state, other = empty(), empty()
    rng = torch.Generator().manual_seed(1)
    rows = torch.randn(20, state.ring(ring).rows.shape[1], generator=rng)
    other.ring(ring).push(rows)
    watched = [
        float(level_losses(views(), draw(), each, OPTIONS).watch[f"force_0.2_{level}"])
        for each in (state, other)
    ]
    assert watched[0] != pytest.approx(watched[1], rel=1e-3)


def test_global_rows_wait_until_their_rings_are_filled():
    options = GdmOptions(locations=64, global_minimum=4)
    state = empty(options)
    for step in range(3):
        found = level_losses(views(step), draw(), state, options)
        assert ("global" in found.losses) == (step == 2)
        assert found.waiting == (step < 2)
        push_rows(found.rows, state)


def test_rows_that_are_not_finite_are_told_and_give_no_loss():
    broken = views()
    broken.generated[1][0, 2, 1, 1, 1] = torch.nan
    found = level_losses(broken, draw(), empty(), OPTIONS)
    assert not found.finite
    assert found.losses == {}


def test_nothing_inside_the_mask_is_no_loss_but_no_fault():
    good = views()
    nothing = Views(good.generated, good.target, good.volumes, torch.zeros(2, 1, *PATCH))
    found = level_losses(nothing, draw(), empty(), OPTIONS)
    assert found.finite
    assert not found.waiting
    assert found.losses == {}
