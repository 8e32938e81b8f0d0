"""All metrics of one case."""

from __future__ import annotations

from numpy.typing import NDArray

from gdmnet.geometry import Spacing
from gdmnet.metrics.image import data_range, mae, psnr, sharpness, ssim

METRICS = ("mae", "psnr", "ssim", "sharpness")


def score(
    prediction: NDArray, reference: NDArray, mask: NDArray, spacing: Spacing
) -> dict[str, float | None]:
    """Every metric of `METRICS`, and the data range that PSNR and SSIM refer to.

    Args:
        prediction: (z, y, x), file units (CT: HU).
        reference: (z, y, x), the same.
        mask: (z, y, x), non-zero where errors count.
        spacing: mm (z, y, x).

    Returns:
        Metric -> value; None where a metric is not defined (PSNR of a perfect prediction).
    """
    span = data_range(reference, mask)
    return {
        "mae": mae(prediction, reference, mask),
        "psnr": psnr(prediction, reference, mask, span.width),
        "ssim": ssim(prediction, reference, mask, span),
        "sharpness": sharpness(prediction, reference, mask, spacing),
        "data_range": span.width,
    }
