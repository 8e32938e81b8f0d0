"""The cases of a report: which files belong to each, and their images in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gdmnet.data.case_files import match_cases
from gdmnet.data.volume import grid_complaints, read_volume
from gdmnet.errors import DatasetError
from gdmnet.geometry import Geometry, lps_frame
from gdmnet.metrics.conventions import GDMNET, is_ct_like
from gdmnet.metrics.evaluation import describe_mask, find_mask

UNCERTAINTY = "uncertainty"  # the folder among the predictions
PREDICTION = "prediction"  # name of the only method
_TILTED = 2.0  # degrees from the patient's axes: worth a word
_SPREAD = "uncertainty (SD)"
_HALF_WIDTH = "{:.0f} % within +-"
_NO_MATCH = (1.0, 0.0)  # gain and offset


@dataclass(frozen=True)
class ReportFolders:
    """Where the images lie: CASE<ending>, of sources CASE_0000<ending>, one file a channel.

    All but the predictions may be missing. Beside these perhaps lie `uncertainty/CASE<ending>` and
    predictions.json; masks say where errors count, regions are label maps scored by themselves.
    """

    predictions: Path
    targets: Path | None = None
    sources: Path | None = None
    masks: Path | None = None
    regions: Path | None = None


@dataclass(frozen=True)
class ReportCase:
    """The files of one case, all on one grid."""

    identifier: str
    predictions: Mapping[str, Path]  # method -> file, in the order of the panels; at least one
    target: Path | None = None
    sources: tuple[Path, ...] = ()  # in channel order
    mask: Path | None = None  # where errors count; None: the body, computed
    # method -> file of half-widths, or of standard deviations
    uncertainties: Mapping[str, Path] = field(default_factory=dict)
    coverage: float | None = None  # share of the voxels that half-widths shall hold, if they are


@dataclass(frozen=True)
class CaseVolume:
    """One volume of a case."""

    kind: str  # "source", "prediction", "target" or "uncertainty"
    title: str  # above its panel
    method: str  # whose prediction or uncertainty it is; "" for source and target
    array: NDArray  # float32 (z, y, x), file units

    @property
    def hounsfield(self) -> bool:
        """Whether HU windows make sense."""
        return self.kind != "uncertainty" and is_ct_like(self.array)


@dataclass(frozen=True)
class CaseImages:
    """All volumes of a case on one grid, in the order of the panels.

    Predictions are fitted to the target where that was asked for, and their uncertainties with
    them.
    """

    volumes: tuple[CaseVolume, ...]
    mask: NDArray  # uint8 (z, y, x), non-zero where errors count
    mask_rule: str  # where the mask comes from, in words
    geometry: Geometry
    unit: str  # of predictions, target and uncertainties: "HU", or "" where there is none
    coverage: float | None = None  # as of `ReportCase`

    def of_kind(self, kind: str) -> dict[str, NDArray]:
        """Method -> array of the volumes of a kind."""
        return {v.method: v.array for v in self.volumes if v.kind == kind}

    @property
    def predictions(self) -> dict[str, NDArray]:
        """By method."""
        return self.of_kind("prediction")

    @property
    def target(self) -> NDArray | None:
        """None where there is none."""
        return self.of_kind("target").get("")


def find_cases(folders: ReportFolders) -> list[ReportCase]:
    """Every case of the predictions with its partners.

    Raises:
        DatasetError: a folder or a partner is missing, or a grid is not the prediction's; all
            complaints are listed.
    """
    maps = folders.predictions / UNCERTAINTY
    matched, missing = match_cases(
        {
            PREDICTION: folders.predictions,
            "target": folders.targets,
            "source": folders.sources,
            "mask": folders.masks,
            UNCERTAINTY: maps if maps.is_dir() and any(maps.iterdir()) else None,
        },
        leading=[PREDICTION],
        with_channels=["source"],
    )
    missing.pop(maps, None)
    complaints = [f"{folder}: no image of {', '.join(names)}" for folder, names in missing.items()]
    if complaints:
        raise DatasetError("; ".join(complaints) + "; add what is missing, or leave the folder out")
    complaints = [
        complaint
        for case in matched
        for complaint in grid_complaints(case.images[PREDICTION][0], case.others(PREDICTION))
    ]
    if complaints:
        raise DatasetError("; ".join(complaints) + "; give images on the grid of the prediction")
    return [
        ReportCase(
            case.identifier,
            {PREDICTION: case.images[PREDICTION][0]},
            case.one("target"),
            case.images.get("source", ()),
            case.one("mask"),
            {PREDICTION: path} if (path := case.one(UNCERTAINTY)) else {},
        )
        for case in matched
    ]


def read_images(
    case: ReportCase,
    channel_names: Sequence[str] = (),
    matches: Mapping[str, tuple[float, float]] | None = None,
    convention: str = GDMNET,
) -> CaseImages:
    """Read a case's files.

    Args:
        case: its files.
        channel_names: of the sources; numbers stand where they are missing.
        matches: method -> gain and offset that its prediction needs.
        convention: of the metrics: it decides on the mask where none is given, from the target or
            else from the first prediction.

    Raises:
        DatasetError: an image cannot be read, or the mask is empty.
    """
    whose = "prediction" if case.target is None else "target"
    truth = read_volume(case.target or next(iter(case.predictions.values())))
    mask, rule = find_mask(case.mask, truth, convention)
    volumes = [
        CaseVolume("source", title, "", read_volume(path).array[0])
        for title, path in zip(_source_titles(case, channel_names), case.sources, strict=True)
    ]
    spreads = []
    kind = _SPREAD if case.coverage is None else _HALF_WIDTH.format(100 * case.coverage)
    for method, path in case.predictions.items():
        gain, offset = map(np.float32, (matches or {}).get(method, _NO_MATCH))
        array = gain * read_volume(path).array[0] + offset
        volumes.append(CaseVolume("prediction", method, method, array))
        if method in case.uncertainties:
            title = f"{method}: {kind}" if len(case.predictions) > 1 else kind
            spread = gain * read_volume(case.uncertainties[method]).array[0]
            spreads.append(CaseVolume("uncertainty", title, method, spread))
    if case.target is not None:
        volumes.append(CaseVolume("target", "target", "", truth.array[0]))
    unit, shown = "HU" if is_ct_like(truth.array) else "", (*volumes, *spreads)
    words = describe_mask(rule, whose)
    return CaseImages(shown, mask, words, truth.geometry, unit, case.coverage)


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


def _source_titles(case: ReportCase, channel_names: Sequence[str]) -> list[str]:
    n = len(case.sources)
    if len(channel_names) != n or len(set(channel_names)) != n:  # not these sources' names
        return [f"source {number}" for number in range(n)] if n > 1 else ["source"] * n
    return [f"source {name}" for name in channel_names]
