"""How the field scores images: clipping, data range, what lies outside the mask; and settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from gdmnet.settings import Settings, setting

if TYPE_CHECKING:
    from numpy.typing import NDArray

CT_LOW, CT_RANGE = -1024.0, 4095.0  # SynthRAD2025: HU from -1024 to 3071
CT_LIKE_MINIMUM = -500.0  # a reference that goes below this is taken to be in HU


@dataclass(frozen=True)
class DataRange:
    """Where a reference's values begin and how wide they are spread, in file units."""

    low: float
    width: float


WINDOWS: Mapping[str, DataRange] = MappingProxyType(
    {"soft": DataRange(-160.0, 400.0), "lung": DataRange(-1000.0, 1400.0)}
)
"""HU windows of sparse-view CT: -160 to 240 and -1000 to 400."""


@dataclass(frozen=True)
class Convention:
    """One way to compute MAE, PSNR, SSIM and MS-SSIM."""

    span: DataRange | None = None  # fixed, in HU; None measures it (`metrics.image.data_range`)
    clips_mae: bool = False  # MAE is taken between images that are clipped to the range
    clips_psnr: bool = False  # PSNR and SSIM are; MS-SSIM always
    # SSIM over whole windows only, both images at the low end outside the mask (SynthRAD); else
    # over the full map, the prediction taken to be right outside
    inner_ssim: bool = False
    in_circle: bool = False  # without masks the circle in the axial slices counts; else the body
    # MAE, PSNR and SSIM are repeated with images clipped to each, by name
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


@dataclass(frozen=True)
class EvaluationSettings(Settings):
    """How predictions are compared with references."""

    convention: str = setting(
        GDMNET, "whose clipping, ranges and masks", choices=tuple(CONVENTIONS)
    )
    match_intensity: str | None = setting(
        None,
        "fit gain >= 0 and offset to each reference first (targets without a unit); sharpness and"
        " plausibility see the reference's mean and standard deviation instead",
        choices=("linear",),
    )
    plausibility: bool = setting(True, "leave the plausibility metrics out")
    allow_constant: bool = setting(False, "score predictions of a single value too, as baselines")
    keep_going: bool = setting(
        False, "score the other cases when one cannot be scored; exit status 1"
    )
    every_reference: bool = setting(
        False, "insist on a prediction of every reference", flag="--all"
    )
    wepl: tuple[float, ...] = setting(
        (),
        "gantry angles in degrees: errors in depth of beams from there, in mm of water (CT in HU)",
        metavar="ANGLE",
    )
    density_table: Path | None = setting(
        None, "CSV of HU and density relative to water (default: of electrons)", metavar="FILE"
    )


def is_ct_like(reference: NDArray) -> bool:
    """Whether a reference's values look like HU: the least is at most -500."""
    return float(reference.min()) <= CT_LIKE_MINIMUM


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
