import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.stats import norm, wasserstein_distance

from gdmnet.metrics.plausibility import PLAUSIBILITY, plausibility, wasserstein_1

SPACING = (2.0, 1.0, 1.0)


@pytest.fixture
def head(rng):
    """Air around a noisy bony ball with an air cavity in its middle, in HU, and its mask."""
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in (24, 48, 52)), indexing="ij")
    radius = np.sqrt(z**2 + y**2 + x**2)
    image = np.select([radius < 0.4, radius < 0.6, radius < 0.9], [-1000, 900, 40], -1000)
    image = gaussian_filter(image.astype(float), (0.3, 0.6, 0.6))
    return (image + rng.normal(size=image.shape) * 20).astype(np.float32), radius < 0.9


def quantiles(mean, std, n=200_001):
    return norm.ppf((np.arange(n) + 0.5) / n, mean, std)


def test_gaussian_histograms_are_as_far_apart_as_the_formula_says():
    for shift in (-3.0, 0.5):
        assert wasserstein_1(quantiles(shift, 2), quantiles(0, 2)) == pytest.approx(abs(shift))
    expected = (3 - 2) * np.sqrt(2 / np.pi)  # E|z| |s1 - s2|
    assert wasserstein_1(quantiles(0, 3), quantiles(0, 2)) == pytest.approx(expected, rel=1e-4)


def test_the_distance_is_that_of_scipy_and_knows_no_order(rng):
    first, second = rng.normal(size=501), rng.exponential(size=501)
    expected = wasserstein_distance(first, second)
    assert wasserstein_1(first, second) == pytest.approx(expected, rel=1e-5)
    assert wasserstein_1(rng.permutation(first), second) == pytest.approx(expected, rel=1e-5)


def test_nothing_is_wrong_with_the_reference_itself(head):
    image, mask = head
    found = plausibility(image, image, mask, SPACING, hounsfield=True)
    assert tuple(found) == PLAUSIBILITY
    assert found.pop("edge_width") == 1
    assert set(found.values()) == {0.0}


def test_a_bias_moves_every_histogram_and_nothing_else(head):
    image, mask = head
    found = plausibility(image + 20, image, mask, SPACING, hounsfield=True)
    for band in ("", "_air", "_soft", "_bone"):
        assert found[f"histogram_w1{band}"] == pytest.approx(20, abs=1e-3)
    assert found["edge_width"] == pytest.approx(1)
    unmasked = plausibility(image + 20, image, np.ones_like(mask), SPACING, hounsfield=True)
    assert unmasked["gradient_w1"] < 1e-3
    assert unmasked["spectrum_distance"] < 1e-3


def test_bands_are_those_of_the_reference(head):
    image, mask = head
    prediction = np.where(image > 200, image + 7, np.where(image < -200, image - 3, image + 1))
    found = plausibility(prediction, image, mask, SPACING, hounsfield=True)
    assert found["histogram_w1_bone"] == pytest.approx(7, abs=1e-3)
    assert found["histogram_w1_air"] == pytest.approx(3, abs=1e-3)
    assert found["histogram_w1_soft"] == pytest.approx(1, abs=1e-3)


def test_a_blur_is_seen_by_every_metric_and_more_blur_more(head):
    image, mask = head
    mild, strong = (
        plausibility(gaussian_filter(image, s), image, mask, SPACING, hounsfield=True)
        for s in (0.5, 1.0)
    )
    for metric in PLAUSIBILITY:
        assert strong[metric] > mild[metric] > 0


def test_golden_values(head):
    """Numbers of the first version: a change must be meant, and said in the changelog."""
    image, mask = head
    blurred = gaussian_filter(image, (0.5, 1, 0.8))
    found = plausibility(blurred, image, mask, SPACING, hounsfield=True)
    expected = {
        "histogram_w1": 68.26606,
        "histogram_w1_air": 107.0242,
        "histogram_w1_soft": 50.71018,
        "histogram_w1_bone": 104.6235,
        "gradient_w1": 48.46031,
        "spectrum_distance": 11.00306,
        "edge_width": 1.620329,
    }
    assert found == pytest.approx(expected, rel=1e-4)
    found = plausibility(blurred, image, mask, SPACING, hounsfield=False)
    expected = {
        "histogram_w1": 0.0348588,
        "gradient_w1": 0.02474536,
        "spectrum_distance": 10.94816,
        "edge_width": 1.661545,
    }
    defined = {name: value for name, value in found.items() if value is not None}
    assert defined == pytest.approx(expected, rel=1e-4)


def test_without_a_unit_gain_and_offset_of_both_images_do_not_matter(head):
    image, mask = head
    image = (image + 1000) / 100
    blurred = gaussian_filter(image, 0.7)
    first = plausibility(blurred, image, mask, SPACING, hounsfield=False)
    second = plausibility(blurred * 8 + 5, image * 8 + 5, mask, SPACING, hounsfield=False)
    for metric in ("histogram_w1", "gradient_w1", "spectrum_distance", "edge_width"):
        assert second[metric] == pytest.approx(first[metric], rel=1e-3)
    for band in ("air", "soft", "bone"):
        assert first[f"histogram_w1_{band}"] is None


def test_what_lies_outside_the_mask_counts_nowhere(head, rng):
    image, mask = head
    prediction = gaussian_filter(image, 0.7)
    changed = np.where(mask, prediction, rng.normal(size=image.shape) * 1e4)
    first, second = (
        plausibility(p, image, mask, SPACING, hounsfield=True) for p in (prediction, changed)
    )
    assert first == second


def test_a_constant_prediction_has_numbers_and_a_flat_reference_has_none(head):
    image, mask = head
    found = plausibility(np.zeros_like(image), image, mask, SPACING, hounsfield=True)
    assert all(np.isfinite(value) and value > 0 for value in found.values())
    found = plausibility(image, np.ones_like(image), mask, SPACING, hounsfield=False)
    assert set(found.values()) == {None}


def test_a_band_without_voxels_and_a_single_slice_are_no_error(head):
    image, mask = (array[12:13] for array in head)
    found = plausibility(gaussian_filter(image, 1), image, mask, (5.0, 1.0, 1.0), hounsfield=True)
    assert found["spectrum_distance"] > 1
    soft = np.clip(image, -100, 100)
    found = plausibility(soft, soft, mask, (5.0, 1.0, 1.0), hounsfield=True)
    assert found["histogram_w1_air"] is found["histogram_w1_bone"] is found["edge_width"] is None
