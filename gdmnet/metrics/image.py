"""MAE, bias, tissue bands, PSNR, sharpness and two intensity matches of one case, inside a mask.

Arrays are (z, y, x) on one grid, in file units (CT: HU); masks are non-zero inside.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from gdmnet.arrays.crop import bounding_box, crop
from gdmnet.geometry import Spacing
from gdmnet.metrics.conventions import CT_LOW, CT_RANGE, DataRange, is_ct_like
from gdmnet.metrics.edges import AIR_BELOW, BONE_ABOVE, gradient_magnitudes


def cut_out(
    prediction: NDArray, reference: NDArray, mask: NDArray, margin: int
) -> tuple[NDArray, NDArray, NDArray]:
    """Prediction, reference and mask (bool) around the mask, with a margin in voxels.

    Outside the mask the prediction is taken to be right.
    """
    box = bounding_box(mask, (margin,) * 3)
    inside, truth = crop(mask, box) != 0, crop(reference, box)
    return np.where(inside, crop(prediction, box), truth), truth, inside


def data_range(reference: NDArray, mask: NDArray) -> DataRange:
    """The range that PSNR and SSIM refer to.

    References in HU (minimum at most -500) have the fixed range -1024 to 3071; all others
    `value_range` of the reference inside the mask.
    """
    if is_ct_like(reference):
        return DataRange(CT_LOW, CT_RANGE)
    return value_range(reference[mask != 0])


def value_range(values: NDArray) -> DataRange:
    """From the percentile 0.5 to 99.5."""
    low, high = np.percentile(values, (0.5, 99.5))
    return DataRange(float(low), float(high - low))


def mae(prediction: NDArray, reference: NDArray, mask: NDArray) -> float:
    """Mean absolute error inside the mask: sum |p - r| m / sum m; nothing is clipped."""
    return _mean_error(np.abs, prediction, reference, mask)


def bias(prediction: NDArray, reference: NDArray, mask: NDArray) -> float:
    """Mean error inside the mask, prediction minus reference: above 0 is too bright."""
    return _mean_error(np.positive, prediction, reference, mask)


def bands(prediction: NDArray, reference: NDArray, mask: NDArray) -> dict[str, float | None]:
    """MAE and bias by tissue, for images in HU: `mae_air`, `bias_air`, `mae_soft`, ...

    The reference decides: air below -200 HU, soft tissue from -200 to 200, bone above 200.

    Returns:
        None for a tissue that has no voxel inside the mask.
    """
    values: dict[str, float | None] = {}
    for name, band in tissues(reference).items():
        voxels = band & (mask != 0)
        some = bool(voxels.any())
        values[f"mae_{name}"] = mae(prediction, reference, voxels) if some else None
        values[f"bias_{name}"] = bias(prediction, reference, voxels) if some else None
    return values


def tissues(reference: NDArray) -> dict[str, NDArray]:
    """Where the reference (HU) is air, below -200; soft, from -200 to 200; bone, above 200."""
    air, bone = reference < AIR_BELOW, reference > BONE_ABOVE
    return {"air": air, "soft": ~(air | bone), "bone": bone}


def psnr(prediction: NDArray, reference: NDArray, mask: NDArray, width: float) -> float | None:
    """Peak signal-to-noise ratio in dB: 10 log10(width^2 / MSE inside the mask), of the data range.

    None where it is not a finite number: a perfect prediction, or a range of 0.
    """
    error = _mean_error(np.square, prediction, reference, mask)
    if error == 0 or width <= 0:
        return None
    return float(10 * np.log10(width**2 / error))


def sharpness(
    prediction: NDArray, reference: NDArray, mask: NDArray, spacing: Spacing
) -> float | None:
    """Mean gradient magnitude of the prediction over the reference's, inside the mask.

    1 is as sharp as the truth, less is blurred, more is noisy. Central differences per mm.

    Returns:
        None where the reference is flat.
    """
    guess, truth, inside = cut_out(prediction, reference, mask, 1)  # enough for a difference
    mean, true_mean = (
        float(gradient_magnitudes(image, inside, spacing).mean(dtype=np.float64))
        for image in (guess, truth)
    )
    return mean / true_mean if true_mean else None


def match_linear(prediction: NDArray, reference: NDArray, mask: NDArray) -> tuple[float, float]:
    """The gain >= 0 and the offset that minimise mean |gain * p + offset - r| inside the mask.

    For one gain the best offset is the median of r - gain * p; the minimum over offsets is convex
    in the gain, so a bounded search over the gain finds the one minimum. A constant prediction
    gets gain 0 and the median of the reference.
    """
    guess, truth = (image[mask != 0].astype(np.float64) for image in (prediction, reference))
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


def match_mean_and_std(image: NDArray, real: NDArray, inside: NDArray) -> NDArray:
    """The image with the real one's mean and standard deviation inside the mask (z, y, x).

    A constant image only gets the mean.
    """
    values, wanted = image[inside].astype(np.float64), real[inside].astype(np.float64)
    spread = float(values.std())
    gain = float(wanted.std()) / spread if spread > 0 else 1.0
    return ((image - values.mean()) * gain + wanted.mean()).astype(np.float32)


def _mean_error(of: np.ufunc, prediction: NDArray, reference: NDArray, mask: NDArray) -> float:
    """The mean of a function of prediction minus reference inside the mask, slice by slice."""
    total = 0.0
    for guess, truth, inside in zip(prediction, reference, mask != 0, strict=True):
        total += float(of(np.subtract(guess[inside], truth[inside], dtype=np.float64)).sum())
    return total / int(np.count_nonzero(mask))
