from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gdmnet.drifting.coupling import coupled_loss, coupling, partners
from gdmnet.drifting.field import distances

NONE = torch.zeros(1, 0, 3)


def waves(n: int, shift: float, s: int = 3) -> torch.Tensor:
    """Points [1, n, s] that no random generator makes."""
    phase = torch.arange(n * s, dtype=torch.float64).reshape(1, n, s)
    return (torch.sin(3 * phase + shift) + shift).float()


def force(x, positives, negatives=NONE):
    """V, from the loss's gradient -2 V / (s N S)."""
    leaf = x.clone().requires_grad_(True)
    loss, watch = coupled_loss(leaf, positives, negatives)
    (gradient,) = torch.autograd.grad(loss.sum(), leaf)
    n, s = x.shape[1:]
    return -gradient * n * s * watch["scale"] / s**0.5 / 2


def slow_coupling(x, t, epsilon=0.05):
    """Equations A of the study, one pair at a time, in float64."""
    n, m = len(x), len(t)
    cost = [[float((a - b).square().sum()) for b in t] for a in x]
    c = sum(map(sum, cost)) / (n * m)
    k = [[max(1e-200, math.exp(-e / (epsilon * c))) for e in row] for row in cost]
    u, v = [1.0] * n, [1.0] * m
    for _ in range(25):
        u = [1 / n / sum(k[i][j] * v[j] for j in range(m)) for i in range(n)]
        v = [1 / m / sum(u[i] * k[i][j] for i in range(n)) for j in range(m)]
    return torch.tensor([[u[i] * k[i][j] * v[j] for j in range(m)] for i in range(n)]).double()


def slow_force(x, t, past):
    x, t, past = x[0].double(), t[0].double(), past[0].double()
    negatives = torch.cat([x, past])
    goals = []
    for points in (t, negatives):
        plan = slow_coupling(x, points)
        goals.append((plan @ points) / plan.sum(1, keepdim=True))
    v = goals[0] - goals[1]
    return v / v.square().mean().sqrt()


@pytest.mark.parametrize("n_past", [0, 4])
def test_the_field_equals_the_slow_one(n_past):
    x, t, past = waves(7, 0.1), waves(9, 0.6), waves(4, 0.3)[:, :n_past]
    assert torch.allclose(force(x, t, past)[0].double(), slow_force(x, t, past), atol=2e-4)


def test_golden_numbers():
    found = force(waves(4, 0.1), waves(5, 0.6))[0]
    expected = [
        [0.369982, 1.466456, 0.821222],
        [0.878232, 1.461160, 0.323459],
        [0.829954, 1.171311, 0.945633],
        [0.389377, 1.653773, 0.430942],
    ]
    assert torch.allclose(found, torch.tensor(expected), atol=2e-5)


def test_two_points_against_two_have_the_known_coupling():
    cost = torch.tensor([[[1.0, 3.0], [4.0, 2.0]]]).double()
    odds = torch.tensor((3 + 4 - 1 - 2) / (2 * 0.05 * 2.5)).double().exp()  # a / (1/2 - a)
    a = 0.5 * odds / (1 + odds)
    expected = torch.stack([torch.stack([a, 0.5 - a]), torch.stack([0.5 - a, a])])
    assert torch.allclose(coupling(cost)[0], expected, rtol=1e-6)


def test_every_real_point_counts_as_much_however_far_it_lies():
    x, t = torch.randn(1, 40, 3), torch.cat([torch.randn(1, 20, 3), torch.randn(1, 20, 3) + 9], 1)
    plan = coupling(distances(x, t).double().square())
    assert torch.allclose(plan.sum(1), torch.tensor(1 / 40).double())
    assert torch.allclose(plan.sum(2), torch.tensor(1 / 40).double(), rtol=0.05)
    mean = partners(distances(x, t), t).mean(1)
    assert torch.allclose(mean, t.mean(1), atol=0.2)


def test_equal_clouds_move_nothing():
    x = waves(9, 0.2)
    assert torch.equal(force(x, x), torch.zeros_like(x))


def test_a_moved_cloud_draws_in_the_direction_of_its_move():
    x = torch.randn(1, 60, 3, generator=torch.Generator().manual_seed(0))
    move = torch.tensor([0.3, -0.2, 0.1])
    found = force(x, x + move).mean(1)[0]
    assert float(torch.cosine_similarity(found, move, dim=0)) > 0.99


@settings(max_examples=10, deadline=None)
@given(shift=st.floats(-10, 10), factor=st.floats(0.1, 100), seed=st.integers(0, 1000))
def test_place_unit_and_order_of_the_points_do_not_matter(shift, factor, seed):
    x, t, past = waves(7, 0.1), waves(9, 0.6), waves(4, 0.3)
    rng = torch.Generator().manual_seed(seed)
    of_x, of_t, of_past = (torch.randperm(n, generator=rng) for n in (7, 9, 4))
    turned = [x[:, of_x], t[:, of_t], past[:, of_past]]
    found = force(*(factor * (part + shift) for part in turned))
    assert torch.allclose(found, force(x, t, past)[:, of_x], atol=5e-3)


def test_past_generated_points_repel():
    x, t = waves(6, 0.1), waves(6, 0.5)
    above = torch.full((1, 6, 3), 3.0)
    assert float((force(x, t, above) - force(x, t)).mean()) < 0


def test_what_to_watch_means_what_it_says():
    x, t = waves(7, 0.1), waves(9, 0.6)
    loss, watch = coupled_loss(x, t, NONE)
    assert float(watch["v_rms"]) == pytest.approx(1, rel=1e-5)
    assert float(loss.mean()) == pytest.approx(1, rel=1e-4)
    assert float(coupled_loss(x, x + 0.01, NONE)[1]["force"]) < float(watch["force"])


def test_sets_of_problems_at_once_are_each_as_if_alone():
    sets = [
        [waves(n, shift) * size for n, shift in ((6, 0.1), (8, 0.5), (3, 0.9))] for size in (1, 9)
    ]
    losses, watch = coupled_loss(*(torch.stack(parts) for parts in zip(*sets, strict=True)))
    for number, parts in enumerate(sets):
        alone, of_it = coupled_loss(*parts)
        assert torch.allclose(losses[number], alone)
        assert torch.allclose(watch["scale"][number], of_it["scale"])
