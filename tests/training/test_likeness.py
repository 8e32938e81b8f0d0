import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import wasserstein_distance

from gdmnet.training.likeness import Likeness

SPACING = (2.0, 1.0, 1.0)


def batches(rng, n=3, shape=(2, 1, 8, 16, 18)):
    for _ in range(n):
        target = gaussian_filter(rng.normal(size=shape), (0, 0, 0.5, 0.5, 0.5))
        prediction = gaussian_filter(target, (0, 0, 0.5, 0.5, 0.5)) + 0.1
        mask = rng.random(shape) < 0.8
        yield tuple(torch.from_numpy(a.astype(np.float32)) for a in (prediction, target, mask))


def test_values_and_gradients_are_pooled_over_patches(rng):
    likeness, values, gradients = Likeness(SPACING), [[], []], [[], []]
    for prediction, target, mask in batches(rng):
        likeness.add(prediction, target, mask)
        inside = mask > 0
        for i, images in enumerate((torch.where(inside, prediction, target), target)):
            values[i] += images[inside].tolist()
            for image, m in zip(images[:, 0].numpy(), inside[:, 0].numpy(), strict=True):
                squares = [np.gradient(image, mm, axis=k) ** 2 for k, mm in enumerate(SPACING)]
                gradients[i] += np.sqrt(sum(squares))[m].tolist()
    found = likeness.result()
    assert found["histogram_w1"] == pytest.approx(wasserstein_distance(*values), rel=1e-4)
    assert found["gradient_w1"] == pytest.approx(wasserstein_distance(*gradients), rel=1e-4)


def test_targets_are_like_themselves_and_blur_and_noise_are_seen(rng):
    same, blurred, noisy = Likeness(SPACING), Likeness(SPACING), Likeness(SPACING)
    for prediction, target, mask in batches(rng):
        same.add(target, target, mask)
        blurred.add(prediction, target, mask)
        noisy.add(target + torch.randn(target.shape), target, mask)
    assert set(same.result().values()) == {0.0}
    assert blurred.result()["spectrum_distance"] > 2
    assert noisy.result()["spectrum_distance"] > 2


def test_twice_the_amplitude_is_six_decibels(rng):
    likeness = Likeness(SPACING)
    for _, target, mask in batches(rng):
        likeness.add(2 * target, target, torch.ones_like(mask))
    assert likeness.result()["spectrum_distance"] == pytest.approx(6.02, abs=0.02)


def test_empty_masks_do_not_count_and_nothing_gives_no_number(rng):
    likeness, empty = Likeness(SPACING), Likeness(SPACING)
    for prediction, target, mask in batches(rng):
        likeness.add(prediction, target, torch.zeros_like(mask))
        empty.add(prediction * math.nan, target, torch.zeros_like(mask))
    assert all(math.isnan(value) for value in likeness.result().values())
    likeness.add(prediction, target, mask)
    assert all(math.isfinite(value) for value in likeness.result().values())
