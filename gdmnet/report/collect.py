"""Which files a report is about: predictions and whatever belongs to each of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gdmnet.data.case_files import MatchedCase, match_cases
from gdmnet.data.volume import read_geometry
from gdmnet.errors import DatasetError
from gdmnet.geometry import grid_difference

UNCERTAINTY = "uncertainty"  # the folder among the predictions
PREDICTION = "prediction"  # name of the only method


@dataclass(frozen=True)
class ReportFolders:
    """Where the images lie; all but the predictions may be missing.

    Attributes:
        predictions: CASE<ending>, and perhaps `uncertainty/CASE<ending>` and predictions.json.
        targets: CASE<ending>.
        sources: CASE_0000<ending>, one file a channel.
        masks: CASE<ending>: where errors count.
    """

    predictions: Path
    targets: Path | None = None
    sources: Path | None = None
    masks: Path | None = None


@dataclass(frozen=True)
class ReportCase:
    """The files of one case, all on one grid.

    Attributes:
        identifier: name of the case.
        predictions: method -> file, in the order of the panels; at least one.
        target: None where there is none.
        sources: in channel order.
        mask: where errors count; None: the body, computed.
        uncertainties: method -> file of standard deviations.
    """

    identifier: str
    predictions: Mapping[str, Path]
    target: Path | None = None
    sources: tuple[Path, ...] = ()
    mask: Path | None = None
    uncertainties: Mapping[str, Path] = field(default_factory=dict)


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
    complaints = [complaint for case in matched for complaint in _grid_complaints(case)]
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


def _grid_complaints(case: MatchedCase) -> Iterator[str]:
    first = case.images[PREDICTION][0]
    grid = read_geometry(first)
    for path in case.others(PREDICTION):
        difference = grid_difference(read_geometry(path), grid)
        if difference is not None:
            yield f"{path} is not on the grid of {first}: {difference}"
