import numpy as np
import pytest
from ellipses import MU, disc, inside, line_integrals, paint, water_and_air
from scipy.interpolate import RegularGridInterpolator
from skimage.transform import iradon

from gdmnet.errors import DatasetError
from gdmnet.tomography import projection
from gdmnet.tomography.fbp import (
    WINDOWS,
    back_projector,
    filter_rows,
    is_truncated,
    ramp,
    reconstruct,
    seen,
    view_weights,
)
from gdmnet.tomography.projection import hounsfield, project
from gdmnet.tomography.scan import FILTERS, Detector, Grid, Scan, covering_scan

GRID = Grid((96, 96), (1.0, 1.0))
SOURCE = 150.0


def scans(n_views):
    return {
        "parallel": covering_scan(GRID, n_views, arc=180.0),
        "parallel, full turn": covering_scan(GRID, n_views, arc=360.0),
        "parallel, 220 degrees": covering_scan(GRID, n_views, arc=220.0),
        "flat fan": covering_scan(GRID, n_views, arc=360.0, source_distance=SOURCE),
        "curved fan": covering_scan(
            GRID, n_views, arc=360.0, source_distance=SOURCE, shape="curved"
        ),
        "flat fan, short": covering_scan(GRID, n_views, arc=240.0, source_distance=SOURCE),
        "curved fan, short": covering_scan(
            GRID, n_views, arc=260.0, source_distance=SOURCE, shape="curved"
        ),
        "far detector": Scan(n_views, 360.0, Detector(340, 1.0), SOURCE, 1.8 * SOURCE, 30.0),
    }


@pytest.mark.parametrize("name", scans(1))
def test_water_and_air_have_their_hounsfield_units(name):
    scan = scans(720)[name]
    water, air = water_and_air(38.0)
    y, x = GRID.coordinates()
    y = y[:, None]
    deep_water = inside(water, y, x, 4) & ~inside(air, y, x, -4)
    deep_air, outside = inside(air, y, x, 4), ~inside(water, y, x, -4)
    middle = inside(disc(-16.0, -16.0, 8.0, 1), y, x)
    exact = line_integrals((water, air), scan)
    own = project(paint((water, air), GRID), GRID, scan)
    for sinogram, streaks in ((own, 6), (exact, 15)):  # infinitely thin rays alias at the edges
        for window in ("ram-lak", "hann"):
            mu = reconstruct(sinogram, GRID, scan, window=window)
            hu = hounsfield(mu, MU)[0]
            assert abs(hu[deep_water].mean()) < 2
            assert abs(hu[deep_air].mean() + 1000) < 2
            assert abs(hu[outside].mean() + 1000) < 2
            assert hu[middle].std() < streaks


def test_rectangular_slices_of_unequal_spacing_stay_where_they_are():
    grid = Grid((60, 90), (2.0, 1.25))
    scan = covering_scan(grid, 200, arc=180.0)
    shapes = (disc(18.0, -22.0, 14.0, MU), disc(-25.0, 20.0, 9.0, MU))
    image = paint(shapes, grid)[0]
    found = reconstruct(line_integrals(shapes, scan), grid, scan)[0]
    assert np.abs(found - image).mean() < 0.03 * MU
    assert np.corrcoef(found.ravel(), image.ravel())[0, 1] > 0.98


@pytest.mark.parametrize(("source", "shape"), [(None, "flat"), (150.0, "flat"), (150.0, "curved")])
def test_a_shifted_detector_does_not_shift_the_image(source, shape):
    scan = Scan(120, 360.0, Detector(180, 1.0, shape, offset=4.0), source_distance=source)
    spot = (disc(12.0, -18.0, 5.0, MU),)
    image = reconstruct(line_integrals(spot, scan), GRID, scan)[0]
    y, x = GRID.coordinates()
    assert image.sum(axis=0) @ x / image.sum() == pytest.approx(12, abs=0.2)
    assert image.sum(axis=1) @ y / image.sum() == pytest.approx(-18, abs=0.2)


@pytest.mark.parametrize("window", ["ram-lak", "shepp-logan", "cosine", "hamming", "hann"])
def test_scikit_image_agrees(window, rng):
    n, scan = 65, Scan(40, 180.0, Detector(93, 1.0))
    theta = np.rad2deg(scan.angles())
    shapes = (disc(6.0, -9.0, 18.0, 1.0), disc(-10.0, 4.0, 8.0, 0.5))
    sinogram = line_integrals(shapes, scan) + rng.normal(0, 1, (1, 40, 93))
    sinogram[..., :3] = sinogram[..., -3:] = 0
    ours = reconstruct(sinogram, Grid((n, n), (1.0, 1.0)), scan, window=window)[0]
    theirs = iradon(
        sinogram[0].T,
        theta=-theta,
        circle=False,
        output_size=n,
        filter_name={"ram-lak": "ramp"}.get(window, window),
    )
    assert np.abs(ours - theirs).mean() < 0.01 * np.abs(theirs).mean()


def test_a_fan_and_its_rebinned_parallel_scan_give_the_same_image():
    parallel = covering_scan(GRID, 360, arc=180.0)
    fan = covering_scan(GRID, 360, arc=360.0, source_distance=SOURCE)
    image = paint((*water_and_air(34.0), disc(-15.0, 20.0, 6.0, MU)), GRID)
    measured = project(image, GRID, fan)[0]
    padded = np.concatenate([measured[-40:], measured, measured[:40]])  # beyond the full turn
    angles = np.deg2rad(np.arange(-40, 400))
    rebin = RegularGridInterpolator(
        (angles, fan.fan_angles()), padded, bounds_error=False, fill_value=0
    )
    gamma = np.arcsin(np.clip(parallel.distances() / SOURCE, -1, 1))
    beta = parallel.angles()[:, None] + gamma
    rebinned = rebin(np.stack(np.broadcast_arrays(beta, gamma), axis=-1))
    direct = project(image, GRID, parallel)[0]
    assert np.abs(rebinned - direct).mean() < 0.005 * direct.mean()
    from_fan = reconstruct(measured[None], GRID, fan)
    from_parallel = reconstruct(rebinned[None], GRID, parallel)
    assert np.abs(from_fan - from_parallel).mean() < 0.01 * MU


