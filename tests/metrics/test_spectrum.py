import numpy as np
import pytest
from scipy.ndimage import fourier_gaussian

from gdmnet.metrics.spectrum import (
    N_BINS,
    WINDOW,
    _starts,
    log_distance,
    radial_power,
    window_shape,
)

FREQUENCIES = np.arange(1, N_BINS + 1) / WINDOW  # 1/mm, where the finest axis has voxels of 1 mm


def everywhere(image):
    return np.ones(image.shape, dtype=bool)


def slow_radial_power(image, spacing):
    """The definition for an image of exactly one window: a plain sum over all of its waves."""
    hann = [np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 for n in image.shape]
    weights = np.einsum("i,j,k->ijk", *hann)
    weighted = weights * (image - (weights * image).sum() / weights.sum())
    values = [[] for _ in range(N_BINS + 1)]
    length = WINDOW * min(spacing)
    z, y, x = (np.arange(n) for n in image.shape)
    for index in np.ndindex(*image.shape):
        signed = [i if i <= n // 2 else i - n for i, n in zip(index, image.shape, strict=True)]
        k = [i / (n * mm) for i, n, mm in zip(signed, image.shape, spacing, strict=True)]
        shell = round(np.linalg.norm(k) * length)
        if 1 <= shell <= N_BINS:
            waves = [
                np.exp(-2j * np.pi * i * axis / n)
                for i, axis, n in zip(index, (z, y, x), image.shape, strict=True)
            ]
            values[shell].append(np.abs(np.einsum("ijk,i,j,k", weighted, *waves)) ** 2)
    return np.array([np.mean(v) if v else np.nan for v in values[1:]]) / (weights**2).sum()


def test_the_power_of_one_window_is_that_of_the_plain_sum(rng):
    image, spacing = rng.normal(size=(5, 7, 16)) + 3, (2.0, 1.5, 1.0)
    expected = slow_radial_power(image, spacing)
    assert np.isnan(expected).any()  # coarse waves leave shells empty
    np.testing.assert_allclose(radial_power(image, everywhere(image), spacing), expected, rtol=1e-4)


def test_white_noise_has_its_variance_at_every_frequency(rng):
    noise = rng.normal(size=(96, 96, 96)) * 7 + 50
    power = radial_power(noise, everywhere(noise), (1, 1, 1))
    np.testing.assert_allclose(power[1:], 49, rtol=0.1)
    np.testing.assert_allclose(power[5:], 49, rtol=0.03)
    double = radial_power(2 * noise, everywhere(noise), (1, 1, 1))
    assert log_distance(double, power, 0.0) == pytest.approx(20 * np.log10(2), abs=1e-4)


def test_a_known_blur_lowers_the_spectrum_as_the_formula_says(rng):
    spacing, sigma = (2.0, 1.0, 1.0), 0.6
    noise = rng.normal(size=(64, 96, 96))
    voxels = [sigma / mm for mm in spacing]
    blurred = np.fft.ifftn(fourier_gaussian(np.fft.fftn(noise), voxels)).real
    before, after = (radial_power(a, everywhere(a), spacing) for a in (noise, blurred))
    drop = 10 * np.log10(np.e) * (2 * np.pi * FREQUENCIES * sigma) ** 2
    assert 10 < drop.max() < 20
    np.testing.assert_allclose(10 * np.log10(before / after), drop, atol=0.8)
    expected = np.sqrt(np.square(drop).mean())
    assert log_distance(after, before, 0.0) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize(("axis", "waves"), [(0, 0.1), (1, 0.2), (2, 0.3)])
def test_a_wave_appears_at_its_frequency_per_millimetre(axis, waves):
    spacing = (3.0, 1.5, 1.0)
    place = np.indices((40, 60, 70))[axis] * spacing[axis]
    image = np.sin(2 * np.pi * waves * place)
    power = radial_power(image, everywhere(image), spacing)
    nearest = np.abs(FREQUENCIES - waves).argmin()
    assert np.nanargmax(power) == nearest


def test_the_mean_and_what_is_far_from_the_mask_do_not_count(rng):
    image = rng.normal(size=(32, 32, 96))
    mask = everywhere(image)
    mask[..., 32:] = False
    changed = image + 1000
    changed[..., 48:] = 7
    power = radial_power(image, mask, (1, 1, 1))
    np.testing.assert_allclose(radial_power(changed, mask, (1, 1, 1)), power, rtol=1e-3)


def test_windows_are_cubes_in_millimetres_and_thick_slices_stay_single():
    assert window_shape((100, 200, 200), (1.0, 1.0, 1.0)) == (32, 32, 32)
    assert window_shape((100, 200, 200), (3.0, 1.0, 1.0)) == (11, 32, 32)
    assert window_shape((100, 20, 200), (12.0, 1.0, 1.0)) == (1, 20, 32)
    assert window_shape((1, 200, 200), (0.1, 1.0, 1.0)) == (1, 32, 32)


def test_windows_lie_in_the_mask_or_where_there_is_most_of_it():
    mask = np.zeros((32, 32, 128), dtype=bool)
    mask[..., 40:] = True
    starts = _starts(mask, (32, 32, 32), 9)
    assert starts == [(0, 0, x) for x in (32, 48, 64, 80, 96)]
    small = np.zeros_like(mask)
    small[3:6, 3:6, 3:6] = True
    assert _starts(small, (32, 32, 32), 9) == [(0, 0, 0)]


def test_many_windows_are_thinned_evenly():
    starts = _starts(np.ones((200, 120, 120), dtype=bool), (8, 8, 8), 100)
    assert len(set(starts)) == 100
    assert starts[0] == (0, 0, 0)
    assert starts[-1] == (192, 112, 112)


def test_a_floor_hides_what_is_too_weak_to_matter():
    weak, none = np.full(N_BINS, 1e-6), np.zeros(N_BINS)
    assert log_distance(weak, none, 1.0) < 1e-4
    nothing = np.full(N_BINS, np.nan)
    assert log_distance(nothing, nothing, 1.0) is None
