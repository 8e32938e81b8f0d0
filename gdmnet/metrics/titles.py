"""What metrics are called for people, and which of their values are good."""

from __future__ import annotations

import math

TITLES = {
    "mae": "MAE",
    "wepl_p95": "depth p95 [mm]",
    "psnr": "PSNR [dB]",
    "ssim": "SSIM",
    "ms_ssim": "MS-SSIM",
    "dice": "Dice",
    "hd95": "HD95 [mm]",
    "bias": "bias",
    "sharpness": "sharpness",
    "histogram_w1": "hist. W1",
    "spectrum_distance": "spectrum [dB]",
}
"""The most important metrics first."""
_HIGHER_IS_BETTER = ("psnr", "ssim", "ms_ssim", "dice")
_BEST_AT_ONE = ("sharpness", "edge_width", "gain")
_BEST_AT_ZERO = ("bias", "offset")
_IN_UNITS = ("mae", "bias", "histogram_w1", "gradient_w1", "offset")


def title_of(metric: str, unit: str = "") -> str:
    """A metric's name as it stands above a column; `unit` is that of the images, "HU" or ""."""
    title = TITLES.get(metric, metric.replace("_", " "))
    if unit and metric == "gradient_w1":
        unit += "/mm"
    return f"{title} [{unit}]" if unit and metric.startswith(_IN_UNITS) else title


def penalty(metric: str, value: float | None) -> float | None:
    """How bad a value is: higher is worse; None where the metric is not defined."""
    if value is None:
        return None
    if metric.startswith(_HIGHER_IS_BETTER):
        return -value
    if metric.startswith(_BEST_AT_ONE):
        return abs(math.log(value)) if value > 0 else math.inf
    return abs(value) if metric.startswith(_BEST_AT_ZERO) else value


def best_value(metric: str) -> str:
    """Which values are good, in words."""
    if metric.startswith(_HIGHER_IS_BETTER):
        return "higher is better"
    if metric.startswith(_BEST_AT_ONE):
        return "1 is best"
    return "0 is best" if metric.startswith(_BEST_AT_ZERO) else "lower is better"