@pytest.mark.parametrize("name", scans(1))
def test_all_rays_along_a_line_count_once_together(name, rng):
    scan = scans(360)[name]
    gamma = scan.fan_angles()
    step = np.deg2rad(scan.arc / scan.n_views)
    share = view_weights(scan) / np.cos(gamma) / step
    views = range(0, scan.n_views, 7)
    for view, bin_ in [(v, b) for v in views for b in range(5, gamma.size - 5, 9)]:
        # (beta, gamma) is the line of (beta + pi - 2 gamma, -gamma), seen from its other end
        other = view + (np.pi - 2 * gamma[bin_]) / step
        ends = [other, other - 2 * np.pi / step, other + 2 * np.pi / step]
        mirrored = share[:, gamma.size - 1 - bin_]
        conjugate = sum(_between(mirrored, place, scan.arc == 360) for place in ends)
        assert share[view, bin_] + conjugate == pytest.approx(1, abs=0.02)


def _between(values, place, is_round):
    """Linear interpolation; 0 outside, unless the last value is followed by the first."""
    if not 0 <= place < values.size - (0 if is_round else 1):
        return 0.0
    first = int(place)
    return np.interp(place - first, (0, 1), values[[first, (first + 1) % values.size]])


def test_an_arc_too_short_for_its_fan_is_refused():
    scan = covering_scan(GRID, 90, arc=200.0, source_distance=SOURCE)
    with pytest.raises(
        DatasetError, match="200 degrees is too short for this fan, which needs 234"
    ):
        view_weights(scan)


def test_a_truncated_object_is_flat_up_to_the_edge_of_the_field():
    shape = (disc(0.0, 0.0, 60.0, MU),)
    scan = Scan(180, 180.0, Detector(81, 1.0))  # sees a radius of 40
    sinogram = line_integrals(shape, scan)
    assert is_truncated(sinogram)
    assert not is_truncated(line_integrals(shape, covering_scan(GRID, 180, arc=180.0)))
    found = reconstruct(sinogram, GRID, scan)[0]
    y, x = GRID.coordinates()
    radius = np.hypot(y[:, None], x)
    assert (found[radius > 40.5] == 0).all()
    assert np.array_equal(seen(scan, GRID), radius <= scan.radius())
    rim, middle = found[(radius > 34) & (radius < 39)], found[radius < 25]
    assert abs(middle.mean() / MU - 1) < 0.15
    assert abs(rim.mean() / middle.mean() - 1) < 0.15
    plain = filter_rows(sinogram, scan, "ram-lak")
    soft = filter_rows(sinogram, scan, "ram-lak", truncated=True)
    assert np.abs(plain[..., 0]).mean() > 3 * np.abs(soft[..., 0]).mean()


def test_a_truncated_curved_fan_is_reconstructed_too():
    shape = (disc(0.0, 0.0, 60.0, MU),)
    scan = Scan(180, 360.0, Detector(90, 1.0, "curved"), source_distance=SOURCE)
    found = reconstruct(line_integrals(shape, scan), GRID, scan)[0]
    y, x = GRID.coordinates()
    radius = np.hypot(y[:, None], x)
    assert found[radius < 25].mean() == pytest.approx(MU, rel=0.15)
    assert found[(radius > 34) & (radius < 39)].mean() == pytest.approx(MU, rel=0.2)


def test_the_convolution_is_the_convolution(rng):
    rows = rng.random((2, 3, 17))
    kernel, scan = ramp(17, 0.5), Scan(1, 180.0, Detector(17, 0.5))
    slow = np.stack([[np.convolve(r, kernel)[16:33] * 0.5 for r in block] for block in rows])
    assert filter_rows(rows, scan, "ram-lak") == pytest.approx(slow, rel=1e-5, abs=1e-6)


def test_smoother_windows_pass_less_noise(rng):
    noise, scan = rng.normal(size=(50, 200)), Scan(1, 180.0, Detector(200, 1.0))
    spread = [filter_rows(noise, scan, window).std() for window in FILTERS]
    assert FILTERS == tuple(WINDOWS) == ("ram-lak", "shepp-logan", "cosine", "hamming", "hann")
    assert spread == sorted(spread, reverse=True)
    flat = np.ones((1, 400))
    for window in FILTERS:  # none of them changes what is constant
        assert filter_rows(flat, scan, window)[0, 200] == pytest.approx(
            filter_rows(flat, scan, "ram-lak")[0, 200], abs=1e-4
        )


def test_slabs_and_blocks_do_not_show(monkeypatch, rng):
    grid = Grid((20, 24), (1.0, 1.0))
    scan = covering_scan(grid, 15, arc=180.0)
    sinogram = rng.random((projection.SLAB + 1, 15, scan.detector.n_bins)).astype(np.float32)
    whole = reconstruct(sinogram, grid, scan)
    alone = reconstruct(sinogram[-1:], grid, scan)
    assert whole[-1:] == pytest.approx(alone, rel=1e-4, abs=1e-5)
    back_projector.cache_clear()
    monkeypatch.setattr(projection, "BLOCK_BYTES", 1)
    in_blocks = reconstruct(sinogram, grid, scan)
    back_projector.cache_clear()
    assert in_blocks == pytest.approx(whole, rel=1e-4, abs=1e-5)
