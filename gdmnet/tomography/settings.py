"""The settings of a simulated scan, and the names and numbers they need; without heavy imports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gdmnet.errors import SettingError
from gdmnet.settings import Settings, setting

GEOMETRIES = ("parallel", "fan")
FLAT, CURVED = "flat", "curved"
FILTERS = ("ram-lak", "shepp-logan", "cosine", "hamming", "hann")
"""From the sharpest to the smoothest."""
MU_WATER = 0.0192
"""Attenuation of water in 1/mm at about 70 keV, the mean energy of a 120 kVp beam."""
MOST_VIEWS = 10_000
_MOST_PHOTONS = 1e12


@dataclass(frozen=True)
class ScanSettings(Settings):
    """How scans are simulated; `usual_settings` knows the arc and the filter that go with a beam.

    Attributes:
        views: on the arc, equidistant, the end excluded.
        photons: that reach a bin through air; None is without noise.
    """

    views: int = 60
    geometry: str = setting("parallel", "of the beam", choices=GEOMETRIES)
    arc: float = setting(
        180.0, "the end excluded; of a fan 360", above=0, most=360, metavar="DEGREES"
    )
    detector: str = setting(FLAT, "of a fan", choices=(FLAT, CURVED))
    source_distance: float = setting(
        595.0, "of a fan, source to isocentre", least=1, most=1e5, metavar="MM"
    )
    pitch: float | None = setting(  # no scanner's detector gets coarser with the image
        None,
        "from bin to bin at the isocentre (default: a pixel's smaller side, at most 1)",
        least=0.01,
        most=100,
        metavar="MM",
    )
    photons: float | None = 1e5
    electronic_noise: float = setting(
        0.0, "standard deviation in photons", least=0, most=1e9, metavar="N"
    )
    filter: str = setting("hann", "of the reconstruction; without noise ram-lak", choices=FILTERS)
    mu_water: float = setting(
        MU_WATER, "attenuation of water in 1/mm", least=1e-3, most=1, metavar="MU"
    )
    seed: int = setting(0, "of noise and test cases", least=0)

    def __post_init__(self) -> None:
        if self.photons is not None and not 0 < self.photons <= _MOST_PHOTONS:
            raise SettingError(f"photons must be above 0 and at most 1e12, not {self.photons:g}")
        super().__post_init__()


def usual_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a scan with the arc and the filter that go with them, where these are not given.

    Parallel rays see each line on a half turn, a fan needs a full one; `hann` smoothes noise.
    """
    arc = 360.0 if given.get("geometry") == "fan" else 180.0
    window = "ram-lak" if given.get("photons", 0) is None else "hann"
    return {"arc": arc, "filter": window, **given}
