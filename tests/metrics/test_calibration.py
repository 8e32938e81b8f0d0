from dataclasses import asdict, replace

import numpy as np
import pytest

from gdmnet.metrics.calibration import calibrate


def gaussian(rng, shape=(20, 40, 50), *, factor=1.0):
    std = rng.uniform(1, 5, shape).astype(np.float32)
    return std, rng.normal(0, factor * std).astype(np.float32)


def test_a_true_deviation_is_found_to_be_calibrated(rng):
    std, error = gaussian(rng)
    found = calibrate(std, error, np.ones(std.shape))
    assert len(found.stated) == len(found.made) == 10
    np.testing.assert_allclose(found.made, found.stated, rtol=0.1)
    assert found.factor == pytest.approx(1, abs=0.02)
    assert found.within_one == pytest.approx(0.683, abs=0.01)
    assert found.within_two == pytest.approx(0.954, abs=0.01)


def test_a_deviation_that_is_too_small_has_the_factor_it_lacks(rng):
    std, error = gaussian(rng, factor=3)
    found = calibrate(std, error, np.ones(std.shape))
    assert found.factor == pytest.approx(3, rel=0.02)
    np.testing.assert_allclose(np.divide(found.made, found.stated), 3, rtol=0.1)
    assert found.within_one == pytest.approx(0.261, abs=0.01)


def test_the_groups_are_those_of_a_slow_count(rng):
    std, error = gaussian(rng, (4, 5, 10))
    mask = rng.random(std.shape) < 0.5
    found = calibrate(std, error, mask.astype(np.uint8))
    pairs = sorted(zip(std[mask], error[mask], strict=True))
    # the first group: all up to the tenth of the way, counted along the sorted deviations
    n_first = int(np.ceil((len(pairs) - 1) * 0.1))
    first = np.array(pairs[:n_first])
    assert found.stated[0] == pytest.approx(np.sqrt((first[:, 0] ** 2).mean()), rel=1e-5)
    assert found.made[0] == pytest.approx(np.sqrt((first[:, 1] ** 2).mean()), rel=1e-5)
    assert found.within[0] == (abs(first[:, 1]) <= first[:, 0]).mean()
    assert list(found.stated) == sorted(found.stated)


def test_the_correlation_is_pearsons_with_the_absolute_error(rng):
    std, error = gaussian(rng, (3, 20, 20))
    found = calibrate(std, error, np.ones(std.shape))
    expected = np.corrcoef(std.ravel(), np.abs(error).ravel())[0, 1]
    assert found.correlation == pytest.approx(expected, rel=1e-5)
    assert calibrate(std, 2 * std, np.ones(std.shape)).correlation == pytest.approx(1)
    assert calibrate(std, -2 * std, np.ones(std.shape)).correlation == pytest.approx(1)


def test_only_the_mask_counts(rng):
    std, error = gaussian(rng, (4, 20, 20))
    mask = np.zeros(std.shape, dtype=np.uint8)
    mask[:2] = 1
    spoilt = np.where(mask, error, 1e6)
    assert calibrate(std, spoilt, mask) == calibrate(std[:2], error[:2], mask[:2])


def test_a_constant_deviation_is_one_group():
    std = np.full((2, 3, 4), 2.0, dtype=np.float32)
    error = np.where(np.arange(24).reshape(std.shape) % 2, 3.0, -1.0).astype(np.float32)
    found = calibrate(std, error, np.ones(std.shape))
    assert found.stated == (2.0,)
    assert found.made == pytest.approx((5**0.5,))
    assert found.correlation is None
    assert found.within_one == 0.5
    assert found.within_two == 1


def test_voxels_without_a_second_opinion_are_left_out_and_counted(rng):
    std, error = gaussian(rng, (4, 20, 20))
    silenced, spoilt = std.copy(), error.copy()
    silenced[0] = 0
    spoilt[0] = 1e6
    found = calibrate(silenced, spoilt, np.ones(std.shape))
    rest = calibrate(std[1:], error[1:], np.ones(std[1:].shape))
    assert found.silent == pytest.approx(0.25)
    assert found == replace(rest, silent=found.silent)
    assert {type(value) for value in asdict(found).values()} == {tuple, float}


def test_no_second_opinion_anywhere_is_no_calibration():
    zero = np.zeros((2, 2, 2), dtype=np.float32)
    assert calibrate(zero, zero + 1, np.ones(zero.shape)) is None
    assert calibrate(zero + 1, zero, zero) is None
