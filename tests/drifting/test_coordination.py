from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gdmnet.drifting.coordination import (
    COORDINATIONS,
    MeanNorm,
    balance,
    coordinate,
    cosine,
    inner,
    norms,
    remove_conflict,
)

SHAPE = (3, 1, 2, 3, 4)


def pair(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(SHAPE, generator=rng), 7 * torch.randn(SHAPE, generator=rng)


def mean_norms(fidelity, drift):
    return norms(fidelity).mean(), norms(drift).mean()


def combine(fidelity, drift, name="projection", ratio=0.2):
    return coordinate(fidelity, drift, mean_norms(fidelity, drift), name=name, ratio=ratio)


def vectors(*rows):
    return torch.tensor(rows)[:, None]  # (b, c, length): the shape beyond b does not matter


def test_the_mean_norm_is_the_weighted_mean_of_all_norms():
    average = MeanNorm(decay=0.9)
    assert float(average.value) == 0
    expected, weight = 0.0, 0.0
    for seed in range(5):
        gradient = pair(seed)[0]
        average.update(gradient)
        each = [float(sample.norm()) for sample in gradient]
        expected, weight = 0.9 * expected + sum(each) / 3, 0.9 * weight + 1
    assert float(average.value) == pytest.approx(expected / weight, rel=1e-5)


def test_a_balanced_drift_has_the_fidelity_norm():
    fidelity, drift = pair(0)
    balanced = balance(drift, *mean_norms(fidelity, drift))
    assert float(norms(balanced).mean()) == pytest.approx(float(norms(fidelity).mean()), rel=1e-4)
    assert torch.allclose(cosine(balanced, drift), torch.ones(3))


def test_a_sample_far_above_the_mean_is_clipped_to_three_times_the_fidelity_norm():
    fidelity, drift = pair(1)
    n_f, n_d = mean_norms(fidelity, drift)
    drift[1] *= 100
    balanced = balance(drift, n_f, n_d)
    assert float(norms(balanced)[1]) == pytest.approx(3 * float(n_f), rel=1e-4)
    assert torch.allclose(balanced[0], drift[0] * n_f / n_d)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), ratio=st.floats(0.0, 3.0))
def test_fidelity_never_loses_by_the_default_rule(seed, ratio):
    fidelity, drift = pair(seed)
    combined = combine(fidelity, drift, ratio=ratio)
    gain = inner(combined, fidelity) - norms(fidelity).square()
    assert float(gain.min()) > -1e-4 * float(norms(fidelity).square().max())


def test_only_the_conflicting_part_is_removed_and_sample_by_sample():
    fidelity = vectors([1.0, 0.0], [1.0, 0.0], [0.0, 0.0])
    drift = vectors([-2.0, 3.0], [2.0, 3.0], [-1.0, 1.0])
    expected = vectors([0.0, 3.0], [2.0, 3.0], [-1.0, 1.0])
    assert torch.allclose(remove_conflict(drift, fidelity), expected)


@settings(max_examples=10, deadline=None)
@given(factor=st.floats(1e-4, 1e4), name=st.sampled_from(sorted(COORDINATIONS)))
def test_the_unit_of_the_drift_loss_does_not_matter_to_balanced_rules(factor, name):
    fidelity, drift = pair(2)
    same = torch.allclose(
        combine(fidelity, drift, name), combine(fidelity, factor * drift, name), atol=1e-4
    )
    assert same or not COORDINATIONS[name].balanced


@pytest.mark.parametrize("name", sorted(COORDINATIONS))
def test_a_ratio_of_zero_is_the_fidelity_gradient(name):
    fidelity, drift = pair(3)
    assert torch.equal(combine(fidelity, drift, name, 0.0), fidelity)


@pytest.mark.parametrize("name", sorted(COORDINATIONS))
def test_gradients_that_vanish_are_survived(name):
    fidelity, drift = pair(3)
    fidelity[0], drift[1] = 0, 0
    assert torch.isfinite(combine(fidelity, drift, name, 1.0)).all()


def test_without_fidelity_gradient_the_drift_is_scaled_by_the_mean_norm():
    fidelity, drift = pair(4)
    n_f, n_d = mean_norms(fidelity, drift)
    combined = coordinate(torch.zeros_like(fidelity), drift, (n_f, n_d), name="projection", ratio=1)
    assert torch.allclose(combined, drift * n_f / n_d)


def test_plain_rules_add():
    fidelity, drift = pair(5)
    n_f, n_d = mean_norms(fidelity, drift)
    assert torch.allclose(combine(fidelity, drift, "sum", 0.01), fidelity + 0.01 * drift)
    expected = fidelity + 0.2 * drift * n_f / n_d
    assert torch.allclose(combine(fidelity, drift, "balance"), expected, atol=1e-5)


def test_pcgrad_projects_each_on_the_other():
    fidelity, drift = vectors([1.0, 0.0]), vectors([-1.0, 1.0])
    found = COORDINATIONS["pcgrad"].addition(fidelity, drift) + fidelity
    assert torch.allclose(found, vectors([0.0, 1.0]) + vectors([0.5, 0.5]))


def test_mgda_of_orthogonal_equals_is_their_sum():
    fidelity, drift = vectors([2.0, 0.0]), vectors([0.0, 2.0])
    found = COORDINATIONS["mgda"].addition(fidelity, drift) + fidelity
    assert torch.allclose(found, fidelity + drift)


def test_mgda_is_twice_the_shortest_vector_between_both():
    fidelity, drift = pair(6)
    found = COORDINATIONS["mgda"].addition(fidelity, drift) + fidelity
    shares = torch.linspace(0, 1, 1001)
    for f, d, best in zip(fidelity, drift, found, strict=True):
        lengths = torch.stack([(share * f + (1 - share) * d).norm() for share in shares])
        assert float(best.norm()) == pytest.approx(2 * float(lengths.min()), rel=1e-4)


def test_config_is_the_bisector_with_the_summed_projections():
    fidelity, drift = pair(7)
    found = COORDINATIONS["config"].addition(fidelity, drift) + fidelity
    assert torch.allclose(cosine(found, fidelity), cosine(found, drift), atol=1e-4)
    expected = inner(found, fidelity + drift) / norms(found)
    assert torch.allclose(norms(found), expected, rtol=1e-4)
    bisector = fidelity / norms(fidelity)[:, None, None, None, None]
    bisector = bisector + drift / norms(drift)[:, None, None, None, None]
    assert torch.allclose(cosine(found, bisector), torch.ones(3), atol=1e-4)
