"""Does a CT hold Hounsfield units? Air -1000, water 0; files often hold something else, or fill."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from gdmnet.arrays.body import joined_to_border
from gdmnet.geometry import Spacing

_AIR_BELOW = -200  # even an image without air has fat (-100) with noise around it
_SHIFT = 1024  # what scanners add to store unsigned numbers
_MOST_AIR = -500  # HU; what is filled with more is taken for tissue
_THICK = 5.0  # mm to each side: noise, skin and its rounding are never one value so far
_LEAST_FILLED = 0.01  # of the image


def why_not_hounsfield(image: NDArray) -> str | None:
    """Why the values of a CT cannot be Hounsfield units, with advice; None if they can be.

    The image is (z, y, x) in file units and not constant.
    """
    low, high = float(image.min()), float(image.max())
    if low >= -1.5 and high <= 1.5:
        return (
            f"not in HU: the values lie between {low:g} and {high:g}, as in a normalised image;"
            " export the CT in Hounsfield units"
        )
    if _is_shifted(image):
        return (
            f"not in HU: soft tissue lies near {_SHIFT} instead of 0; subtract {_SHIFT}"
            " (apply the rescale intercept)"
        )
    if low >= _AIR_BELOW:
        return (
            f"not in HU: the lowest value is {low:g}, but air is -1000; export the CT in Hounsfield"
            f" units, not windowed (if {_SHIFT} was added, subtract it)"
        )
    return None


def _is_shifted(image: NDArray) -> bool:
    """True if soft tissue stands near 1024 and air near 0 behind padding that hides the shift.

    Without padding the minimum tells. With it, two signs must agree. In HU the histogram falls
    from 700 on (spongy to compact bone); with 1024 added, soft tissue (-50 to 100 HU) stands at
    974 to 1124, and little but lung between 700 and 850. And what borders the image at its sides,
    padding apart, is air: near 0 rather than near -1000 (a phantom may have any bone).
    """
    slope = int(np.count_nonzero((image >= 700) & (image < 850)))
    peak = int(np.count_nonzero((image >= _SHIFT - 50) & (image < _SHIFT + 100)))
    if peak <= 2 * slope or peak <= 0.01 * image.size:
        return False
    sides = _sides(image)
    imaged = sides[sides > image.min()]
    return imaged.size > 0 and float(np.median(imaged)) > _AIR_BELOW


def filled(image: NDArray, spacing: Spacing) -> tuple[float, NDArray] | None:
    """What a resampling or a field of view filled: the value, and boolean voxels (z, y, x).

    It is one exact value from the sides of the slices on, thicker than anything that was measured.
    """
    values, counts = np.unique(_sides(image), return_counts=True)
    if not values.size:
        return None
    value = values[counts.argmax()]
    region = joined_to_border(image == value)
    if region.mean() < _LEAST_FILLED or not core(region, spacing).any():
        return None
    return float(value), region


def core(region: NDArray, spacing: Spacing) -> NDArray:
    """The voxels of a region (z, y, x) that lie 5 mm deep in it, along every axis."""
    size = [2 * max(1, round(_THICK / side)) + 1 for side in spacing]
    return np.asarray(ndimage.minimum_filter(region, size, mode="nearest"))


def why_filled(image: NDArray, spacing: Spacing) -> str | None:
    """Why a CT (z, y, x) must not be filled as it is, with advice; None for air or nothing."""
    found = filled(image, spacing)
    if found is None or found[0] <= _MOST_AIR:
        return None
    return (
        f"{found[1].mean():.0%} of the image is filled with exactly {found[0]:g} HU from its side"
        " on, which is tissue; fill what lies outside the field of view with -1000"
    )


def _sides(image: NDArray) -> NDArray:
    """What borders the axial slices; an axis of one voxel has no ends."""
    y, x = (n > 1 for n in image.shape[1:])
    ends = [image[:, (0, -1), :].ravel()] * y + [image[:, :, (0, -1)].ravel()] * x
    return np.concatenate([image[:0].ravel(), *ends])
