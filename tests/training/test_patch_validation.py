import math
from dataclasses import astuple
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import wasserstein_distance

from gdmnet.arrays.normalise import invert
from gdmnet.objectives.base import Batch, Objective
from gdmnet.plan import Recipe
from gdmnet.training import log
from gdmnet.training.batches import Batches
from gdmnet.training.patch_validation import (
    PatchQuality,
    gradient_sum,
    judge_patches,
    translate_plane,
    validate_patches,
)

SPACING = (3.0, 1.5, 1.0)


def _slow_gradient_sum(image, mask):
    total = 0.0
    for index in np.ndindex(*image.shape):
        for axis in range(3):
            following = list(index)
            following[axis] += 1
            if following[axis] < image.shape[axis] and mask[index] and mask[tuple(following)]:
                total += abs(float(image[tuple(following)] - image[index]))
    return total


@pytest.mark.parametrize("shape", [(3, 4, 5), (1, 4, 3)])
def test_the_gradient_sum_counts_pairs_inside_the_mask(shape, rng):
    image, mask = rng.normal(size=shape).astype(np.float32), rng.random(shape) < 0.6
    assert gradient_sum(image, mask) == pytest.approx(_slow_gradient_sum(image, mask))


class _Batches:
    """Batches whose targets are twice their sources."""

    target = SimpleNamespace(scheme="ct", scale=500.0)
    configuration = SimpleNamespace(spacing=SPACING, batch_size=2, target=target)

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


class _Plain(Objective):
    def descend(self, generator, batch, rng):
        raise AssertionError("only judged")


def training_of(network, recipe):
    average = SimpleNamespace(network=network)
    return SimpleNamespace(
        objective=_Plain(),
        optimizer=SimpleNamespace(average=average),
        recipe=recipe,
        device=torch.device("cpu"),
    )


def judged(network, batches, n_patches):
    return validate_patches(
        training_of(network, Recipe(1, 1, validation_patches=n_patches)), batches
    )


def test_validation_pools_voxels_of_fixed_patches():
    batches = _Batches()
    quality = judged(lambda source: 1.5 * source + 0.1, batches, 5)
    assert batches.steps == [0, 1, 2]
    found = [_Batches().batch(0, step) for step in range(3)]
    errors = [(1.5 * b.source + 0.1 - b.target).abs() for b in found]
    inside = torch.cat([e[b.mask > 0] for e, b in zip(errors, found, strict=True)])
    assert quality.mae == pytest.approx(float(inside.mean()), rel=1e-5)
    assert quality.mae_hu == pytest.approx(500 * quality.mae)
    assert quality.sharpness == pytest.approx(0.75, rel=1e-5)


