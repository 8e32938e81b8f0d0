"""How the field scores images: the clipping, the data range, and what lies outside the mask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from gdmnet.metrics.image import CT_LOW, CT_RANGE, DataRange

WINDOWS: Mapping[str, DataRange] = MappingProxyType(
    {"soft": DataRange(-160.0, 400.0), "lung": DataRange(-1000.0, 1400.0)}
)
"""HU windows of sparse-view CT: -160 to 240 and -1000 to 400."""


@dataclass(frozen=True)
class Convention:
    """One way to compute MAE, PSNR, SSIM and MS-SSIM.

    Attributes:
        span: the fixed range in HU; None measures it (`metrics.image.data_range`).
        clips_mae: MAE is taken between images that are clipped to the range.
        clips_psnr: PSNR and SSIM are; MS-SSIM always.
        inner_ssim: SSIM over whole windows only, both images at the low end outside the mask
            (SynthRAD); else over the full map, the prediction taken to be right outside.
        in_circle: without masks the inscribed circle of the axial slices counts; else the body.
        windows: name -> range; MAE, PSNR and SSIM are repeated with images clipped to each.
    """

    span: DataRange | None = None
    clips_mae: bool = False
    clips_psnr: bool = False
    inner_ssim: bool = False
    in_circle: bool = False
    windows: Mapping[str, DataRange] = field(default_factory=dict)


_TO_3000, _TO_3071 = DataRange(CT_LOW, 4024.0), DataRange(CT_LOW, CT_RANGE)

GDMNET = "gdmnet"
CONVENTIONS: Mapping[str, Convention] = MappingProxyType(
    {
        GDMNET: Convention(),
        "synthrad2023": Convention(_TO_3000, clips_psnr=True, inner_ssim=True),
        "synthrad2025": Convention(_TO_3071, clips_psnr=True, inner_ssim=True),
        "synthrad2025-3000": Convention(_TO_3000, clips_psnr=True, inner_ssim=True),
        "sparse-ct": Convention(
            _TO_3071, clips_mae=True, clips_psnr=True, in_circle=True, windows=WINDOWS
        ),
    }
)
"""Every convention by the name that `gdm_evaluate --convention` takes."""


def convention_ranges(name: str) -> dict[str, str]:
    """For every metric with a range the range in words, to stand beside its figures."""
    convention = CONVENTIONS[name]
    span = convention.span
    where = "each case's data_range" if span is None else f"{span.width:g}, {_ends(span)}"
    clipped = where if span is None else f"{where}, clipped to it"
    plain = "nothing clipped"
    ranges = {
        "mae": clipped if convention.clips_mae else plain,
        "bias": plain,
        "psnr": clipped if convention.clips_psnr else f"{where}, {plain}",
        "ssim": clipped if convention.clips_psnr else f"{where}, {plain}",
        "ms_ssim": f"{where}, clipped to it",
    }
    for window, inner in convention.windows.items():
        for metric in ("mae", "psnr", "ssim"):
            ranges[f"{metric}_window_{window}"] = f"{inner.width:g}, {_ends(inner)}, clipped to it"
    return ranges


def _ends(span: DataRange) -> str:
    return f"{span.low:g} to {span.low + span.width:g}"
