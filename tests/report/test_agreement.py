import numpy as np
import pytest

from gdmnet.metrics.edges import AIR_BELOW, BONE_ABOVE
from gdmnet.metrics.image import tissues
from gdmnet.report.figures import N_BINS, agreement, worst_places

SHAPE = (6, 20, 30)


@pytest.fixture
def case(rng):
    target = rng.uniform(-1000, 1000, SHAPE).astype(np.float32)
    prediction = target + rng.normal(20, 50, SHAPE).astype(np.float32)
    mask = (rng.uniform(size=SHAPE) < 0.7).astype(np.uint8)
    return prediction, target, mask


def test_errors_are_those_of_numpy(case):
    prediction, target, mask = case
    found = agreement(prediction, target, mask, (-200.0, 200.0))
    errors = (prediction - target)[mask != 0].astype(np.float64)
    assert found.whole.n == errors.size
    assert found.whole.bias == pytest.approx(errors.mean())
    assert found.whole.sd == pytest.approx(errors.std())
    assert found.whole.mae == pytest.approx(np.abs(errors).mean())


def test_bands_part_by_the_target(case):
    prediction, target, mask = case
    found = agreement(prediction, target, mask, (-200.0, 200.0))
    inside = (mask != 0) & (target >= -200) & (target <= 200)
    errors = (prediction - target)[inside]
    assert [(b.low, b.high) for b in found.bands] == [(None, -200), (-200, 200), (200, None)]
    assert found.bands[1].n == errors.size
    assert found.bands[1].bias == pytest.approx(errors.mean(), rel=1e-4)
    assert sum(band.n for band in found.bands) == found.whole.n


def test_hounsfield_bands_are_the_tissues_of_the_metrics(rng):
    target = rng.integers(-210, 211, (3, 17, 21)).astype(np.float32)
    target[0, 0, :8] = -200, 200, 200, 200, -200, 201, -201, 0
    prediction, mask = target + rng.normal(0, 30, target.shape), np.ones(target.shape)
    found = agreement(prediction, target, mask, (AIR_BELOW, BONE_ABOVE)).bands
    for band, tissue in zip(found, tissues(target).values(), strict=True):
        assert band.n == np.count_nonzero(tissue)
        assert band.mae == pytest.approx(np.abs(prediction - target)[tissue].mean())


def test_an_empty_band_has_no_values(case):
    prediction, target, mask = case
    band = agreement(prediction, target, mask, (5000.0,)).bands[1]
    assert (band.n, band.bias, band.sd, band.mae) == (0, None, None, None)


def test_differences_are_counted_as_by_numpy(case):
    prediction, target, mask = case
    found = agreement(prediction, target, mask, ())
    guess, truth = (image[mask != 0] for image in (prediction, target))
    limit = found.error_limit
    ends = ((found.low, found.high), (-limit, limit))
    values = [
        np.clip(v, *e) for v, e in zip(((guess + truth) / 2, guess - truth), ends, strict=True)
    ]
    edges = [np.linspace(*e, N_BINS + 1) for e in ends]
    slow, _, _ = np.histogram2d(*values, bins=edges)
    assert found.differences.sum() == np.count_nonzero(mask)
    assert np.abs(found.differences - slow).sum() < 0.01 * slow.sum()  # rounding at edges


def test_differences_are_counted_at_the_mean_of_both():
    target = np.zeros((1, 10, 10))
    target[0, :5] = 100
    prediction = target + np.where(target > 0, 30.0, -10.0)
    found = agreement(prediction, target, np.ones(target.shape), ())
    (low, _), (high, _) = np.argwhere(found.differences)
    assert low < high  # rows: means -5 and 115
    rows, columns = np.nonzero(found.differences)
    middle = N_BINS / 2
    assert columns[np.argmax(rows)] > middle > columns[np.argmin(rows)]


def test_the_worst_place_is_found_and_the_second_lies_apart():
    error = np.zeros((20, 50, 60))
    error[4:8, 30:36, 50:56] = 100
    error[14:18, 10:16, 6:12] = 70
    error[0, 0, 59] = 5000  # outside the mask
    mask = np.ones(error.shape)
    mask[0, 0, 59] = 0
    first, second = worst_places(error, mask, (2, 2, 2), (4.0, 4.0, 4.0))[:2]
    assert np.abs(np.subtract(first.at, (3, 16, 26))).max() <= 1
    assert np.abs(np.subtract(second.at, (8, 6, 4))).max() <= 1
    assert first.error > second.error > 0
