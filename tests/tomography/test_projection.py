import numpy as np
import pytest
from ellipses import Ellipse, disc, line_integrals, paint
from scipy.ndimage import gaussian_filter
from skimage.transform import radon

from gdmnet.tomography import projection
from gdmnet.tomography.projection import (
    attenuation,
    hounsfield,
    measure,
    project,
    project_adjoint,
    projector,
)
from gdmnet.tomography.scan import MU_WATER, Detector, Grid, Scan, covering_scan

ODD = Grid((53, 70), (1.5, 1.0))
SHAPES = (
    Ellipse(5.0, -8.0, 22.0, 12.0, 0.02, turn=0.5),
    Ellipse(-12.0, 14.0, 9.0, 15.0, 0.03, turn=-0.3),
    disc(9.0, -6.0, 4.0, -0.01),
)
SCANS = {
    "parallel": covering_scan(ODD, 24, arc=180.0),
    "turned, shifted": Scan(24, 180.0, Detector(150, 0.7, offset=0.25), start=17.0),
    "flat fan": covering_scan(ODD, 24, arc=360.0, source_distance=90.0),
    "curved fan": covering_scan(ODD, 24, arc=360.0, source_distance=90.0, shape="curved"),
    "far detector": Scan(24, 360.0, Detector(150, 1.5), 110.0, 170.0),
}


@pytest.mark.parametrize("name", SCANS)
def test_ellipses_have_their_analytic_sinograms(name):
    scan = SCANS[name]
    image = paint(SHAPES, ODD)
    found, truth = project(image, ODD, scan), line_integrals(SHAPES, scan)
    assert found.shape == (1, scan.n_views, scan.detector.n_bins)
    assert np.abs(found - truth).mean() < 0.015 * truth.mean()
    assert np.abs(found - truth).max() < 0.12 * truth.max()  # where rays graze an edge


@pytest.mark.parametrize("name", SCANS)
def test_the_adjoint_is_the_adjoint(name, rng):
    scan = SCANS[name]
    volume = rng.random((3, *ODD.shape))
    sinogram = rng.random((3, scan.n_views, scan.detector.n_bins))
    left = (project(volume, ODD, scan).astype(np.float64) * sinogram).sum((1, 2))
    back = project_adjoint(sinogram, ODD, scan)
    right = (volume * back.astype(np.float64)).sum((1, 2))
    assert np.abs(left / right - 1).max() < 1e-6


def slow(image, grid, scan):
    """Joseph's method, a ray and a step at a time."""
    (ny, nx), (dy, dx) = grid.shape, grid.spacing
    padded = np.pad(image, 1)
    result = np.zeros((scan.n_views, scan.detector.n_bins))
    for v, angle in enumerate(scan.angles()):
        for b, (t, gamma) in enumerate(zip(scan.distances(), scan.fan_angles(), strict=True)):
            c, s = np.cos(angle - gamma), np.sin(angle - gamma)
            steep = abs(c) * dx >= abs(s) * dy
            for i in range(ny if steep else nx):
                if steep:
                    y = (i - (ny - 1) / 2) * dy
                    place, n, length = (t - y * s) / c / dx + (nx - 1) / 2, nx, dy / abs(c)
                else:
                    x = (i - (nx - 1) / 2) * dx
                    place, n, length = (t - x * c) / s / dy + (ny - 1) / 2, ny, dx / abs(s)
                if not -1 < place < n:
                    continue
                first = int(np.floor(place))
                share = place - first
                line = padded[i + 1] if steep else padded[:, i + 1]
                value = (1 - share) * line[first + 1] + share * line[first + 2]
                result[v, b] += length * value
    return result


@pytest.mark.parametrize("name", ["parallel", "flat fan"])
def test_the_matrix_is_josephs_method(name, rng):
    grid = Grid((9, 12), (1.5, 1.0))
    source = None if name == "parallel" else 14.0
    scan = covering_scan(grid, 7, arc=360.0, source_distance=source)
    image = rng.random(grid.shape)
    assert project(image[None], grid, scan)[0] == pytest.approx(
        slow(image, grid, scan), rel=1e-5, abs=1e-5
    )


def test_scikit_image_agrees():
    # It turns about the pixel in the middle, and the other way round.
    grid = Grid((81, 81), (1.0, 1.0))
    image = paint((disc(6.0, -9.0, 25.0, 1.0), disc(-10.0, 4.0, 8.0, 0.5)), grid)
    image = gaussian_filter(image, (0, 2, 2))
    scan = Scan(30, 180.0, Detector(115, 1.0))
    theirs = radon(image[0], theta=-np.rad2deg(scan.angles()), circle=False).T
    ours = project(image, grid, scan)[0]
    assert theirs.shape == ours.shape
    assert np.abs(ours - theirs).mean() < 0.003 * ours.mean()
    assert np.abs(ours - theirs).max() < 0.02 * ours.max()


