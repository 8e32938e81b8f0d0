"""Augmentation: one spatial transform for source, target and mask; intensities of MR sources.

The three are channels of one array and share one set of coordinates, so they cannot drift apart,
and the target never travels as a segmentation (batchgenerators would interpolate it value by
value, for hours). The region that the coordinates need is read with each channel's own background
around the volume, so that nothing but that background can come in at a border.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from batchgenerators.augmentations.utils import (
    create_zero_centered_coordinate_mesh,
    interpolate_img,
    rotate_coords_3d,
    scale_coords,
)
from batchgenerators.transforms.abstract_transforms import Compose
from batchgenerators.transforms.color_transforms import (
    BrightnessMultiplicativeTransform,
    ContrastAugmentationTransform,
    GammaTransform,
)
from numpy.typing import NDArray

from gdmnet.geometry import Shape, Spacing

# Half of nnU-Net's: an interpolated target is a softened one, and teaches blur.
P_ROTATION, P_SCALE = 0.1, 0.1
ANGLE_3D, ANGLE_IN_PLANE = np.deg2rad(15.0), np.deg2rad(30.0)
SCALES = (0.85, 1.2)
ANISOTROPY = 3.0  # nnU-Net's: axes whose patch size or spacing differ by more are never mixed


def rotation_axes(patch: Shape, spacing: Spacing) -> tuple[bool, bool, bool]:
    """Which axes (z, y, x) may be rotated about: those whose plane is not too anisotropic."""

    def may_mix(a: int, b: int) -> bool:
        sizes, lengths = (patch[a], patch[b]), (spacing[a], spacing[b])
        alike = all(max(pair) / min(pair) <= ANISOTROPY for pair in (sizes, lengths))
        return alike and min(sizes) > 1

    return may_mix(1, 2), may_mix(0, 2), may_mix(0, 1)


def draw_coordinates(patch: Shape, spacing: Spacing, rng: np.random.Generator) -> NDArray | None:
    """Where a patch takes its voxels from after a random rotation and zoom.

    Rotations are rotations of the patient: in mm, not in voxels. Spacing is in mm (z, y, x).

    Returns:
        float64 (3, z, y, x), voxels relative to the middle of the patch; None for no transform.
    """
    axes = rotation_axes(patch, spacing)
    rotates, zooms = rng.random() < P_ROTATION, rng.random() < P_SCALE
    limit = ANGLE_3D if all(axes) else ANGLE_IN_PLANE
    angles = rng.uniform(-limit, limit, size=3) * axes
    factor = rng.uniform(SCALES[0], 1.0) if rng.random() < 0.5 else rng.uniform(1.0, SCALES[1])
    if not any(axes) or not (rotates or zooms):
        return None
    coordinates = create_zero_centered_coordinate_mesh(patch)
    if rotates:
        coordinates = scale_coords(coordinates, spacing)
        coordinates = rotate_coords_3d(coordinates, *angles)  # about z, y and x, in our order
        coordinates = scale_coords(coordinates, [1.0 / length for length in spacing])
    if zooms:
        in_plane = [any(axes[other] for other in range(3) if other != axis) for axis in range(3)]
        coordinates = scale_coords(coordinates, [factor if zoomed else 1.0 for zoomed in in_plane])
    return coordinates


def region_of(coordinates: NDArray) -> tuple[Shape, Shape]:
    """Start and size (z, y, x) of the smallest box of voxels that linear interpolation needs.

    The coordinates are (3, z, y, x) in voxels of the volume.
    """
    flat = coordinates.reshape(3, -1)
    first = np.floor(flat.min(axis=1)).astype(int)
    last = np.ceil(flat.max(axis=1)).astype(int)
    start = (int(first[0]), int(first[1]), int(first[2]))
    size = tuple(int(n) for n in last - first + 1)
    return start, (size[0], size[1], size[2])


def sample(region: NDArray, coordinates: NDArray) -> NDArray:
    """Every channel of a region (c, z, y, x) at the same coordinates, by linear interpolation.

    They are (3, z, y, x) in voxels of the region, inside it; float32 (c, z, y, x) of their shape.
    """
    return np.stack([interpolate_img(c, coordinates, order=1, mode="nearest") for c in region])


def mirror(patch: NDArray, rng: np.random.Generator) -> NDArray:
    """Flip each spatial axis of (c, z, y, x) with probability one half: a view."""
    axes = tuple(axis for axis in (1, 2, 3) if rng.random() < 0.5)
    return np.flip(patch, axes)


def intensity_transforms() -> Compose:
    """Brightness, contrast and gamma, for a batch (b, c, z, y, x) under the key "data".

    nnU-Net's noise, blur and low resolution are left out: they take detail from the source that
    the target then cannot be predicted from. The rest draws from Python's and numpy's global
    generators (`seeds.seeded_globals`).
    """
    return Compose(
        [
            BrightnessMultiplicativeTransform((0.75, 1.25), p_per_sample=0.15),
            ContrastAugmentationTransform((0.75, 1.25), p_per_sample=0.15),
            GammaTransform(
                (0.7, 1.5), False, per_channel=True, retain_stats=True, p_per_sample=0.3
            ),
        ]
    )


def augment_intensities(source: NDArray, channels: Sequence[int], transforms: Compose) -> None:
    """Change the MR-like channels of sources, float32 (b, c, z, y, x), in place."""
    if channels:
        chosen = list(channels)
        source[:, chosen] = transforms(data=source[:, chosen])["data"]
