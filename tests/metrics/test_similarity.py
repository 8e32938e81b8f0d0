import tracemalloc

import numpy as np
import pytest
from metrics.oracles import slow_masked_ssim, slow_ms_ssim
from skimage.metrics import structural_similarity

from gdmnet.metrics.conventions import DataRange
from gdmnet.metrics.similarity import masked_ssim, ms_ssim, ssim

CT = DataRange(-1024.0, 4095.0)


def make_case(rng, shape, *, noise=150.0):
    """A smooth CT-like reference with values beyond both clips, a noisy prediction, a mask."""
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    radius = np.sqrt(0.3 * z**2 + y**2 + 0.7 * (x - 0.1) ** 2)
    reference = np.where(radius < 0.8, 1500 * np.sin(6 * radius + z) + 700 * x, -1100)
    reference += np.where(radius < 0.15, 2500, 0)
    prediction = reference + rng.normal(size=shape) * noise + 30 * np.cos(4 * y)
    mask = (radius < 0.85).astype(np.uint8)
    return prediction.astype(np.float32), reference.astype(np.float32), mask


def voxel_by_voxel(prediction, reference, mask, span):
    """Wang et al. 2004, eq. 13 at every voxel of the mask, window by window (inner voxels)."""
    c1, c2 = (0.01 * span.width) ** 2, (0.03 * span.width) ** 2
    filled = np.where(mask != 0, prediction, reference) - span.low
    truth = reference - span.low
    values = []
    for z, y, x in zip(*np.nonzero(mask), strict=True):
        window = tuple(slice(v - 3, v + 4) for v in (z, y, x))
        p, r = filled[window].ravel(), truth[window].ravel()
        assert p.size == 343
        covariance = np.cov(p, r)
        values.append(
            (2 * p.mean() * r.mean() + c1)
            * (2 * covariance[0, 1] + c2)
            / (p.mean() ** 2 + r.mean() ** 2 + c1)
            / (covariance[0, 0] + covariance[1, 1] + c2)
        )
    return np.mean(values)


def test_ssim_equals_the_formula_voxel_by_voxel(rng):
    reference = rng.normal(size=(11, 12, 13)) * 100
    prediction = reference + rng.normal(size=reference.shape) * 60 + 20
    mask = np.zeros(reference.shape, dtype=np.uint8)
    mask[3:8, 4:8, 3:10] = 1
    span = DataRange(-350.0, 700.0)
    expected = voxel_by_voxel(prediction, reference, mask, span)
    assert ssim(prediction, reference, mask, span) == pytest.approx(expected, abs=1e-9)


def test_ssim_equals_scikit_image_to_the_border(rng):
    prediction, reference, mask = make_case(rng, (9, 23, 20))
    mask[:, :, 12:] = 1
    mask[2, 5:7, 3] = 0
    filled = np.where(mask, prediction, reference).astype(np.float64) + 1024
    _, full = structural_similarity(
        filled, reference.astype(np.float64) + 1024, data_range=4095, full=True
    )
    found = ssim(prediction, reference, mask, CT)
    assert found == pytest.approx(full[mask != 0].mean(), abs=1e-9)


def test_ssim_of_one_slice_is_that_of_the_slice_repeated(rng):
    reference = rng.normal(size=(1, 14, 15)) * 100
    prediction = reference + rng.normal(size=reference.shape) * 50
    mask, span = np.ones(reference.shape), DataRange(-300.0, 600.0)
    several = [np.repeat(a, 9, axis=0) for a in (prediction, reference, mask)]
    assert ssim(prediction, reference, mask, span) == pytest.approx(ssim(*several, span), abs=1e-9)


def test_slices_that_only_continue_a_short_axis_are_not_counted(rng):
    reference = rng.normal(size=(3, 14, 15)) * 100
    prediction = reference.copy()
    prediction[0] += rng.normal(size=(14, 15)) * 200
    span = DataRange(-300.0, 600.0)
    pads = [(2, 2), (0, 0), (0, 0)]
    _, full = structural_similarity(
        *(np.pad(a - span.low, pads, mode="edge") for a in (prediction, reference)),
        data_range=600,
        full=True,
    )
    found = ssim(prediction, reference, np.ones(reference.shape), span)
    assert found == pytest.approx(full[2:5].mean(), abs=1e-9)


@pytest.mark.parametrize("span", [CT, DataRange(-1024.0, 4024.0)])
def test_masked_ssim_is_synthrad2023_by_scikit_image(rng, span):
    case = make_case(rng, (13, 31, 28))
    expected = slow_masked_ssim(*case, span.low, span.low + span.width)
    assert masked_ssim(*case, span) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("shape", [(97, 98, 101), (12, 40, 110), (1, 64, 64)])
def test_ms_ssim_equals_the_slow_one(rng, shape):
    case = make_case(rng, shape)
    found = ms_ssim(*case, CT)
    assert 0.3 < found < 0.99
    assert found == pytest.approx(slow_ms_ssim(*case, -1024, 3071), abs=1e-9)


def test_ms_ssim_equals_the_slow_one_where_the_mask_meets_the_border(rng):
    prediction, reference, _ = make_case(rng, (99, 97, 100))
    mask = np.zeros(reference.shape, dtype=np.uint8)
    mask[:60, 30:, :70] = 1
    prediction[:, :40] = 900 - prediction[:, :40]  # negative structure
    found = ms_ssim(prediction, reference, mask, CT)
    expected = slow_ms_ssim(prediction, reference, mask, -1024, 3071)
    assert found == pytest.approx(expected, abs=1e-9)


def test_a_perfect_prediction_has_a_similarity_of_one(rng):
    _, reference, mask = make_case(rng, (9, 20, 20))
    for metric in (ssim, masked_ssim, ms_ssim):
        assert metric(reference, reference, mask, CT) == pytest.approx(1, abs=1e-12)


def test_what_lies_outside_the_mask_counts_nowhere(rng):
    prediction, reference, mask = make_case(rng, (9, 20, 20))
    changed = np.where(mask != 0, prediction, rng.normal(size=mask.shape) * 1e4)
    for metric in (ssim, masked_ssim, ms_ssim):
        assert metric(changed, reference, mask, CT) == metric(prediction, reference, mask, CT)


def test_similarity_without_a_range_or_a_whole_window_is_not_defined():
    flat, mask = np.ones((8, 8, 8)), np.ones((8, 8, 8))
    for metric in (ssim, masked_ssim, ms_ssim):
        assert metric(flat + 1, flat, mask, DataRange(0.0, 0.0)) is None
    assert masked_ssim(flat[:6], flat[:6], mask[:6], CT) is None
    corner = np.zeros((100, 100, 100))
    corner[0, 0, 0] = 1
    assert ms_ssim(corner, corner, corner, CT) is None


def test_ms_ssim_needs_little_memory(rng):
    reference = rng.normal(size=(100, 128, 128)).astype(np.float32) * 300
    mask = np.ones(reference.shape, dtype=np.uint8)
    tracemalloc.start()
    try:
        ms_ssim(reference + 50, reference, mask, CT)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3.5 * reference.nbytes  # its inputs come to 2.25 volumes
