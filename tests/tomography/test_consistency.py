from dataclasses import replace

import numpy as np
import pytest
from ellipses import Ellipse, disc, inside, paint
from scipy.ndimage import gaussian_filter

from gdmnet.geometry import Geometry
from gdmnet.tomography import consistency
from gdmnet.tomography.consistency import data_consistent
from gdmnet.tomography.fbp import reconstruct
from gdmnet.tomography.projection import attenuation, hounsfield, measure, project, projector
from gdmnet.tomography.scan import MU_WATER, Acquisition, Grid, Simulation, covering_scan

GRID = Grid((48, 56), (2.0, 1.5))


def truth(n_slices=1):
    body = Ellipse(2.0, -1.0, 34.0, 38.0, 1.05 * MU_WATER)
    shapes = (body, disc(10.0, 5.0, 9.0, -0.8 * MU_WATER), disc(-14.0, -9.0, 3.0, MU_WATER))
    return hounsfield(np.repeat(paint(shapes, GRID), n_slices, axis=0), MU_WATER)


def acquisition(n_views, n_slices=1, *, photons=None):
    simulation = Simulation("", "", photons, 0.0, "hann", 0, "")
    grid = Geometry((n_slices, *GRID.shape), (3.0, *GRID.spacing))
    return Acquisition(covering_scan(GRID, n_views, arc=180.0), grid, MU_WATER, simulation)


def measured(volume, how, rng):
    photons = how.simulation.photons
    return measure(attenuation(volume, MU_WATER), how.slice_grid, how.scan, rng, photons=photons)


def error(volume, reference):
    return float(np.abs(volume - reference).mean())


@pytest.mark.parametrize("photons", [None, 1e5])
def test_a_blurred_volume_gets_nearer_to_measurement_and_truth(photons, rng):
    how, ct = acquisition(40, photons=photons), truth()
    sinogram = measured(ct, how, rng)
    start = gaussian_filter(ct, (0, 1.2, 1.2))
    found = data_consistent(start, sinogram, how, iterations=8)

    def misfit(volume):
        return error(project(attenuation(volume, MU_WATER), how.slice_grid, how.scan), sinogram)

    assert found.dtype == np.float32
    assert misfit(found) < 0.8 * misfit(start)
    assert error(found, ct) < 0.9 * error(start, ct)


def test_a_reconstruction_gets_better(rng):
    how, ct = acquisition(40, photons=1e5), truth()
    sinogram = measured(ct, how, rng)
    start = hounsfield(reconstruct(sinogram, GRID, how.scan), MU_WATER)
    assert error(data_consistent(start, sinogram, how), ct) < 0.95 * error(start, ct)


def test_the_truth_is_hardly_changed_by_a_quiet_measurement(rng):
    how, ct = acquisition(40), truth()
    found = data_consistent(ct, measured(ct, how, rng), how)
    assert error(found, ct) < 5


def test_conjugate_gradients_find_the_minimum_of_the_sum(rng):
    grid = Grid((6, 7), (2.0, 1.5))
    scan = covering_scan(grid, 5, arc=180.0)
    simulation = Simulation("", "", 1e5, 500.0, "hann", 0, "")
    how = Acquisition(scan, Geometry((1, 6, 7), (1.0, 2.0, 1.5)), MU_WATER, simulation)
    start = np.zeros((1, 6, 7), dtype=np.float32)  # flat: the same error of 20 HU everywhere
    true = attenuation(start + rng.normal(0, 80, start.shape), MU_WATER)
    sinogram = measure(true, grid, scan, rng, photons=1e5)
    matrix = np.concatenate([block.toarray() for _, block in projector(scan, grid)])
    p, x0 = sinogram.ravel().astype(np.float64), attenuation(start, MU_WATER).ravel()
    counts = 1e5 * np.exp(-p)
    weights = 1 / (1 / counts + (500 / counts) ** 2 + 0.01**2)
    belief = (1000 / (20 * MU_WATER)) ** 2
    normal = matrix.T @ (weights[:, None] * matrix) + belief * np.eye(42)
    change = np.linalg.solve(normal, matrix.T @ (weights * (p - matrix @ x0)))
    wanted = start.ravel() + 1000 / MU_WATER * change
    found = data_consistent(start, sinogram, how, iterations=60)
    assert np.abs(change).max() * 1000 / MU_WATER > 3
    assert found.ravel() == pytest.approx(wanted, abs=0.1)


def test_edges_may_be_wrong_by_more_than_flat_tissue(rng):
    how, ct = acquisition(40, photons=1e5), truth()
    start = gaussian_filter(ct, (0, 1.2, 1.2))
    change = np.abs(data_consistent(start, measured(ct, how, rng), how) - start)
    y, x = GRID.coordinates()
    body = Ellipse(2.0, -1.0, 34.0, 38.0, 1.0)
    rim = inside(body, y[:, None], x, -2) & ~inside(body, y[:, None], x, 2)
    middle = inside(disc(2.0, -15.0, 6.0, 1.0), y[:, None], x)
    assert change[0][rim].mean() > 3 * change[0][middle].mean()


