"""The images of one case in memory, and what can be said about them in words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gdmnet.data.volume import read_volume
from gdmnet.geometry import Geometry, lps_frame
from gdmnet.metrics.conventions import GDMNET
from gdmnet.metrics.evaluation import find_mask
from gdmnet.metrics.score import is_ct_like
from gdmnet.report.collect import ReportCase

_RULES = {"given": "given", "circle": "the field of view, a circle in each axial slice"}
_TILTED = 2.0  # degrees from the patient's axes: worth a word


@dataclass(frozen=True)
class Images:
    """All volumes of a case, float32 (z, y, x) in file units, on one grid.

    Attributes:
        prediction: fitted to the target where that was asked for.
        target: None where there is none.
        sources: one a channel.
        uncertainty: standard deviations, or None.
        mask: uint8, non-zero where errors count.
        mask_rule: where it comes from.
        geometry: of all.
        hounsfield: whether target and prediction are in HU.
    """

    prediction: NDArray
    target: NDArray | None
    sources: tuple[NDArray, ...]
    uncertainty: NDArray | None
    mask: NDArray
    mask_rule: str
    geometry: Geometry
    hounsfield: bool

    @property
    def unit(self) -> str:
        """Of prediction, target and uncertainty: "HU", or "" where there is none."""
        return "HU" if self.hounsfield else ""


def read_images(
    case: ReportCase, match: tuple[float, float] = (1.0, 0.0), convention: str = GDMNET
) -> Images:
    """Read a case's files.

    Args:
        case: its files.
        match: gain and offset that the prediction needs.
        convention: of the metrics: it settles the mask where none is given, from the target or
            else from the prediction.

    Raises:
        DatasetError: an image cannot be read, or the mask is empty.
    """
    volume = read_volume(case.prediction)
    truth = volume if case.target is None else read_volume(case.target)
    mask, rule = find_mask(case.mask, truth, convention)
    whose = "prediction" if case.target is None else "target"
    gain, offset = np.float32(match[0]), np.float32(match[1])
    spread = None if case.uncertainty is None else gain * read_volume(case.uncertainty).array[0]
    return Images(
        prediction=gain * volume.array[0] + offset,
        target=None if case.target is None else truth.array[0],
        sources=tuple(read_volume(path).array[0] for path in case.sources),
        uncertainty=spread,
        mask=mask,
        mask_rule=_RULES.get(rule, f"the body, computed from the {whose} ({rule})"),
        geometry=volume.geometry,
        hounsfield=is_ct_like(truth.array),
    )


def describe(images: Images) -> list[str]:
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
