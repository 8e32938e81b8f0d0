from __future__ import annotations

import numpy as np
import pytest

from gdmnet.arrays.detail import lost_detail
from gdmnet.arrays.resample import resample


@pytest.fixture
def image():
    return np.random.default_rng(3).normal(size=(1, 10, 24, 30)).astype(np.float32)


def test_what_a_coarser_grid_keeps_and_what_it_loses_make_the_image(image):
    coarse = (10, 12, 15)
    kept = resample(resample(image, coarse), image.shape[1:])
    np.testing.assert_allclose(kept + lost_detail(image, coarse), image, atol=1e-6)


def test_nothing_is_lost_on_an_equal_or_a_finer_grid(image):
    assert lost_detail(image, (10, 24, 30)) is None
    assert lost_detail(image, (20, 24, 31)) is None


def test_axes_that_become_finer_lose_nothing(image):
    np.testing.assert_array_equal(
        lost_detail(image, (30, 24, 15)), lost_detail(image, (10, 24, 15))
    )


def test_a_smooth_image_has_hardly_any_detail():
    z, y, x = np.meshgrid(*(np.linspace(0, 1, n) for n in (8, 40, 40)), indexing="ij")
    smooth = np.sin(2 * z + y + 3 * x)[None].astype(np.float32)
    assert np.abs(lost_detail(smooth, (8, 20, 20))[:, :, 2:-2, 2:-2]).max() < 0.01
