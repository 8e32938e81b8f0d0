import numpy as np
import pytest
from scipy.special import erf

from gdmnet.metrics.edges import edge_width, gradient_magnitudes

SHAPE, SPACING = (24, 40, 44), (1.5, 1.0, 0.8)


def step(sigma, *, normal=(0, 0, 1), shift=0.0, low=-900.0, high=900.0):
    """A plane edge blurred by a Gaussian of sigma mm; the profile is known in closed form."""
    grid = np.indices(SHAPE).astype(float)
    mm = sum(
        n * mm * (g - size / 2) for n, mm, g, size in zip(normal, SPACING, grid, SHAPE, strict=True)
    )
    share = (1 + erf((mm / np.linalg.norm(normal) - shift) / (sigma * np.sqrt(2)))) / 2
    return low + (high - low) * share


def everywhere():
    return np.ones(SHAPE, dtype=bool)


@pytest.mark.parametrize("normal", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0.5, 1, -1)])
def test_a_known_blur_widens_edges_by_the_ratio_of_sigmas(normal):
    reference, prediction = step(1.0, normal=normal), step(1.6, normal=normal)
    found = edge_width(prediction, reference, everywhere(), SPACING, hounsfield=True)
    assert found == pytest.approx(1.6, rel=0.12)  # voxels of 1.5 mm do not show 1 mm exactly


def test_the_width_is_exact_where_voxels_are_fine():
    spacing = (0.5, 0.5, 0.5)
    x = (np.arange(44) - 21.7) * 0.5
    lines = [-900 + 1800 * (1 + erf(x / (s * np.sqrt(2)))) / 2 for s in (0.5, 0.8)]
    reference, prediction = (np.broadcast_to(line, (12, 12, 44)) for line in lines)
    mask = np.ones(reference.shape, dtype=bool)
    found = edge_width(prediction, reference, mask, spacing, hounsfield=True)
    assert found == pytest.approx(1.6, rel=0.03)


def test_place_contrast_and_offset_are_not_width():
    reference = step(1.0)
    for changed in (step(1.0, shift=1.2), 0.7 * reference + 50):
        found = edge_width(changed, reference, everywhere(), SPACING, hounsfield=True)
        assert found == pytest.approx(1.0, rel=0.04)


def test_sharper_than_the_truth_is_below_one_and_a_lost_edge_is_as_wide_as_the_profile():
    reference = step(1.2)
    sharp = edge_width(step(0.8), reference, everywhere(), SPACING, hounsfield=True)
    assert 0.6 < sharp < 0.8
    lost = edge_width(0.4 * reference, reference, everywhere(), SPACING, hounsfield=True)
    assert lost == pytest.approx(10 * 0.8 / (2.563 * 1.2), rel=0.05)


def test_only_borders_of_bone_and_air_count_in_hounsfield_units():
    for low, high in ((-900, 60), (40, 900)):
        tissue = step(0.6, low=low, high=high)
        assert edge_width(tissue, tissue, everywhere(), SPACING, hounsfield=True) is None
        assert edge_width(tissue, tissue, everywhere(), SPACING, hounsfield=False) == 1


def test_edges_outside_the_mask_do_not_count():
    reference = step(0.6)
    mask = everywhere()
    mask[..., 20:26] = False
    assert edge_width(reference, reference, mask, SPACING, hounsfield=True) is None


def test_what_lies_outside_the_mask_does_not_change_a_width(rng):
    reference, mask = step(0.6), everywhere()
    mask[..., 26:] = False
    changed = np.where(mask, reference, rng.normal(size=SHAPE) * 1000)
    assert edge_width(changed, reference, mask, SPACING, hounsfield=True) == 1


def test_a_flat_reference_has_no_edges():
    flat = np.zeros(SHAPE)
    for hounsfield in (True, False):
        assert edge_width(flat, flat, everywhere(), SPACING, hounsfield=hounsfield) is None


@pytest.mark.parametrize("shape", [(40, 5, 6), (1, 7, 6), (17, 4, 1)])
def test_gradients_slab_by_slab_are_those_of_the_whole_volume(rng, shape):
    image, mask = rng.normal(size=shape), rng.random(shape) < 0.5
    squared = np.zeros(shape)
    for axis, n in enumerate(shape):
        if n > 1:
            squared += np.gradient(image, SPACING[axis], axis=axis) ** 2
    found = gradient_magnitudes(image, mask, SPACING)
    np.testing.assert_allclose(found, np.sqrt(squared)[mask], rtol=1e-5)
