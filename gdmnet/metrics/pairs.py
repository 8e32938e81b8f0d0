"""Which file belongs to which: folders of images to cases with all their partners."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gdmnet.data.case_files import images_by_case
from gdmnet.data.volume import read_geometry
from gdmnet.errors import DatasetError
from gdmnet.geometry import grid_difference


@dataclass(frozen=True)
class Folders:
    """What is compared with what; every folder holds CASE<ending>, in any of the four formats.

    Attributes:
        predictions: images.
        references: the same cases, on the same grids.
        masks: at least these cases; None computes them by the convention's rule.
        segmentations: label maps of predictions and of references, at least these cases.
    """

    predictions: Path
    references: Path
    masks: Path | None = None
    segmentations: tuple[Path, Path] | None = None


@dataclass(frozen=True)
class Pair:
    """The files of one case."""

    identifier: str
    prediction: Path
    reference: Path
    mask: Path | None
    segmentations: tuple[Path, Path] | None


def sound_pairs(folders: Folders, *, keep_going: bool) -> tuple[list[Pair], dict[str, str]]:
    """The cases that have all partners on one grid, and of all others what they lack.

    Raises:
        DatasetError: no such folder or no image in it; and, unless it keeps going, everything that
            any case lacks.
    """
    wanted = [folders.predictions, folders.references, folders.masks]
    wanted += folders.segmentations or ()
    found = {folder: images_by_case(folder) for folder in wanted if folder is not None}
    names = sorted({*found[folders.predictions], *found[folders.references]})
    missing = {folder: [n for n in names if n not in images] for folder, images in found.items()}
    told = [
        f"{folder}: no image of {', '.join(lacking)}"
        for folder, lacking in missing.items()
        if lacking
    ]
    if told and not keep_going:
        raise DatasetError("; ".join(told) + "; every case needs its partner of the same name")
    failed = {
        name: f"{folder}: no image of {name}"
        for folder, lacking in missing.items()
        for name in lacking
    }
    pairs = [_pair(name, folders, found) for name in names if name not in failed]
    grids = {pair.identifier: _grid_complaints(pair) for pair in pairs}
    told = [complaint for complaints in grids.values() for complaint in complaints]
    if told and not keep_going:
        raise DatasetError("; ".join(told))
    failed |= {name: "; ".join(complaints) for name, complaints in grids.items() if complaints}
    return [pair for pair in pairs if pair.identifier not in failed], failed


def _pair(name: str, folders: Folders, found: Mapping[Path, Mapping[str, Path]]) -> Pair:
    return Pair(
        identifier=name,
        prediction=found[folders.predictions][name],
        reference=found[folders.references][name],
        mask=None if folders.masks is None else found[folders.masks][name],
        segmentations=None
        if folders.segmentations is None
        else (found[folders.segmentations[0]][name], found[folders.segmentations[1]][name]),
    )


def _grid_complaints(pair: Pair) -> list[str]:
    others = [pair.prediction, pair.mask, *(pair.segmentations or ())]
    complaints = []
    try:
        grid = read_geometry(pair.reference)
        for path in others:
            difference = None if path is None else grid_difference(read_geometry(path), grid)
            if difference is not None:
                complaints.append(
                    f"{path} is not on the grid of {pair.reference}: {difference}; resample"
                    " neither: predict on the right grid"
                )
    except DatasetError as problem:
        complaints.append(str(problem))
    return complaints
