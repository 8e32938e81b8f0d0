import math

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance

from gdmnet.objectives.base import Batch
from gdmnet.training.monitor import MOST_IN_A_ROW, Means, Tally, gradient_sum, validate


def test_means_leave_out_what_is_not_finite():
    means = Means()
    means.add({"a": 1.0, "b": math.nan})
    means.add({"a": 3.0, "b": 5.0, "c": math.inf})
    result = means.result()
    assert (result["a"], result["b"]) == (2.0, 5.0)
    assert math.isnan(result["c"])


def test_ten_steps_in_a_row_are_too_many_but_not_ten_in_all():
    tally = Tally()
    for _ in range(3):
        assert not any(tally.count_step(finite=False) for _ in range(MOST_IN_A_ROW - 1))
        assert not tally.count_step(finite=True)
    assert (tally.step, tally.skipped, tally.in_a_row) == (30, 27, 0)
    assert [tally.count_step(finite=False) for _ in range(10)] == [False] * 9 + [True]


def test_the_best_epoch_is_that_of_the_smallest_smoothed_mae():
    tally = Tally()
    maes = [1.0, 0.8, 0.9, 0.2, 0.6, 0.3, math.nan]
    smoothed, best = [], []
    for epoch, mae in enumerate(maes, start=1):
        best.append(tally.is_best(mae, epoch))
        smoothed.append(tally.smoothed_mae)
    np.testing.assert_allclose(smoothed, [1.0, 0.9, 0.9, 0.55, 0.575, 0.4375, 0.4375])
    assert best == [True, True, False, True, False, True, False]
    assert (tally.best_epoch, tally.best_mae) == (6, 0.4375)


def test_a_tally_comes_back_as_it_was():
    tally, other = Tally(), Tally()
    tally.count_step(finite=False)
    tally.is_best(0.5, 1)
    other.load_state_dict(tally.state_dict())
    assert other == tally
    with pytest.raises(KeyError):
        other.load_state_dict({"step": 1})


def _slow_gradient_sum(image, mask):
    total = 0.0
    for index in np.ndindex(*image.shape):
        for axis in (2, 3, 4):
            following = list(index)
            following[axis] += 1
            if following[axis] < image.shape[axis] and mask[index] and mask[tuple(following)]:
                total += abs(float(image[tuple(following)] - image[index]))
    return total


@pytest.mark.parametrize("shape", [(2, 1, 3, 4, 5), (1, 1, 1, 4, 3)])
def test_the_gradient_sum_counts_pairs_inside_the_mask(shape):
    image, mask = torch.randn(shape), (torch.rand(shape) < 0.6).float()
    assert gradient_sum(image, mask) == pytest.approx(_slow_gradient_sum(image, mask))


class _Source:
    def __init__(self):
        self.steps = []

    def batch(self, epoch, step, rank=0):
        assert (epoch, rank) == (0, 0)
        self.steps.append(step)
        rng = torch.Generator().manual_seed(step)
        shape = (2, 1, 4, 4, 4)
        source = torch.randn(shape, generator=rng)
        mask = (torch.rand(shape, generator=rng) < 0.5).float()
        return Batch(source, 2 * source, mask)


def test_validation_pools_voxels_of_fixed_patches():
    source = _Source()
    quality = validate(lambda batch, number: 1.5 * batch.source + (number == 1), source, 5)
    assert source.steps == [0, 1, 2]
    batches = [_Source().batch(0, step) for step in range(3)]
    errors = [(1.5 * b.source + (i == 1) - b.target).abs() for i, b in enumerate(batches)]
    inside = torch.cat([e[b.mask > 0] for e, b in zip(errors, batches, strict=True)])
    assert quality.mae == pytest.approx(float(inside.mean()), rel=1e-5)
    assert quality.sharpness == pytest.approx(0.75, rel=1e-5)


def test_gradients_are_measured_per_mm_of_each_axis():
    spacing = (3.0, 1.5, 1.0)
    quality = validate(lambda batch, number: 1.5 * batch.source, _Source(), 1, spacing)
    batch = _Source().batch(0, 0)
    inside = batch.mask > 0
    steepness = []
    for image in (torch.where(inside, 1.5 * batch.source, batch.target), batch.target):
        slopes = [np.gradient(image.numpy(), mm, axis=i + 2) for i, mm in enumerate(spacing)]
        steepness.append(np.sqrt(sum(slope**2 for slope in slopes))[inside.numpy()])
    assert quality.gradient_w1 == pytest.approx(wasserstein_distance(*steepness), rel=1e-4)


def test_an_empty_mask_gives_no_number():
    class Empty(_Source):
        def batch(self, epoch, step, rank=0):
            batch = super().batch(epoch, step, rank)
            return Batch(batch.source, batch.target, torch.zeros_like(batch.mask))

    quality = validate(lambda batch, number: batch.source, Empty(), 1)
    assert math.isnan(quality.mae)
    assert math.isnan(quality.sharpness)
