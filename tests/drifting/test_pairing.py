from __future__ import annotations

import pytest
import torch

from gdmnet.drifting.field import drift_loss
from gdmnet.drifting.pairing import PAIRINGS, Field, rows_loss, scaled_floor
from gdmnet.drifting.representations import Rows

TAUS = (0.05, 0.2)


def example(n: int = 12, s: int = 5) -> tuple[Rows, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(n, s, generator=rng), torch.randn(n, s, generator=rng) + 0.5
    past = torch.randn(20, s, generator=rng) + 0.5, torch.randn(9, s, generator=rng)
    return Rows("map", x.requires_grad_(True), y), *past


def gradient(pairing: str, rows: Rows, *past: torch.Tensor) -> torch.Tensor:
    loss, _ = rows_loss(rows, *past, Field(PAIRINGS[pairing], TAUS))
    return torch.autograd.grad(loss, rows.generated)[0]


def test_paired_is_a_feature_regression_of_unit_force():
    rows, *past = example()
    found = gradient("paired", rows, *past)
    away = (rows.generated - rows.target).detach()
    n, s = away.shape
    scale = away.norm(dim=1).add(1e-4).mean() / 2 / s**0.5  # self and target: half of the mean
    expected = 2 * len(TAUS) * away / away.square().mean().sqrt() / (scale * n * s)
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-6)


def test_pooled_is_one_problem_with_past_rows():
    rows, targets, generated = example()
    positives = torch.cat([rows.target, targets])[None]
    expected, info = drift_loss(
        rows.generated[None], positives, generated[None], temperatures=TAUS, affinity_floor=1e-6
    )
    loss, watch = rows_loss(rows, targets, generated, Field(PAIRINGS["pooled"], TAUS, 1e-6))
    assert float(loss.detach()) == float(expected.detach())
    assert watch == info


def test_hybrid_is_the_mean_of_both():
    example_rows = example()
    both = [gradient(name, *example_rows) for name in ("pooled", "paired")]
    assert torch.allclose(gradient("hybrid", *example_rows), sum(both) / 2, rtol=1e-5, atol=1e-7)


def test_past_generated_rows_repel_in_the_pool():
    rows, targets, generated = example()
    without = gradient("pooled", rows, targets, generated[:0])
    assert not torch.allclose(gradient("pooled", rows, targets, generated), without, rtol=0.1)


def test_by_place_each_place_is_a_problem_of_its_own():
    rows, targets, generated = example(n=12)
    rows = Rows("map", rows.generated, rows.target, samples=3)  # 4 places of 3 samples
    loss, _ = rows_loss(rows, targets, generated, Field(PAIRINGS["per_location"], TAUS, 1e-6))
    x, y = (part.reshape(3, 4, -1).permute(1, 0, 2) for part in (rows.generated, rows.target))
    expected, _ = drift_loss(x, y, temperatures=TAUS, affinity_floor=1e-6)
    assert float(loss.detach()) == pytest.approx(float(expected.mean().detach()))


def test_by_place_a_row_a_sample_is_one_pool_with_past_rows():
    rows, targets, generated = example(n=3)
    rows = Rows("global", rows.generated, rows.target, samples=3)
    kinds = [Field(PAIRINGS[name], TAUS) for name in ("per_location", "pooled")]
    losses = [rows_loss(rows, targets, generated, kind)[0] for kind in kinds]
    assert float(losses[0].detach()) == float(losses[1].detach())


@pytest.mark.parametrize(("n", "floor"), [(1, 1e-6), (64, 1e-6), (128, 2.5e-7), (640, 1e-8)])
def test_the_floor_shrinks_with_the_square_of_the_positives(n, floor):
    assert scaled_floor(n) == pytest.approx(floor)


def test_the_scaled_floor_is_used_unless_one_is_given():
    rows, targets, generated = example(n=60, s=5)
    targets = targets.repeat(20, 1) + 0.1 * torch.randn(400, 5)
    kinds = [Field(PAIRINGS["pooled"], (0.02,), floor) for floor in (-1.0, scaled_floor(460), 1e-6)]
    losses = [rows_loss(rows, targets, generated, kind)[1]["floor_share_0.02"] for kind in kinds]
    assert float(losses[0]) == float(losses[1])
    assert float(losses[0]) < 0.5 * float(losses[2])
