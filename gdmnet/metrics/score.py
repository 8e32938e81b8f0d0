"""All metrics of one case under one convention."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from gdmnet.geometry import Spacing
from gdmnet.metrics.conventions import CONVENTIONS, GDMNET, Convention, DataRange, is_ct_like
from gdmnet.metrics.image import bands, bias, data_range, mae, psnr, sharpness
from gdmnet.metrics.plausibility import plausibility
from gdmnet.metrics.similarity import masked_ssim, ms_ssim, ssim
from gdmnet.metrics.statistics import Values

METRICS = ("mae", "bias", "psnr", "ssim", "ms_ssim", "sharpness")
"""The metrics of every case; bands, windows and plausibility come beside them."""


def score(
    prediction: NDArray,
    reference: NDArray,
    mask: NDArray,
    spacing: Spacing,
    *,
    convention: str = GDMNET,
    with_plausibility: bool = True,
    look: NDArray | None = None,
) -> Values:
    """Every metric of `METRICS`, the tissue bands, the convention's windows, plausibility.

    Args:
        prediction: (z, y, x), file units (CT: HU).
        reference: (z, y, x), the same; in HU the bands are measured too.
        mask: (z, y, x), non-zero where errors count; not empty.
        spacing: mm (z, y, x).
        convention: a name of `CONVENTIONS`.
        with_plausibility: also the metrics of `PLAUSIBILITY`.
        look: the prediction as sharpness and plausibility see it, if its intensities were matched
            in another way for them.

    Returns:
        Metric -> value, and `data_range`, that of PSNR, SSIM and MS-SSIM. None where a metric is
        not defined (PSNR of a perfect prediction).
    """
    look = prediction if look is None else look
    rules = CONVENTIONS[convention]
    hounsfield = rules.span is not None or is_ct_like(reference)
    span = rules.span or data_range(reference, mask)
    values: Values = dict.fromkeys(METRICS)
    values["bias"] = bias(prediction, reference, mask)
    values["sharpness"] = sharpness(look, reference, mask, spacing)
    values |= _errors_and_ssim(prediction, reference, mask, span, rules)
    values["ms_ssim"] = ms_ssim(prediction, reference, mask, span)
    values["data_range"] = span.width
    for name, window in rules.windows.items():
        inner = _errors_and_ssim(prediction, reference, mask, window, rules)
        values |= {f"{metric}_window_{name}": value for metric, value in inner.items()}
    if hounsfield:
        values |= bands(prediction, reference, mask)
    if with_plausibility:
        values |= plausibility(look, reference, mask, spacing, hounsfield=hounsfield)
    return values


def _errors_and_ssim(
    prediction: NDArray, reference: NDArray, mask: NDArray, span: DataRange, rules: Convention
) -> Values:
    images = prediction, reference
    if rules.clips_psnr:
        clip = partial(np.clip, a_min=span.low, a_max=span.low + span.width)
        images = clip(prediction), clip(reference)
    similarity = masked_ssim if rules.inner_ssim else ssim
    return {
        "mae": mae(*(images if rules.clips_mae else (prediction, reference)), mask),
        "psnr": psnr(*images, mask, span.width),
        "ssim": similarity(*images, mask, span),
    }
