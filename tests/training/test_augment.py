import numpy as np
import pytest
from batchgenerators.augmentations.utils import create_zero_centered_coordinate_mesh
from scipy.ndimage import map_coordinates

from gdmnet.models import seeds
from gdmnet.training import augment

CUBE = (8, 8, 8)


def _drawn(patch, spacing, n=200):
    rng = np.random.default_rng(0)
    draws = (augment.draw_coordinates(patch, spacing, rng) for _ in range(n))
    return [coordinates for coordinates in draws if coordinates is not None]


@pytest.mark.parametrize(
    ("patch", "spacing", "axes"),
    [
        ((48, 48, 48), (1, 1, 1), (True, True, True)),
        ((48, 48, 48), (3, 1, 1), (True, True, True)),
        ((48, 48, 48), (3.1, 1, 1), (True, False, False)),
        ((48, 48, 48), (1, 3.1, 1), (False, True, False)),
        ((8, 48, 48), (1, 1, 1), (True, False, False)),
        ((48, 48, 8), (1, 1, 1), (False, False, True)),
        ((1, 64, 64), (5, 1, 1), (True, False, False)),
        ((1, 1, 64), (1, 1, 1), (False, False, False)),
    ],
)
def test_a_thin_or_coarse_axis_is_never_rotated_into(patch, spacing, axes):
    assert augment.rotation_axes(patch, spacing) == axes


@pytest.mark.parametrize(("patch", "spacing"), [((3, 12, 12), (1, 1, 1)), (CUBE, (5, 1, 1))])
def test_in_plane_transforms_keep_every_slice_in_its_plane(patch, spacing):
    still = create_zero_centered_coordinate_mesh(patch)
    drawn = _drawn(patch, spacing)
    assert drawn
    for coordinates in drawn:
        np.testing.assert_allclose(coordinates[0], still[0], atol=1e-9)
        assert not np.allclose(coordinates[1:], still[1:])


def test_a_line_of_voxels_is_never_transformed():
    assert _drawn((1, 1, 32), (1, 1, 1)) == []


def test_about_four_fifths_of_the_patches_stay_uninterpolated():
    assert 0.13 < len(_drawn(CUBE, (1, 1, 1), 400)) / 400 < 0.25  # 1 - .9 * .9 = .19


def test_transforms_keep_lengths_in_millimetres_but_for_one_zoom():
    spacing = np.array([2.0, 1.0, 0.8])
    for coordinates in _drawn(CUBE, tuple(spacing), 60):
        steps = [np.diff(coordinates, axis=a)[:, 0, 0, 0] * spacing for a in (1, 2, 3)]
        factors = [np.linalg.norm(s) / length for s, length in zip(steps, spacing, strict=True)]
        assert np.ptp(factors) < 1e-9
        assert augment.SCALES[0] <= factors[0] <= augment.SCALES[1]
        cosines = np.array([steps[0] @ steps[1], steps[0] @ steps[2], steps[1] @ steps[2]])
        np.testing.assert_allclose(cosines, 0, atol=1e-9)


def test_the_angles_are_about_our_axes_in_our_order():
    """Through z alone for a patch that is thin along x: the x coordinate may not move."""
    for coordinates in _drawn((12, 12, 2), (1, 1, 1)):
        np.testing.assert_allclose(
            coordinates[2], create_zero_centered_coordinate_mesh((12, 12, 2))[2], atol=1e-9
        )


def test_coordinates_that_do_not_move_give_the_patch_back(rng):
    region = rng.normal(size=(2, *CUBE)).astype(np.float32)
    still = create_zero_centered_coordinate_mesh(CUBE) + 3.5
    assert augment.region_of(still) == ((0, 0, 0), CUBE)
    np.testing.assert_allclose(augment.sample(region, still), region, atol=1e-6)


def test_the_region_holds_all_that_interpolation_needs(rng):
    """Sampling the region equals sampling a volume that has no border near."""
    volume = rng.normal(size=(2, 40, 40, 40)).astype(np.float32)
    for coordinates in _drawn(CUBE, (1, 1, 1), 40):
        coordinates = coordinates + 20.3
        start, size = augment.region_of(coordinates)
        box = tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))
        shifted = coordinates - np.reshape(start, (3, 1, 1, 1))
        sampled = augment.sample(volume[(slice(None), *box)], shifted)
        slow = [map_coordinates(channel, coordinates, order=1) for channel in volume]
        np.testing.assert_allclose(sampled, slow, atol=1e-5)


def test_mirroring_flips_each_axis_about_half_the_time(rng):
    patch = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
    seen = set()
    for seed in range(60):
        flipped = augment.mirror(patch, np.random.default_rng(seed))
        axes = [
            a
            for a in (1, 2, 3)
            if np.array_equal(*(x.take(0, a) for x in (np.flip(patch, a), patch)))
        ]
        assert axes == []  # noise: no axis looks like its mirror
        candidates = [
            flips
            for flips in np.ndindex(2, 2, 2)
            if np.array_equal(flipped, np.flip(patch, tuple(1 + a for a in range(3) if flips[a])))
        ]
        assert len(candidates) == 1
        seen.add(candidates[0])
    assert len(seen) == 8


@pytest.mark.parametrize("patch", [(8, 8, 8), (1, 12, 12), (2, 3, 12)])
def test_intensities_change_in_the_chosen_channels_only(patch, rng):
    transforms = augment.intensity_transforms()
    changed = 0
    for seed in range(12):
        source = rng.normal(size=(2, 3, *patch)).astype(np.float32)
        before = source.copy()
        with seeds.seeded_globals(np.random.default_rng(seed)):
            augment.augment_intensities(source, [0, 2], transforms)
        np.testing.assert_array_equal(source[:, 1], before[:, 1])
        assert np.isfinite(source).all()
        changed += not np.array_equal(source, before)
    assert changed > 6


def test_no_channel_means_no_change(rng):
    source = rng.normal(size=(1, 1, *CUBE)).astype(np.float32)
    before = source.copy()
    augment.augment_intensities(source, [], augment.intensity_transforms())
    np.testing.assert_array_equal(source, before)
