"""The images of one case in memory, and what can be said about them in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gdmnet.data.volume import read_volume
from gdmnet.geometry import Geometry, lps_frame
from gdmnet.metrics.conventions import GDMNET
from gdmnet.metrics.folders import find_mask
from gdmnet.metrics.score import is_ct_like
from gdmnet.report.collect import ReportCase

_RULES = {"given": "given", "circle": "the field of view, a circle in each axial slice"}
_TILTED = 2.0  # degrees from the patient's axes: worth a word
NO_MATCH = (1.0, 0.0)  # gain and offset


@dataclass(frozen=True)
class CaseImages:
    """All volumes of a case, float32 (z, y, x) in file units, on one grid.

    Attributes:
        predictions: by method, each fitted to the target where that was asked for.
        target: None where there is none.
        sources: one a channel.
        uncertainties: standard deviations of the methods that have them.
        mask: uint8, non-zero where errors count.
        mask_rule: where it comes from.
        geometry: of all.
        hounsfield: whether target and predictions are in HU.
    """

    predictions: dict[str, NDArray]
    target: NDArray | None
    sources: tuple[NDArray, ...]
    uncertainties: dict[str, NDArray]
    mask: NDArray
    mask_rule: str
    geometry: Geometry
    hounsfield: bool

    @property
    def unit(self) -> str:
        """Of predictions, target and uncertainties: "HU", or "" where there is none."""
        return "HU" if self.hounsfield else ""

    @property
    def first(self) -> NDArray:
        """The first method's prediction."""
        return next(iter(self.predictions.values()))


def read_images(
    case: ReportCase,
    matches: Mapping[str, tuple[float, float]] | None = None,
    convention: str = GDMNET,
) -> CaseImages:
    """Read a case's files.

    Args:
        case: its files.
        matches: method -> gain and offset that its prediction needs; none by default.
        convention: of the metrics: it settles the mask where none is given, from the target or
            else from the first prediction.

    Raises:
        DatasetError: an image cannot be read, or the mask is empty.
    """
    matches = matches or {}
    volumes = {name: read_volume(path) for name, path in case.predictions.items()}
    first = next(iter(volumes.values()))
    truth = first if case.target is None else read_volume(case.target)
    mask, rule = find_mask(case.mask, truth, convention)
    whose = "prediction" if case.target is None else "target"
    gains = {name: np.float32(matches.get(name, NO_MATCH)[0]) for name in volumes}
    offsets = {name: np.float32(matches.get(name, NO_MATCH)[1]) for name in volumes}
    return CaseImages(
        predictions={
            name: gains[name] * volume.array[0] + offsets[name] for name, volume in volumes.items()
        },
        target=None if case.target is None else truth.array[0],
        sources=tuple(read_volume(path).array[0] for path in case.sources),
        uncertainties={
            name: gains[name] * read_volume(path).array[0]
            for name, path in case.uncertainties.items()
        },
        mask=mask,
        mask_rule=_RULES.get(rule, f"the body, computed from the {whose} ({rule})"),
        geometry=first.geometry,
        hounsfield=is_ct_like(truth.array),
    )


def describe(images: CaseImages) -> list[str]:
    """Grid and mask in words."""
    geometry = images.geometry
    facts = [
        f"{times(reversed(geometry.shape))} voxels of {times(reversed(geometry.spacing))} mm"
        " (to the left, the back, the head)",
        f"mask: {images.mask_rule}, {100 * float(np.mean(images.mask)):.0f} % of the voxels",
    ]
    _, direction = lps_frame(geometry)
    tilt = float(np.degrees(np.arccos(np.clip(np.min(np.diag(direction)), -1, 1))))
    if tilt > _TILTED:
        facts.append(f"slices are tilted by {tilt:.0f} degrees against the patient's axes")
    return facts


def times(values: Iterable[float]) -> str:
    """Numbers with an x between them."""
    return " x ".join(f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}" for value in values)
