from __future__ import annotations

import pytest
import torch
from objectives.small import PATCH, CountingEncoder, make_batch

from gdmnet.drifting.representations import Draw, Views, global_rows, look
from gdmnet.objectives import gdm_levels
from gdmnet.objectives.gdm_levels import (
    LevelLosses,
    LevelRows,
    draw_rows,
    level_losses,
    push_rows,
    ring_sizes,
)
from gdmnet.objectives.gdm_state import DriftState
from gdmnet.objectives.options import GdmOptions

OPTIONS = GdmOptions(locations=64, bank=64)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(gdm_levels, "GLOBAL_MINIMUM", 0)


def views(step: int = 0) -> Views:
    batch = make_batch(step)
    with torch.no_grad():
        return look(CountingEncoder(), batch.source, batch.target, batch.mask)


def draw(minimum: int = 32) -> Draw:
    return Draw(64, torch.Generator().manual_seed(0), minimum)


def empty(options: GdmOptions = OPTIONS) -> DriftState:
    return DriftState(options.levels, ring_sizes(views(), draw(1), options))


def losses_of(seen: Views, state: DriftState, options=OPTIONS) -> tuple[LevelRows, LevelLosses]:
    one = draw()
    rows = draw_rows(seen, one, state, options.levels)
    return rows, level_losses(rows, one, state, options)


def test_rings_are_as_wide_as_the_rows():
    sizes = ring_sizes(views(), draw(1), OPTIONS)
    assert sizes["global_mean_0"] == sizes["global_std_0_generated"] == (64, 4)
    assert sizes["local_std_1"] == sizes["spatial_2"] == (2048, 6)
    assert "local_mean_0_generated" not in sizes
    assert ring_sizes(views(), draw(), GdmOptions(pairing="paired")) == {}


def test_losses_only_read_the_rings():
    state = empty()
    _, first = losses_of(views(), state)
    assert set(first.losses) == {"global", "local", "spatial"}
    assert all(len(ring) == 0 for ring in state.rings.values())
    _, again = losses_of(views(), state)
    assert {k: float(v) for k, v in first.losses.items()} == {
        k: float(v) for k, v in again.losses.items()
    }


def test_rings_take_targets_and_generated_rows_apart():
    state = empty()
    push_rows(losses_of(views(), state)[0], state)
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
        float(losses_of(views(), each)[1].watch[f"force_0.2_{level}"]) for each in (state, other)
    ]
    assert watched[0] != pytest.approx(watched[1], rel=1e-3)


def test_global_rows_wait_until_their_rings_are_filled(monkeypatch):
    monkeypatch.setattr(gdm_levels, "GLOBAL_MINIMUM", 4)
    state = empty()
    for step in range(3):
        rows, found = losses_of(views(step), state)
        assert ("global" in found.losses) == (step == 2)
        assert found.waiting == (step < 2)
        assert found.due  # of the other levels
        push_rows(rows, state)
    alone = GdmOptions(levels=("global",))
    assert not losses_of(views(), empty(alone), alone)[1].due


def test_rows_that_are_not_finite_give_no_loss_and_fill_no_ring():
    broken, state = views(), empty()
    broken.generated[1][0, 2, 1, 1, 1] = torch.nan
    rows, found = losses_of(broken, state)
    push_rows(rows, state)
    assert found.losses == {}
    assert found.due
    assert all(len(ring) == 0 for ring in state.rings.values())
    assert state.named == set()


def test_nothing_inside_the_mask_is_no_loss():
    good, state = views(), empty()
    _, found = losses_of(Views(good.generated, good.target, torch.zeros(2, 1, *PATCH)), state)
    assert not found.waiting
    assert found.losses == {}
    assert state.named == {"global", "local", "spatial"}
