"""Does a CT hold Hounsfield units? Air -1000, water 0; files often hold something else."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_AIR_BELOW = -200  # even an image without air has fat (-100) with noise around it
_SHIFT = 1024  # what scanners add to store unsigned numbers


def why_not_hounsfield(image: NDArray) -> str | None:
    """Why the values of a CT cannot be Hounsfield units, with advice; None if they can be.

    Args:
        image: (z, y, x) in file units, not constant.
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
    sides = np.concatenate([image[:, (0, -1), :].ravel(), image[:, :, (0, -1)].ravel()])
    imaged = sides[sides > image.min()]
    return imaged.size > 0 and float(np.median(imaged)) > _AIR_BELOW
