"""Which files a report is about: predictions and whatever belongs to each of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gdmnet.data.case_files import FORMATS, images_by_case
from gdmnet.data.volume import read_geometry
from gdmnet.errors import DatasetError
from gdmnet.geometry import grid_difference

UNCERTAINTY = "uncertainty"  # the folder among the predictions
PREDICTION = "prediction"  # name of the only method
_CHANNEL = re.compile(r"(.+)_(\d{4})")


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
    predictions = images_by_case(folders.predictions)
    targets = {} if folders.targets is None else images_by_case(folders.targets)
    sources = {} if folders.sources is None else sources_by_case(folders.sources)
    masks = {} if folders.masks is None else images_by_case(folders.masks)
    maps = folders.predictions / UNCERTAINTY
    uncertainties = images_by_case(maps) if maps.is_dir() and any(maps.iterdir()) else {}
    given: tuple[tuple[Path | None, Mapping[str, object]], ...] = (
        (folders.targets, targets),
        (folders.sources, sources),
        (folders.masks, masks),
    )
    complaints = []
    for folder, found in given:
        missing = sorted(set(predictions) - set(found))
        if folder is not None and missing:
            complaints.append(f"{folder}: no image of {', '.join(missing)}")
    if complaints:
        raise DatasetError("; ".join(complaints) + "; add what is missing, or leave the folder out")
    cases = [
        ReportCase(
            name,
            {PREDICTION: path},
            targets.get(name),
            sources.get(name, ()),
            masks.get(name),
            {PREDICTION: uncertainties[name]} if name in uncertainties else {},
        )
        for name, path in predictions.items()
    ]
    complaints = [complaint for case in cases for complaint in _grid_complaints(case)]
    if complaints:
        raise DatasetError("; ".join(complaints) + "; give images on the grid of the prediction")
    return cases


def sources_by_case(folder: Path) -> dict[str, tuple[Path, ...]]:
    """The images CASE_0000<ending>, CASE_0001<ending>, ... of a folder by case, in channel order.

    Raises:
        DatasetError: no such folder, no image in it, or none with a channel number.
    """
    channels: dict[str, dict[int, Path]] = {}
    for stem, path in images_by_case(folder).items():
        match = _CHANNEL.fullmatch(stem)
        if match is not None:
            channels.setdefault(match[1], {})[int(match[2])] = path
    if not channels:
        raise DatasetError(
            f"{folder}: no image called CASE_0000<ending> ({', '.join(FORMATS)}); sources carry"
            " their channel's number"
        )
    return {
        case: tuple(files[number] for number in sorted(files)) for case, files in channels.items()
    }


def _grid_complaints(case: ReportCase) -> Iterator[str]:
    first, *others = case.predictions.values()
    grid = read_geometry(first)
    for path in (
        *others,
        case.target,
        *case.sources,
        case.mask,
        *case.uncertainties.values(),
    ):
        difference = None if path is None else grid_difference(read_geometry(path), grid)
        if difference is not None:
            yield f"{path} is not on the grid of {first}: {difference}"
