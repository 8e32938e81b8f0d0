"""MAE, PSNR, SSIM, sharpness and the linear intensity match of one case, inside a mask.

Arrays are (z, y, x) on one grid, in file units (CT: HU); masks are non-zero inside.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from skimage.metrics import structural_similarity

from gdmnet.arrays.crop import bounding_box, crop
from gdmnet.geometry import Spacing

SSIM_WINDOW = 7
CT_LOW, CT_RANGE = -1024.0, 4095.0  # SynthRAD2025: HU from -1024 to 3071
CT_LIKE_MINIMUM = -500.0  # a reference that goes below this is taken to be in HU


@dataclass(frozen=True)
class DataRange:
    """Where a reference's values begin and how far they reach, in file units."""

    low: float
    width: float


def data_range(reference: NDArray, mask: NDArray) -> DataRange:
    """The range that PSNR and SSIM refer to.

    References in HU (minimum at most -500) have the fixed range -1024 to 3071; all others the
    percentiles 0.5 to 99.5 of the reference inside the mask.
    """
    if float(reference.min()) <= CT_LIKE_MINIMUM:
        return DataRange(CT_LOW, CT_RANGE)
    low, high = np.percentile(reference[mask != 0], (0.5, 99.5))
    return DataRange(float(low), float(high - low))


def mae(prediction: NDArray, reference: NDArray, mask: NDArray) -> float:
    """Mean absolute error inside the mask: sum |p - r| m / sum m; nothing is clipped."""
    return float(np.abs(_inside(prediction, mask) - _inside(reference, mask)).mean())


def psnr(prediction: NDArray, reference: NDArray, mask: NDArray, width: float) -> float | None:
    """Peak signal-to-noise ratio in dB: 10 log10(width^2 / MSE inside the mask).

    Args:
        prediction: (z, y, x).
        reference: (z, y, x).
        mask: (z, y, x).
        width: the data range.

    Returns:
        None where it is not a finite number: a perfect prediction, or a range of 0.
    """
    error = float(np.square(_inside(prediction, mask) - _inside(reference, mask)).mean())
    if error == 0 or width <= 0:
        return None
    return float(10 * np.log10(width**2 / error))


def ssim(prediction: NDArray, reference: NDArray, mask: NDArray, span: DataRange) -> float | None:
    """Structural similarity (Wang et al. 2004, eq. 13): mean of the full map inside the mask.

    A uniform 7 x 7 x 7 window, K1 = 0.01, K2 = 0.03 and sample covariances as in scikit-image and
    SynthRAD; values count from the low end of the range. Outside the mask the prediction is taken
    to be right, so that only what is inside is judged. Axes shorter than the window (single
    slices) are continued by their edge.

    Returns:
        None where the range is 0.
    """
    if span.width <= 0:
        return None
    reach = SSIM_WINDOW // 2  # no voxel farther away enters a window
    box = bounding_box(mask, (reach, reach, reach))
    inside = crop(mask, box) != 0
    truth = crop(reference, box).astype(np.float64) - span.low
    guess = np.where(inside, crop(prediction, box).astype(np.float64) - span.low, truth)
    missing = [max(0, SSIM_WINDOW - size) for size in truth.shape]
    pads = [(n // 2, n - n // 2) for n in missing]
    _, full = structural_similarity(
        np.pad(guess, pads, mode="edge"),
        np.pad(truth, pads, mode="edge"),
        data_range=span.width,
        win_size=SSIM_WINDOW,
        full=True,
    )
    unpad = tuple(
        slice(first, first + size) for (first, _), size in zip(pads, truth.shape, strict=True)
    )
    return float(full[unpad][inside].mean())


def sharpness(
    prediction: NDArray, reference: NDArray, mask: NDArray, spacing: Spacing
) -> float | None:
    """Mean gradient magnitude of the prediction over the reference's, inside the mask.

    1 is as sharp as the truth, less is blurred, more is noisy. Central differences per mm.

    Returns:
        None where the reference is flat.
    """
    truth = _mean_gradient(reference, mask, spacing)
    if truth == 0:
        return None
    filled = np.where(mask != 0, prediction, reference)
    return _mean_gradient(filled, mask, spacing) / truth


def match_linear(prediction: NDArray, reference: NDArray, mask: NDArray) -> tuple[float, float]:
    """The gain >= 0 and the offset that minimise mean |gain * p + offset - r| inside the mask.

    For one gain the best offset is the median of r - gain * p; the minimum over offsets is convex
    in the gain, so a bounded search over the gain finds the one minimum. A constant prediction
    gets gain 0 and the median of the reference.
    """
    guess, truth = _inside(prediction, mask), _inside(reference, mask)
    spread = float(guess.std())
    if guess.min() == guess.max() or spread == 0 or truth.min() == truth.max():
        return 0.0, float(np.median(truth))

    def error(gain: float) -> float:
        rest = truth - gain * guess
        return float(np.abs(rest - np.median(rest)).mean())

    flat = error(0.0)
    highest = float(truth.std()) / spread
    while error(highest) < flat:  # convex: beyond such a gain there is no minimum
        highest *= 2
    found = minimize_scalar(
        error, bounds=(0.0, highest), method="bounded", options={"xatol": 1e-7 * highest}
    )
    gain = float(found.x) if found.fun < flat else 0.0
    return gain, float(np.median(truth - gain * guess))


def _inside(array: NDArray, mask: NDArray) -> NDArray:
    return array[mask != 0].astype(np.float64)


def _mean_gradient(image: NDArray, mask: NDArray, spacing: Spacing) -> float:
    squared = np.zeros(image.shape, dtype=np.float64)
    for axis, size in enumerate(image.shape):
        if size > 1:
            squared += np.gradient(image.astype(np.float64), spacing[axis], axis=axis) ** 2
    return float(np.sqrt(squared[mask != 0]).mean())
