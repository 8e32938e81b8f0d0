"""Does a prediction look like the reference's kind of image? Measured without any encoder.

Fidelity asks whether each voxel is right; these ask whether histogram, gradients, texture and
edges are those of real images. Arrays are (z, y, x) on one grid, in file units (CT: HU).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gdmnet.geometry import Spacing
from gdmnet.metrics.edges import edge_width, gradient_magnitudes
from gdmnet.metrics.image import cut_out, tissues, value_range
from gdmnet.metrics.spectrum import log_distance, radial_power

_HISTOGRAMS = ("histogram_w1", "histogram_w1_air", "histogram_w1_soft", "histogram_w1_bone")
PLAUSIBILITY = (*_HISTOGRAMS, "gradient_w1", "spectrum_distance", "edge_width")
NEGLIGIBLE_HU, NEGLIGIBLE_SHARE = 1.0, 1e-3  # white noise that is no texture: rounding of files


def plausibility(
    prediction: NDArray, reference: NDArray, mask: NDArray, spacing: Spacing, *, hounsfield: bool
) -> dict[str, float | None]:
    """Every metric of `PLAUSIBILITY`; `metrics.image.sharpness` belongs to them.

    Outside the mask the prediction is taken to be right. Where no unit makes cases comparable,
    both images are divided by the reference's range: percentiles 0.5 to 99.5 inside the mask.

    Args:
        prediction: (z, y, x), finite.
        reference: (z, y, x), finite.
        mask: (z, y, x), non-zero where it counts; not empty.
        spacing: mm (z, y, x).
        hounsfield: whether both are in HU.

    Returns:
        Metric -> value. 0 is best, except for `edge_width`, where 1 is. histogram_w1 (of all and
        of the reference's air, soft tissue and bone) in HU or shares of the range; gradient_w1 the
        same per mm; spectrum_distance in dB. None where a metric is not defined: bands without HU
        or voxels, edges where there are none, everything where the reference is flat.
    """
    guess, truth, inside = cut_out(prediction, reference, mask, 1)
    values, true_values = guess[inside], truth[inside]
    unit = 1.0 if hounsfield else value_range(true_values).width
    if unit <= 0:
        return dict.fromkeys(PLAUSIBILITY)
    found: dict[str, float | None] = dict.fromkeys(PLAUSIBILITY)
    found["histogram_w1"] = wasserstein_1(values, true_values) / unit
    for name, band in tissues(true_values).items() if hounsfield else ():
        if band.any():
            found[f"histogram_w1_{name}"] = wasserstein_1(values[band], true_values[band])
    del values, true_values
    steepness, true_steepness = (gradient_magnitudes(i, inside, spacing) for i in (guess, truth))
    found["gradient_w1"] = wasserstein_1(steepness, true_steepness) / unit
    del steepness, true_steepness
    negligible = NEGLIGIBLE_HU if hounsfield else NEGLIGIBLE_SHARE * unit
    power, true_power = (radial_power(image, inside, spacing) for image in (guess, truth))
    found["spectrum_distance"] = log_distance(power, true_power, negligible**2)
    found["edge_width"] = edge_width(guess, truth, inside, spacing, hounsfield=hounsfield)
    return found


def wasserstein_1(first: NDArray, second: NDArray) -> float:
    """Wasserstein-1 distance of two samples (n,): mean |sorted a - sorted b|.

    The least mean change of value that turns one histogram into the other (Villani 2009, 2.18).
    """
    difference = np.sort(first).astype(np.float32, copy=False)
    difference = difference - np.sort(second)
    return float(np.abs(difference, out=difference).mean(dtype=np.float64))
