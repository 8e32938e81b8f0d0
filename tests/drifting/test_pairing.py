from __future__ import annotations

import pytest
import torch

from gdmnet.drifting.coupling import coupled_loss
from gdmnet.drifting.field import drift_loss
from gdmnet.drifting.pairing import PAIRINGS, scaled_floor
from gdmnet.drifting.representations import LEVELS, Rows

TAUS = (0.05, 0.2)


def example(n: int = 12, s: int = 5) -> tuple[Rows, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(n, s, generator=rng), torch.randn(n, s, generator=rng) + 0.5
    past = torch.randn(20, s, generator=rng) + 0.5, torch.randn(9, s, generator=rng)
    return Rows("map", x.requires_grad_(True), y), *past


def gradient(pairing: str, rows: Rows, *past: torch.Tensor) -> torch.Tensor:
    losses, _ = PAIRINGS[pairing].loss(rows, *past, TAUS)
    return torch.autograd.grad(losses.mean(), rows.generated)[0]


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
    loss, watch = PAIRINGS["pooled"].loss(rows, targets, generated, TAUS)
    assert float(loss.detach()) == float(expected.detach())
    assert watch == info


def test_coupled_is_one_problem_with_past_rows():
    rows, targets, generated = example()
    positives = torch.cat([rows.target, targets])[None]
    expected, info = coupled_loss(rows.generated[None], positives, generated[None])
    loss, watch = PAIRINGS["coupled"].loss(rows, targets, generated, TAUS)
    assert float(loss.detach()) == float(expected.detach())
    assert watch == info


def test_past_generated_rows_repel_in_the_pool():
    rows, targets, generated = example()
    without = gradient("pooled", rows, targets, generated[:0])
    assert not torch.allclose(gradient("pooled", rows, targets, generated), without, rtol=0.1)


def test_past_rows_are_kept_where_they_take_part():
    kept = {name: pairing.with_past for name, pairing in PAIRINGS.items()}
    assert kept == {"pooled": tuple(LEVELS), "coupled": ("global",), "paired": ()}


@pytest.mark.parametrize(("n", "floor"), [(1, 1e-6), (64, 1e-6), (128, 2.5e-7), (640, 1e-8)])
def test_the_floor_shrinks_with_the_square_of_the_positives(n, floor):
    assert scaled_floor(n) == pytest.approx(floor)


def test_the_floor_is_the_scaled_one():
    rows, targets, generated = example(n=60)
    targets = targets.repeat(20, 1) + 0.1 * torch.randn(400, 5)
    positives = torch.cat([rows.target, targets])[None]
    found = PAIRINGS["pooled"].loss(rows, targets, generated, (0.02,))[1]
    shares = [
        drift_loss(
            rows.generated[None],
            positives,
            generated[None],
            temperatures=(0.02,),
            affinity_floor=floor,
        )[1]["floor_share_0.02"]
        for floor in (scaled_floor(460), 1e-6)
    ]
    assert float(found["floor_share_0.02"]) == float(shares[0])
    assert float(shares[0]) < 0.5 * float(shares[1])
