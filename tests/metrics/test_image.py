import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from skimage.metrics import peak_signal_noise_ratio

from gdmnet.metrics.image import (
    DataRange,
    bands,
    bias,
    data_range,
    mae,
    match_linear,
    psnr,
    sharpness,
)

SHAPE = (8, 9, 10)


@pytest.fixture
def pair(rng):
    reference = rng.normal(size=SHAPE) * 100
    return reference + rng.normal(size=SHAPE) * 30, reference


@pytest.fixture
def mask(rng):
    inside = np.zeros(SHAPE, dtype=np.uint8)
    inside[1:7, 2:8, 1:9] = 1
    return inside


def test_mae_is_the_mean_absolute_error_inside_the_mask():
    reference = np.zeros((1, 2, 2))
    prediction = np.array([[[3.0, -1.0], [100.0, 5.0]]])
    assert mae(prediction, reference, np.array([[[1, 1], [0, 1]]])) == pytest.approx(3.0)


def test_psnr_is_in_decibels_of_the_range():
    reference, prediction = np.zeros((1, 1, 4)), np.full((1, 1, 4), 4.095)
    assert psnr(prediction, reference, np.ones((1, 1, 4)), 4095.0) == pytest.approx(60.0)


def test_a_perfect_prediction_has_no_psnr(pair, mask):
    _, reference = pair
    assert psnr(reference, reference, mask, 100.0) is None


def test_psnr_equals_scikit_image(pair, mask):
    prediction, reference = pair
    inside = mask != 0
    expected = peak_signal_noise_ratio(reference[inside], prediction[inside], data_range=700)
    assert psnr(prediction, reference, mask, 700.0) == pytest.approx(expected, abs=1e-9)


def test_bias_is_above_zero_where_the_prediction_is_too_bright(mask, pair):
    _, reference = pair
    assert bias(reference + 3, reference, mask) == pytest.approx(3)
    assert bias(reference - 2, reference, mask) == pytest.approx(-2)


def test_bands_are_those_of_the_reference_in_closed_form():
    reference = np.array([[[-1000.0, -201.0, -200.0, 0.0, 200.0, 201.0, 900.0]]])
    error = np.array([[[10.0, -30.0, 4.0, -4.0, 6.0, -100.0, 500.0]]])
    mask = np.array([[[1, 1, 1, 1, 1, 1, 0]]])
    found = bands((reference + error), reference, mask)
    assert found == pytest.approx(
        {
            "mae_air": 20,
            "bias_air": -10,
            "mae_soft": 14 / 3,
            "bias_soft": 2,
            "mae_bone": 100,
            "bias_bone": -100,
        }
    )


def test_a_tissue_that_is_not_there_has_no_error():
    soft, mask = np.zeros((1, 2, 2)), np.ones((1, 2, 2))
    found = bands(soft + 1, soft, mask)
    assert found["mae_soft"] == 1
    assert [
        found[f"{kind}_{tissue}"] for kind in ("mae", "bias") for tissue in ("air", "bone")
    ] == [None] * 4


def test_what_lies_outside_the_mask_counts_nowhere(pair, mask, rng):
    prediction, reference = pair
    changed = np.where(mask != 0, prediction, rng.normal(size=SHAPE) * 1e4)
    for metric in (
        lambda p: mae(p, reference, mask),
        lambda p: psnr(p, reference, mask, 600.0),
        lambda p: bias(p, reference, mask),
        lambda p: sharpness(p, reference, mask, (1, 1, 1)),
        lambda p: match_linear(p, reference, mask),
    ):
        assert metric(changed) == metric(prediction)


def test_data_range_is_fixed_for_hounsfield_units_and_measured_otherwise(rng):
    mask = np.ones((10, 10, 10))
    mask[0] = 0
    mr = rng.uniform(100, 200, size=mask.shape)
    mr[0] = 5000
    ct = mr.copy()
    ct[0, 0, 0] = -1000
    assert data_range(ct, mask) == DataRange(-1024.0, 4095.0)
    low, high = np.percentile(mr[1:], (0.5, 99.5))
    assert data_range(mr, mask).low == pytest.approx(low)
    assert data_range(mr, mask).width == pytest.approx(high - low)


def test_metrics_without_a_range_are_not_defined():
    flat, mask = np.ones((8, 8, 8)), np.ones((8, 8, 8))
    assert psnr(flat + 1, flat, mask, 0.0) is None
    assert sharpness(flat, flat, mask, (1, 1, 1)) is None


def test_sharpness_is_the_ratio_of_mean_gradients_per_millimetre():
    z, _, x = np.meshgrid(np.arange(6.0), np.arange(6.0), np.arange(6.0), indexing="ij")
    mask = np.ones(z.shape)
    assert sharpness(3 * x, x, mask, (5, 1, 1)) == pytest.approx(3)
    assert sharpness(z, x, mask, (5, 1, 2)) == pytest.approx(2 / 5)


def test_blurring_lowers_sharpness_and_single_slices_have_one(rng):
    reference = rng.normal(size=(1, 20, 20))
    blurred = (reference + np.roll(reference, 1, axis=2)) / 2
    assert 0.4 < sharpness(blurred, reference, np.ones(reference.shape), (1, 1, 1)) < 0.95


@given(gain=st.floats(0.05, 20), offset=st.floats(-1e3, 1e3), seed=st.integers(0, 50))
@settings(max_examples=25, deadline=None)
def test_a_linear_change_is_matched_away(gain, offset, seed):
    reference = np.random.default_rng(seed).normal(size=(3, 6, 7)) * 50
    prediction = (reference - offset) / gain
    found = match_linear(prediction, reference, np.ones(reference.shape))
    matched = found[0] * prediction + found[1]
    assert np.abs(matched - reference).mean() < 1e-3
    assert found[0] == pytest.approx(gain, rel=1e-4)


@pytest.mark.parametrize("correlation", [-1.0, -0.2, 0.0, 0.3, 1.0])
def test_the_match_is_the_least_absolute_error_of_a_linear_programme(rng, correlation):
    p = rng.normal(size=60)
    r = correlation * p + rng.standard_t(2, size=60)
    n = p.size
    design = np.column_stack([p, np.ones(n)])
    solved = linprog(
        np.concatenate([[0, 0], np.ones(n)]),
        A_ub=np.block([[design, -np.eye(n)], [-design, -np.eye(n)]]),
        b_ub=np.concatenate([r, -r]),
        bounds=[(0, None), (None, None)] + [(0, None)] * n,
    )
    shape = (1, 1, n)
    gain, offset = match_linear(p.reshape(shape), r.reshape(shape), np.ones(shape))
    assert gain >= 0
    assert np.abs(gain * p + offset - r).sum() == pytest.approx(solved.fun, rel=1e-5)


def test_a_constant_gets_gain_zero_and_the_median(pair, mask):
    _, reference = pair
    gain, offset = match_linear(np.full(SHAPE, 7.0), reference, mask)
    assert (gain, offset) == (0.0, np.median(reference[mask != 0]))


def test_an_inverted_prediction_gets_gain_zero(pair, mask):
    _, reference = pair
    gain, offset = match_linear(-reference, reference, mask)
    assert (gain, offset) == (0.0, np.median(reference[mask != 0]))