def test_every_slice_is_projected_by_itself(rng):
    scan = SCANS["parallel"]
    volume = rng.random((projection.SLAB + 2, *ODD.shape))
    together = project(volume, ODD, scan)
    for z in (0, projection.SLAB - 1, projection.SLAB, projection.SLAB + 1):
        alone = project(volume[z : z + 1], ODD, scan)[0]
        assert together[z] == pytest.approx(alone, rel=1e-5)


def test_line_integrals_are_in_millimetres():
    coarse, fine = Grid((20, 20), (4.0, 4.0)), Grid((40, 40), (2.0, 2.0))
    shape = (disc(0.0, 0.0, 30.0, 0.02),)
    scan = Scan(5, 180.0, Detector(3, 1.0))
    for grid in (coarse, fine):
        assert project(paint(shape, grid), grid, scan) == pytest.approx(1.2, rel=0.02)


def test_matrices_are_kept_where_they_fit_and_made_anew_where_not(monkeypatch, rng):
    scan, volume = SCANS["flat fan"], rng.random((2, *ODD.shape))
    whole = project(volume, ODD, scan)
    kept = projector(scan, ODD)
    assert projector(scan, ODD) is kept
    assert next(iter(kept))[1] is next(iter(kept))[1]
    projector.cache_clear()
    monkeypatch.setattr(projection, "BLOCK_BYTES", 1)
    monkeypatch.setattr(projection, "KEPT_BYTES", 1)
    assert project(volume, ODD, scan) == pytest.approx(whole, rel=1e-6)
    assert len(list(projector(scan, ODD))) == scan.n_views
    made = projector(scan, ODD)
    assert next(iter(made))[1] is not next(iter(made))[1]
    projector.cache_clear()


COARSE = Grid((24, 24), (4.0, 4.0))
TURN = covering_scan(COARSE, 40, arc=180.0)


def patient(value=MU_WATER, n_slices=1):
    return np.repeat(paint((disc(5.0, 3.0, 30.0, value),), COARSE), n_slices, axis=0)


def test_hounsfield_units_come_back_and_nothing_is_thinner_than_vacuum():
    hu = np.array([-3024.0, -1000.0, -1024.0, 0.0, 40.0, 3071.0])
    mu = attenuation(hu, 0.02)
    assert mu == pytest.approx([0, 0, 0, 0.02, 0.0208, 0.08142])
    assert hounsfield(mu, 0.02) == pytest.approx([-1000, -1000, -1000, 0, 40, 3071], abs=0.01)
    assert mu.dtype == hounsfield(mu, 0.02).dtype == np.float32
    assert hu[0] == -3024  # the argument stays


def test_a_bin_averages_what_its_two_rays_let_through(rng):
    found = measure(patient(), COARSE, TURN, rng, photons=None)
    halves = [
        project(
            patient(), COARSE, Scan(40, 180.0, Detector(TURN.detector.n_bins, 4.0, offset=offset))
        )
        for offset in (-0.25, 0.25)
    ]
    assert found == pytest.approx(-np.log(np.mean(np.exp(-np.array(halves)), axis=0)), abs=1e-5)


def test_noise_has_the_mean_and_the_variance_of_counted_photons(rng):
    truth = measure(patient(), COARSE, TURN, rng, photons=None)
    many = measure(patient(n_slices=300), COARSE, TURN, rng, photons=1e4)
    bias, variance = many.mean(axis=0) - truth[0], many.var(axis=0)
    assert abs(bias.mean()) < 5e-4
    assert (variance / (np.exp(truth[0]) / 1e4)).mean() == pytest.approx(1, abs=0.02)


def test_electronics_add_their_variance(rng):
    many = measure(patient(n_slices=300), COARSE, TURN, rng, photons=1e4, electronic_noise=100.0)
    truth = measure(patient(), COARSE, TURN, rng, photons=None)[0]
    share = np.exp(truth) / 1e4
    expected = share + (100 * share) ** 2
    assert (many.var(axis=0) / expected).mean() == pytest.approx(1, abs=0.03)


def test_a_bin_without_photons_counts_one(rng):
    starved = measure(patient(value=0.5), COARSE, TURN, rng, photons=100.0)
    assert starved.max() == pytest.approx(np.log(100), rel=1e-5)
    assert np.isfinite(measure(patient(value=5.0), COARSE, TURN, rng, photons=None)).all()


def test_the_generator_decides_the_noise():
    first, again, other = (
        measure(patient(), COARSE, TURN, np.random.default_rng(seed), photons=1e4)
        for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
