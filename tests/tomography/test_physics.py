import numpy as np
import pytest
from ellipses import disc, paint

from gdmnet.tomography.physics import attenuation, hounsfield, measure
from gdmnet.tomography.projection import project
from gdmnet.tomography.scan import Detector, Grid, Scan, covering_scan
from gdmnet.tomography.settings import MU_WATER

GRID = Grid((24, 24), (4.0, 4.0))
SCAN = covering_scan(GRID, 40, arc=180.0)


def patient(value=MU_WATER, n_slices=1):
    return np.repeat(paint((disc(5.0, 3.0, 30.0, value),), GRID), n_slices, axis=0)


def test_hounsfield_units_come_back_and_nothing_is_thinner_than_vacuum():
    hu = np.array([-3024.0, -1000.0, -1024.0, 0.0, 40.0, 3071.0])
    mu = attenuation(hu, 0.02)
    assert mu == pytest.approx([0, 0, 0, 0.02, 0.0208, 0.08142])
    assert hounsfield(mu, 0.02) == pytest.approx([-1000, -1000, -1000, 0, 40, 3071], abs=0.01)
    assert mu.dtype == hounsfield(mu, 0.02).dtype == np.float32
    assert hu[0] == -3024  # the argument stays


def test_a_bin_averages_what_its_two_rays_let_through(rng):
    found = measure(patient(), GRID, SCAN, rng, photons=None)
    halves = [
        project(
            patient(),
            GRID,
            Scan(40, 180.0, Detector(SCAN.detector.n_bins, 4.0, offset=offset)),
        )
        for offset in (-0.25, 0.25)
    ]
    assert found == pytest.approx(-np.log(np.mean(np.exp(-np.array(halves)), axis=0)), abs=1e-5)


def test_noise_has_the_mean_and_the_variance_of_counted_photons(rng):
    truth = measure(patient(), GRID, SCAN, rng, photons=None)
    many = measure(patient(n_slices=300), GRID, SCAN, rng, photons=1e4)
    bias, variance = many.mean(axis=0) - truth[0], many.var(axis=0)
    assert abs(bias.mean()) < 5e-4
    assert (variance / (np.exp(truth[0]) / 1e4)).mean() == pytest.approx(1, abs=0.02)


def test_electronics_add_their_variance(rng):
    many = measure(patient(n_slices=300), GRID, SCAN, rng, photons=1e4, electronic_noise=100.0)
    truth = measure(patient(), GRID, SCAN, rng, photons=None)[0]
    share = np.exp(truth) / 1e4
    expected = share + (100 * share) ** 2
    assert (many.var(axis=0) / expected).mean() == pytest.approx(1, abs=0.03)


def test_a_bin_without_photons_counts_one(rng):
    starved = measure(patient(value=0.5), GRID, SCAN, rng, photons=100.0)
    assert starved.max() == pytest.approx(np.log(100), rel=1e-5)
    assert np.isfinite(measure(patient(value=5.0), GRID, SCAN, rng, photons=None)).all()


def test_the_generator_decides_the_noise():
    first, again, other = (
        measure(patient(), GRID, SCAN, np.random.default_rng(seed), photons=1e4)
        for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