@pytest.mark.parametrize("shape", [(6, 20, 9), (30, 7, 40)])
def test_a_whole_plane_is_translated_window_by_window(make_noise_case, make_configuration, shape):
    configuration = make_configuration(schemes=("zscore",))
    case = make_noise_case(shape=shape)
    batches = Batches([case], configuration, seed=0, augment=False)
    training = training_of(lambda source: 2 * source, Recipe(1, 1))
    title, pictures = translate_plane(training, batches)
    source, prediction, target = (picture.image for picture in pictures)
    level = int(np.median(case.centres[:, 0]))
    edges = [(w - n) // 2 for w, n in zip(source.shape, shape[1:], strict=True)]
    rows, columns = (slice(e, e + n) for e, n in zip(edges, shape[1:], strict=True))
    inside, norm = case.body[level] > 0, case.record.target
    truth = invert(case.target[0, level], norm)
    guess = invert(2 * case.source[0, level], norm)
    np.testing.assert_array_equal(source[rows, columns], case.source[0, level])
    np.testing.assert_allclose(target[rows, columns], truth, rtol=1e-6)
    np.testing.assert_allclose(prediction[rows, columns][inside], guess[inside], rtol=1e-5)
    assert (prediction[rows, columns][~inside] == norm.background).all()
    unit, mae = "HU" if norm.scheme == "ct" else "file units", np.abs(guess - truth)[inside].mean()
    words = f"axial plane {level + 1} of {shape[0]}: MAE {log.short(mae)} {unit} in this plane"
    assert title == f"{case.record.identifier}, {words}"
    window = np.percentile(truth[inside], (1, 99.5))
    for picture in pictures[1:]:
        np.testing.assert_allclose((picture.low, picture.high), window, rtol=1e-5)
    down, across = configuration.spacing[1:]
    assert {picture.aspect for picture in pictures} == {down / across}
    low, high = map(log.short, window)
    assert pictures[1].title == f"prediction, {low} to {high} {unit}"


def test_gradients_are_measured_per_mm_of_each_axis():
    quality = judged(lambda source: 1.5 * source, _Batches(), 1)
    batch = _Batches().batch(0, 0)
    inside = batch.mask > 0
    steepness = []
    for image in (torch.where(inside, 1.5 * batch.source, batch.target), batch.target):
        slopes = [np.gradient(image.numpy(), mm, axis=i + 2) for i, mm in enumerate(SPACING)]
        steepness.append(np.sqrt(sum(slope**2 for slope in slopes))[inside.numpy()])
    assert quality.gradient_w1 == pytest.approx(wasserstein_distance(*steepness), rel=1e-4)


def test_an_empty_mask_gives_no_number():
    class Empty(_Batches):
        def batch(self, epoch, step, rank=0):
            batch = super().batch(epoch, step, rank)
            return Batch(batch.source, batch.target, torch.zeros_like(batch.mask))

    quality = judged(lambda source: source, Empty(), 1)
    assert math.isnan(quality.mae)
    assert math.isnan(quality.sharpness)


def patches(rng, n=6, shape=(8, 16, 18)):
    for _ in range(n):
        target = gaussian_filter(rng.normal(size=shape), 0.5).astype(np.float32)
        prediction = gaussian_filter(target, 0.5) + np.float32(0.1)
        yield prediction, target, rng.random(shape) < 0.8


def test_values_and_gradients_are_pooled_over_patches(rng):
    values, gradients, given = [[], []], [[], []], list(patches(rng))
    for prediction, target, inside in given:
        for i, image in enumerate((np.where(inside, prediction, target), target)):
            values[i] += image[inside].tolist()
            squares = [np.gradient(image, mm, axis=k) ** 2 for k, mm in enumerate(SPACING)]
            gradients[i] += np.sqrt(sum(squares))[inside].tolist()
    found = judge_patches(given, SPACING)
    assert found.histogram_w1 == pytest.approx(wasserstein_distance(*values), rel=1e-4)
    assert found.gradient_w1 == pytest.approx(wasserstein_distance(*gradients), rel=1e-4)


def test_targets_are_like_themselves_and_blur_and_noise_are_seen(rng):
    given = list(patches(rng))
    same = judge_patches([(target, target, inside) for _, target, inside in given], SPACING)
    np.testing.assert_array_equal(astuple(same), astuple(PatchQuality(0.0, 1.0, 0.0, 0.0, 0.0)))
    noisy = [(t + rng.normal(size=t.shape).astype(np.float32), t, m) for _, t, m in given]
    assert judge_patches(given, SPACING).spectrum_distance > 2
    assert judge_patches(noisy, SPACING).spectrum_distance > 2


def test_twice_the_amplitude_is_six_decibels(rng):
    doubled = [(2 * target, target, np.ones_like(inside)) for _, target, inside in patches(rng)]
    assert judge_patches(doubled, SPACING).spectrum_distance == pytest.approx(6.02, abs=0.02)


def test_empty_masks_do_not_count_and_nothing_gives_no_number(rng):
    given = list(patches(rng))
    empty = [(prediction * np.nan, target, inside & False) for prediction, target, inside in given]
    assert all(math.isnan(value) for value in astuple(judge_patches(empty, SPACING)))
    both = judge_patches(given + empty, SPACING), judge_patches(given, SPACING)
    np.testing.assert_array_equal(*map(astuple, both))
