from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from gdmnet.errors import PlanError
from gdmnet.inference.finish import (
    FinishCase,
    apply_finish,
    correction,
    fit_finish,
    kernel_of,
    mean_finish,
)
from gdmnet.metrics.spectrum import N_BINS, WINDOW, log_distance, radial_power
from gdmnet.plan import SpectralFinish

SHAPE, SPACING = (40, 44, 48), (1.0, 1.0, 1.0)
SHARPENING = tuple(np.linspace(1.0, 4.0, N_BINS).tolist())
EVERYWHERE = np.ones(SHAPE, bool)


def noise(seed: int = 0, blur: float = 1.0) -> np.ndarray:
    field = np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32)
    return gaussian_filter(field, blur)


def cases(n: int = 3) -> list[FinishCase]:
    """Predictions that are the targets, blurred."""
    reals = [noise(seed, 0.7) for seed in range(n)]
    return [FinishCase(gaussian_filter(r, 0.6), r, EVERYWHERE, SPACING) for r in reals]


def test_a_wave_grows_by_its_own_gain():
    for shell in (4, 8, 12):
        x = np.sin(2 * np.pi * shell / WINDOW * np.arange(SHAPE[2])) * np.ones(SHAPE)
        found = x + correction(x, EVERYWHERE, SPACING, SHARPENING)
        inner = (slice(8, -8),) * 3
        amplitude = np.sqrt(np.square(found[inner]).mean() / np.square(x[inner]).mean())
        assert amplitude == pytest.approx(SHARPENING[shell - 1], rel=0.05)


def test_the_fit_finds_the_blur_and_the_finish_takes_it_back():
    finish = fit_finish(cases())
    shells = np.arange(1, N_BINS + 1) / WINDOW
    wanted = np.exp(2 * (np.pi * 0.6 * shells) ** 2)
    assert np.allclose(finish.gains[:8], wanted[:8], rtol=0.06)
    assert max(finish.gains) <= 8
    assert finish.strength == 0
    whole = SpectralFinish(finish.gains, 1e9, 1.0)
    unseen = noise(9, 0.7)
    blurred = gaussian_filter(unseen, 0.6)
    power, real, before = (
        radial_power(image, EVERYWHERE, SPACING)
        for image in (apply_finish(whole, blurred, EVERYWHERE, SPACING), unseen, blurred)
    )
    floor = 1e-4 * real.max()
    assert log_distance(power, real, floor) < 0.25 * log_distance(before, real, floor)


def test_without_strength_or_gain_nothing_changes():
    x = noise()
    assert apply_finish(SpectralFinish(SHARPENING, 1.0), x, EVERYWHERE, SPACING) is x
    assert np.abs(correction(x, EVERYWHERE, SPACING, (1.0,) * N_BINS)).max() < 1e-5


def test_neither_the_bodys_edge_nor_the_volumes_end_is_seen():
    body = np.zeros(SHAPE, bool)
    body[:, 10:30, 5:40] = True
    x = np.where(body, 0.3, -1000.0).astype(np.float32)
    assert np.abs(correction(x, body, SPACING, SHARPENING)).max() < 1e-4
    x = noise()
    moved = np.where(body, x, 77.0)
    assert np.allclose(
        correction(x, body, SPACING, SHARPENING),
        correction(moved, body, SPACING, SHARPENING),
        atol=1e-3,
    )
    out = apply_finish(SpectralFinish(SHARPENING, 1.0, 0.5), moved, body, SPACING)
    assert np.array_equal(out[~body], moved[~body])
    assert out.dtype == np.float32


def test_a_step_overshoots_by_no_more_than_the_texture_and_nowhere_far_away():
    """Metal in tissue: 10 against 0, where the usual correction is 0.05."""
    x = 0.01 * noise()
    x[:, :, 24:] += 10.0
    finish = SpectralFinish(SHARPENING, 0.05, 0.5)
    change = apply_finish(finish, x, EVERYWHERE, SPACING) - x
    assert np.abs(change).max() <= 0.5 * 0.05 + 1e-5
    far = (slice(None), slice(None), slice(0, 24 - 8))
    texture = correction(0.01 * noise(), EVERYWHERE, SPACING, SHARPENING)
    assert np.allclose(change[far], 0.5 * texture[far].clip(-0.05, 0.05), atol=1e-4)


def test_the_filter_does_not_depend_on_where_the_body_lies():
    x = noise()[:, :, :24]
    wide = np.pad(x, ((0, 0), (0, 0), (13, 11)))
    body = np.pad(np.ones(x.shape, bool), ((0, 0), (0, 0), (13, 11)))
    there = correction(wide, body, SPACING, SHARPENING)[:, :, 13:37]
    assert np.allclose(there, correction(x, np.ones(x.shape, bool), SPACING, SHARPENING), atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 40, 40), (3, 40, 40), (40, 40, 1)])
def test_single_slices_are_filtered_in_their_plane(shape):
    kernel = kernel_of(SHARPENING, SPACING, shape)
    assert kernel.shape == tuple(15 if n > 3 else 1 for n in shape)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    assert np.isfinite(correction(x, np.ones(shape, bool), SPACING, SHARPENING)).all()


def test_thick_slices_have_fewer_frequencies_across():
    """A wave along z at 3 mm has the gain of its frequency in 1/mm, as one along x has."""
    spacing, period = (3.0, 1.0, 1.0), 8.0  # mm
    for axis in (0, 2):
        along = np.arange(SHAPE[axis]) * spacing[axis]
        shape = [1, 1, 1]
        shape[axis] = -1
        x = (np.sin(2 * np.pi * along / period).reshape(shape) * np.ones(SHAPE)).astype(np.float32)
        found = correction(x, EVERYWHERE, spacing, SHARPENING)
        inner = (slice(8, -8),) * 3
        gain = 1 + (found[inner] * x[inner]).mean() / np.square(x[inner]).mean()
        assert gain == pytest.approx(np.interp(WINDOW / period, range(1, 17), SHARPENING), rel=0.1)


def test_several_folds_have_one_filter():
    first, second = SpectralFinish((1.0,) * 16, 1.0, 0.5), SpectralFinish((3.0,) * 16, 2.0, 0.0)
    assert mean_finish([first, second]) == SpectralFinish((2.0,) * 16, 1.5, 0.25)
    with pytest.raises(PlanError, match="has 15 gains, not 16"):
        mean_finish([first, SpectralFinish((1.0,) * 15, 1.0)])
