"""Folders of patients in DICOM to a raw dataset: which series is the source, which the target."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gdmnet.data.case import Series
from gdmnet.data.dicom import case_name, find_series, fitting_series, grid_of
from gdmnet.data.regrid import share_inside
from gdmnet.datasets.conversion import CaseImages, Conversion
from gdmnet.errors import DatasetError
from gdmnet.geometry import grid_difference


@dataclass(frozen=True)
class SeriesChoice:
    """Which series are meant.

    Attributes:
        sources: one pattern a channel on "MODALITY SeriesDescription", any case, * is anything.
        target: the same for the target.
        resample: "source" or "target"; None where both lie on one grid already.
    """

    sources: tuple[str, ...] = ("MR*",)
    target: str = "CT*"
    resample: str | None = None


@dataclass(frozen=True)
class SeriesPair:
    """The series of one patient."""

    case: str
    patient: str  # name of the folder, as the user called it
    sources: tuple[Series, ...]
    target: Series


@dataclass(frozen=True)
class FoundPairs:
    """What was found: pairs, what was left aside, what to know, and what stands in the way."""

    pairs: tuple[SeriesPair, ...]
    skipped: dict[str, int]
    notes: tuple[str, ...]
    complaints: tuple[str, ...]


def find_pairs(folder: Path, choice: SeriesChoice) -> FoundPairs:
    """One pair a patient; a patient is a folder in `folder` that holds DICOM at any depth.

    Each pattern must fit exactly one series of a patient, a sound one, and source and target must
    lie on one grid, or in one frame of reference if one of them is to be resampled. Everything
    else is a complaint, and nothing may be written as long as there is one.

    Raises:
        DatasetError: no such folder, no DICOM in it, a damaged image.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder; give the folder of the patients' folders")
    pairs: list[SeriesPair] = []
    skipped: Counter[str] = Counter()
    complaints: list[str] = []
    for patient in sorted(path for path in folder.iterdir() if path.is_dir()):
        tree = find_series(patient)
        skipped.update(tree.skipped)
        if tree.series:
            try:
                pair = _pair(patient.name, tree.series, choice)
                pairs.append(pair)
                _require_one_space(pair, choice.resample)
            except DatasetError as problem:
                complaints.append(f"{patient.name}: {problem}")
    if not (pairs or complaints):
        raise DatasetError(
            f"{folder}: no folder in it holds a DICOM series; give each patient a folder there"
        )
    complaints += _complaints_on_all(pairs)
    return FoundPairs(tuple(pairs), dict(skipped), tuple(_notes(pairs)), tuple(complaints))


def make_conversion(pairs: Sequence[SeriesPair], choice: SeriesChoice) -> Conversion:
    """What makes a raw dataset of the pairs that `find_pairs` has found by this choice."""
    sources, target = channel_names(pairs[0])
    return Conversion(
        sources,
        target,
        tuple(CaseImages(pair.case, pair.sources, pair.target) for pair in pairs),
        resample=choice.resample,
        source_series=choice.sources,
        metadata={"description": "converted from DICOM"},
    )


def channel_names(pair: SeriesPair) -> tuple[tuple[str, ...], str]:
    """Names of the source channels and of the target: the modality, numbered if there are several.

    CT promises Hounsfield units, which the modality CT means.
    """
    modalities = [series.modality for series in pair.sources]
    if len(modalities) == 1:
        return tuple(modalities), pair.target.modality
    return tuple(f"{name} {i}" for i, name in enumerate(modalities)), pair.target.modality


def mapping(pairs: Sequence[SeriesPair]) -> dict[str, dict[str, object]]:
    """Case -> who it is. It identifies patients: to be written only where somebody asks for it."""
    return {
        pair.case: {
            "folder": pair.patient,
            "patient_id": pair.target.patient,
            "sources": [series.uid for series in pair.sources],
            "target": pair.target.uid,
        }
        for pair in pairs
    }


def _pair(patient: str, found: Sequence[Series], choice: SeriesChoice) -> SeriesPair:
    sources = tuple(fitting_series(found, pattern, "source") for pattern in choice.sources)
    target = fitting_series(found, choice.target, "target")
    if len({case_name(series) for series in (*sources, target)}) <= len(sources):
        raise DatasetError(
            f"the patterns {', '.join(choice.sources)} and {choice.target} fit the same series;"
            " make them narrower"
        )
    for series in (*sources, target):
        if series.geometry is None:
            raise DatasetError(f"{series.label}: {series.problem}")
    return SeriesPair(case_name(sources[0]), patient, sources, target)


def _require_one_space(pair: SeriesPair, resample: str | None) -> None:
    """Source and target on one grid, or in one frame of reference if they are resampled."""
    target = pair.target
    for source in pair.sources:
        other = target if source is pair.sources[0] or resample == "source" else pair.sources[0]
        difference = grid_difference(grid_of(other), grid_of(source))
        if difference is None:
            continue
        if resample is None or other is not target:
            ways = "--resample target or " if other is target else ""
            raise DatasetError(
                f"{other.label} is not on the grid of {source.label}: {difference}; try"
                f" {ways}--resample source"
            )
        if not target.frame or source.frame != target.frame:
            raise DatasetError(
                f"{target.label} and {source.label} have different frames of reference and grids:"
                " nothing says how they lie to each other; register them first"
            )
        if share_inside(grid_of(source), grid_of(target)) == 0:
            raise DatasetError(f"{target.label} and {source.label} do not overlap in space")


def _complaints_on_all(pairs: Sequence[SeriesPair]) -> list[str]:
    complaints = []
    first_with: dict[str, str] = {}
    for pair in pairs:
        if channel_names(pair) != channel_names(pairs[0]):
            complaints.append(
                f"{pair.patient}: is {_kinds(pair)}, but {pairs[0].patient} is {_kinds(pairs[0])};"
                " make a dataset of each"
            )
        first = first_with.setdefault(pair.case, pair.patient)
        if first != pair.patient:
            complaints.append(
                f"{pair.patient}: holds the same source series as {first}; remove one"
            )
    return complaints


def _kinds(pair: SeriesPair) -> str:
    sources, target = channel_names(pair)
    return f"{', '.join(sources)} to {target}"


def _notes(pairs: Sequence[SeriesPair]) -> list[str]:
    notes = []
    seen: Counter[str] = Counter(pair.target.patient for pair in pairs if pair.target.patient)
    n_repeated = sum(count for count in seen.values() if count > 1)
    if n_repeated:
        notes.append(
            f"{n_repeated} folders share their PatientID with another one: if these are the same"
            " patients, keep each on one side of the splits (splits_final.json)"
        )
    strange = [pair.patient for pair in pairs if pair.target.frame != pair.sources[0].frame]
    if strange:
        notes.append(
            f"{len(strange)} pairs have one grid but different frames of reference"
            f" ({strange[0]} first): check that they are registered"
        )
    return notes
