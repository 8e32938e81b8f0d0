from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gdmnet.drifting.coordination import (
    MeanNorm,
    balance,
    cosine,
    halve_opposed,
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


def combine(fidelity, drift, ratio=0.2, norm_values=None):
    """g = g_f + r h, as `Gdm.descend` has it."""
    balanced = balance(drift, *(norm_values or mean_norms(fidelity, drift)))
    return fidelity + ratio * remove_conflict(balanced, fidelity)


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
def test_fidelity_never_loses(seed, ratio):
    fidelity, drift = pair(seed)
    combined = combine(fidelity, drift, ratio)
    gain = inner(combined, fidelity) - norms(fidelity).square()
    assert float(gain.min()) > -1e-4 * float(norms(fidelity).square().max())


def test_only_the_conflicting_part_is_removed_and_sample_by_sample():
    fidelity = vectors([1.0, 0.0], [1.0, 0.0], [0.0, 0.0])
    drift = vectors([-2.0, 3.0], [2.0, 3.0], [-1.0, 1.0])
    expected = vectors([0.0, 3.0], [2.0, 3.0], [-1.0, 1.0])
    assert torch.allclose(remove_conflict(drift, fidelity), expected)


def test_by_voxels_the_drift_counts_half_where_the_fidelity_objects():
    fidelity = vectors([1.0, -1.0, 1.0, 0.0])
    drift = vectors([-2.0, -2.0, 2.0, -2.0])
    assert torch.equal(halve_opposed(drift, fidelity), vectors([-1.0, -2.0, 2.0, -2.0]))


@settings(max_examples=10, deadline=None)
@given(factor=st.floats(1e-4, 1e4))
def test_the_unit_of_the_drift_loss_does_not_matter(factor):
    fidelity, drift = pair(2)
    expected = combine(fidelity, drift)
    assert torch.allclose(combine(fidelity, factor * drift), expected, atol=1e-4)


def test_gradients_that_vanish_are_survived():
    fidelity, drift = pair(3)
    fidelity[0], drift[1] = 0, 0
    assert torch.isfinite(combine(fidelity, drift, 1.0)).all()
    assert torch.equal(combine(fidelity, torch.zeros_like(drift)), fidelity)


def test_without_fidelity_gradient_the_drift_is_scaled_by_the_mean_norm():
    fidelity, drift = pair(4)
    n_f, n_d = mean_norms(fidelity, drift)
    combined = combine(torch.zeros_like(fidelity), drift, 1.0, (n_f, n_d))
    assert torch.allclose(combined, drift * n_f / n_d)


def test_without_conflict_the_drift_is_added_at_the_ratio_of_the_norms():
    fidelity, _ = pair(5)
    drift = fidelity + 0.1 * pair(6)[0]
    assert float(inner(fidelity, drift).min()) > 0
    n_f, n_d = mean_norms(fidelity, drift)
    expected = fidelity + 0.2 * drift * n_f / n_d
    assert torch.allclose(combine(fidelity, drift), expected, atol=1e-5)