def test_air_in_the_body_is_no_padding(rng):
    how, ct = acquisition(40, photons=1e5), truth()
    sinogram = measured(ct, how, rng)
    y, x = GRID.coordinates()
    hole = inside(disc(10.0, 5.0, 5.0, 0.0), y[:, None], x)[None]
    body = inside(Ellipse(2.0, -1.0, 35.0, 39.0, 0.0), y[:, None], x)[None]
    prediction = np.where(body & ~hole, ct, -1024.0)
    found = data_consistent(prediction, sinogram, how)
    assert (found[~body] == -1024).all()
    assert (found[hole] > -1024).mean() > 0.9
    assert error(found[hole], ct[hole]) < error(prediction[hole], ct[hole])


def test_streaks_in_air_are_no_couch(rng):
    how, ct = acquisition(30, photons=1e5), truth()
    sinogram = measured(ct, how, rng)
    y, x = GRID.coordinates()
    body = inside(Ellipse(2.0, -1.0, 35.0, 39.0, 0.0), y[:, None], x)[None]
    prediction = np.where(body, gaussian_filter(ct, (0, 0.8, 0.8)), -1024.0)
    streaks = np.where(body, ct, -1000 + np.abs(rng.normal(0, 90, ct.shape)))
    quiet, loud = (
        data_consistent(prediction, sinogram, how, outside=outside)
        for outside in (np.full_like(ct, -1000.0), streaks)
    )
    assert np.abs(quiet - loud).max() < 40  # a few voxels above -700 HU
    assert np.median(np.abs(quiet - loud)) < 1


def test_noisy_measurements_are_trusted_less(rng):
    ct = truth()
    start = gaussian_filter(ct, (0, 1.2, 1.2))
    quiet, loud = (acquisition(40, photons=photons) for photons in (1e6, 1e2))
    sinogram = measured(ct, quiet, rng)
    strong = error(data_consistent(start, sinogram, quiet), start)
    weak = error(data_consistent(start, sinogram, loud), start)
    assert weak < 0.5 * strong


def test_a_scanners_own_record_needs_no_simulation(rng):
    how, ct = acquisition(40, photons=1e5), truth()
    sinogram = measured(ct, how, rng)
    start = gaussian_filter(ct, (0, 1.2, 1.2))
    own = data_consistent(start, sinogram, replace(how, simulation=None))
    assert own == pytest.approx(data_consistent(start, sinogram, how), abs=0.01)


def test_a_couch_outside_the_prediction_does_not_end_up_in_the_body(rng):
    how, ct = acquisition(60, photons=1e5), truth()
    y, x = GRID.coordinates()
    body = inside(Ellipse(2.0, -1.0, 35.0, 39.0, 0.0), y[:, None], x)[None]
    with_couch = ct.copy()
    with_couch[:, -5:-2, 6:-6] = 200.0  # behind the back
    assert not (body & (with_couch != ct)).any()
    sinogram = measured(with_couch, how, rng)
    fbp = hounsfield(reconstruct(sinogram, GRID, how.scan), MU_WATER)
    prediction = np.where(body, gaussian_filter(ct, (0, 0.8, 0.8)), -1024.0)
    blind = data_consistent(prediction, sinogram, how)
    found = data_consistent(prediction, sinogram, how, outside=fbp)
    assert (found[~body] == -1024).all()
    assert (blind[~body] == -1024).all()
    assert error(found[body], ct[body]) < 0.95 * error(prediction[body], ct[body])
    assert error(found[body], ct[body]) < 0.95 * error(blind[body], ct[body])


def test_slices_do_not_depend_on_each_other(monkeypatch, rng):
    how, ct = acquisition(20, n_slices=3, photons=1e5), truth(3)
    sinogram = measured(ct, how, rng)
    start = gaussian_filter(ct, (0, 1.2, 1.2)) * np.array([1.0, 0.9, 1.1])[:, None, None]
    whole = data_consistent(start, sinogram, how)
    alone = data_consistent(
        start[1:2], sinogram[1:2], replace(how, grid=replace(how.grid, shape=(1, *GRID.shape)))
    )
    assert whole[1:2] == pytest.approx(alone, abs=0.05)
    monkeypatch.setattr(consistency, "slabs", lambda n: (slice(i, i + 1) for i in range(n)))
    assert data_consistent(start, sinogram, how) == pytest.approx(whole, abs=0.05)


def test_no_iterations_change_nothing_and_wrong_shapes_are_refused(rng):
    how, ct = acquisition(20), truth()
    sinogram = measured(ct, how, rng)
    assert np.array_equal(data_consistent(ct, sinogram, how, iterations=0), ct)
    with pytest.raises(ValueError, match="do not fit"):
        data_consistent(ct[:, :-1], sinogram, how)
    with pytest.raises(ValueError, match="do not fit"):
        data_consistent(ct, sinogram[:, 1:], how)
