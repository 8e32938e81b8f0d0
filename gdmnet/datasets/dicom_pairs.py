"""Folders of patients in DICOM to a raw dataset: which series is the source, which the target."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gdmnet.data.case import Series
from gdmnet.data.dicom import Tree, case_name, find_series, fitting_series, grid_of, read_series
from gdmnet.data.dicom_file import is_dicom
from gdmnet.data.dicom_objects import (
    DrawnRegions,
    is_called,
    read_structures,
    registered_geometry,
    registration_between,
    series_drawn_on,
    slices_without,
)
from gdmnet.data.regrid import bounds, share_inside
from gdmnet.datasets.conversion import CaseImages, Conversion
from gdmnet.datasets.registration import register_apart
from gdmnet.datasets.settings import SeriesChoice
from gdmnet.errors import DatasetError
from gdmnet.geometry import grid_difference
from gdmnet.parallel import map_cases


@dataclass(frozen=True)
class SeriesPair:
    """The series of one patient."""

    case: str
    patient: str  # name of the folder
    sources: tuple[Series, ...]
    target: Series
    mask: DrawnRegions | None = None
    regions: DrawnRegions | None = None
    registered: str = ""  # how series were brought into one frame of reference, if they were


@dataclass(frozen=True)
class FoundPairs:
    """What was found."""

    pairs: tuple[SeriesPair, ...]
    skipped: dict[str, int]  # what was left aside -> how often
    notes: tuple[str, ...]  # what to know
    complaints: tuple[str, ...]  # what stands in the way


def find_pairs(folder: Path, choice: SeriesChoice, *, n_processes: int = 1) -> FoundPairs:
    """One pair a patient; a patient is a folder in `folder` that holds DICOM at any depth.

    Each pattern must fit exactly one series of a patient, a sound one, and source and target must
    lie on one grid, or in one frame of reference if one of them is to be resampled: their own, or
    that of a registration. Everything else is a complaint, and nothing may be written as long as
    there is one.

    Raises:
        DatasetError: no such folder, no DICOM in it, a damaged image.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder; give the folder of the patients' folders")
    found: list[tuple[SeriesPair, Tree]] = []
    trees: list[Tree] = []
    skipped: Counter[str] = Counter()
    complaints: list[str] = []
    for patient in sorted(path for path in folder.iterdir() if path.is_dir()):
        tree = find_series(patient, untilt=choice.untilt)
        skipped.update(tree.skipped)
        if tree.series:
            trees.append(tree)
            try:
                found.append((_pair(patient.name, tree.series, choice), tree))
            except DatasetError as problem:
                complaints.append(f"{patient.name}: {problem}")
    if not (found or complaints):
        itself = any(is_dicom(path) for path in folder.iterdir())
        what = "holds DICOM itself" if itself else "no folder in it holds a DICOM series"
        raise DatasetError(f"{folder}: {what}; give the folder that holds a folder a patient")
    patients = {series.patient for tree in trees for series in tree.series}
    if len(trees) > 1 and len(patients) == 1 and not found and "" not in patients:
        raise DatasetError(
            f"{folder}: its folders hold series of one patient"
            f" ({', '.join(series.label for tree in trees for series in tree.series)}); give the"
            " folder that holds a folder a patient"
        )
    aligned = map_cases(
        partial(_aligned, choice=choice),
        found,
        n_processes=n_processes if choice.register else 1,
        name=lambda item: item[0].patient,
        title="registering" if choice.register else "frames",
    )
    pairs = [pair for pair, _ in aligned]
    complaints += [f"{pair.patient}: {problem}" for pair, problem in aligned if problem]
    complaints += _complaints_on_all(pairs)
    return FoundPairs(tuple(pairs), dict(skipped), tuple(_notes(pairs, choice)), tuple(complaints))


def _aligned(item: tuple[SeriesPair, Tree], choice: SeriesChoice) -> tuple[SeriesPair, str]:
    """A pair in one frame of reference, with what was drawn on it; or what stands in the way."""
    pair, tree = item
    try:
        pair, matrices = _in_one_frame(pair, tree, choice)
        _require_one_space(pair, choice.resample)
        if choice.body_roi is not None:
            pair = replace(pair, mask=_drawn((choice.body_roi,), tree, matrices, is_body=True))
        if choice.labels:
            pair = replace(pair, regions=_drawn(choice.labels, tree, matrices))
    except DatasetError as problem:
        return pair, str(problem)
    return pair, ""


def _in_one_frame(
    pair: SeriesPair, tree: Tree, choice: SeriesChoice
) -> tuple[SeriesPair, dict[str, NDArray]]:
    """Every series at its place in the frame of the fixed one, and the matrix of each frame."""
    fixed = pair.target if choice.resample == "source" else pair.sources[0]
    matrices: dict[str, NDArray] = {fixed.frame: np.eye(4)}
    said = []

    def placed(series: Series) -> Series:
        if series.frame not in matrices:
            matrix, how = _registration(series, fixed, tree, choice)
            if matrix is None:
                return series
            matrices[series.frame] = matrix
            if how:
                said.append(f"{series.label} moved by {_size_of(matrix, series)} ({how})")
        matrix = matrices[series.frame]
        if np.array_equal(matrix, np.eye(4)):
            return series
        geometry = registered_geometry(grid_of(series), matrix)
        return replace(series, geometry=geometry, frame=fixed.frame)

    sources, target = tuple(map(placed, pair.sources)), placed(pair.target)
    return replace(pair, sources=sources, target=target, registered="; ".join(said)), matrices


def _registration(
    series: Series, fixed: Series, tree: Tree, choice: SeriesChoice
) -> tuple[NDArray | None, str]:
    """The matrix (4, 4) of a series' points into the fixed one's frame, and how it was found."""
    if grid_difference(grid_of(series), grid_of(fixed)) is None:
        return np.eye(4), ""  # one grid: registered and resampled before
    matrix = registration_between(tree.objects["REG"], series, fixed)
    if matrix is not None or not choice.register:
        return matrix, "REG object"
    are_ct = series.modality == "CT", fixed.modality == "CT"
    volumes = read_series(series), read_series(fixed)
    return register_apart(*volumes, are_ct=are_ct), "registered by the images"


def _size_of(matrix: NDArray, series: Series) -> str:
    """How far a registration moves the middle of a series, and how much it turns it."""
    middle = np.mean(bounds(grid_of(series)), axis=0)
    distance = np.linalg.norm(matrix[:3, :3] @ middle + matrix[:3, 3] - middle)
    angle = np.degrees(np.arccos(np.clip((np.trace(matrix[:3, :3]) - 1) / 2, -1, 1)))
    return f"{distance:.1f} mm and {angle:.1f} degrees"


def _drawn(
    patterns: tuple[str, ...], tree: Tree, matrices: Mapping[str, NDArray], *, is_body: bool = False
) -> DrawnRegions | None:
    """The structures of these names as an image; None where a patient has none of the regions."""
    every = [item for path in tree.objects["RTSTRUCT"] for item in read_structures(path)]
    found = [item for item in every if any(is_called(item, pattern) for pattern in patterns)]
    if is_body and len(found) != 1:
        there = ", ".join(sorted(item.name for item in found or every)) or "no structure"
        raise DatasetError(
            f"{len(found) or 'no'} structures are called {patterns[0]!r} (there: {there}); name one"
            " by --body-roi"
        )
    if not found:
        return None
    for name, count in Counter(item.name for item in found).items():
        if count > 1:
            sets = " and ".join(item.file.name for item in found if item.name == name)
            raise DatasetError(f"{name} is drawn in {sets}; move one away")
    series, *others = (series_drawn_on(item, tree.series) for item in found)
    if any(other is not series for other in others):
        raise DatasetError(f"{' and '.join(patterns)} were drawn on several series; give one's")
    if series.frame not in matrices:
        raise DatasetError(
            f"{found[0].name} was drawn on {series.label}, whose frame of reference is not that of"
            " source and target"
        )
    if is_body and (missing := slices_without(found[0], series)):
        raise DatasetError(
            f"{found[0].name} has no contour on slice {missing[0]} of {series.label}"
        )
    files = tuple(dict.fromkeys(item.file for item in found))
    geometry = registered_geometry(grid_of(series), matrices[series.frame])
    lacking = tuple(p for p in patterns if not any(is_called(item, p) for item in found))
    return DrawnRegions(files, patterns, series, geometry, lacking)


def make_conversion(pairs: Sequence[SeriesPair], choice: SeriesChoice) -> Conversion:
    """What makes a raw dataset of the pairs that `find_pairs` has found by this choice."""
    sources, target = channel_names(pairs[0])
    return Conversion(
        sources,
        target,
        tuple(
            CaseImages(pair.case, pair.sources, pair.target, pair.mask, pair.regions)
            for pair in pairs
        ),
        resample=choice.resample,
        source_series=choice.sources,
        registered={pair.case: pair.registered for pair in pairs if pair.registered},
        metadata={
            "description": "converted from DICOM",
            **({"untilted": "tilted CTs, if any, were resampled"} if choice.untilt else {}),
            **({"regions": dict(enumerate(choice.labels, start=1))} if choice.labels else {}),
        },
    )


def channel_names(pair: SeriesPair) -> tuple[tuple[str, ...], str]:
    """Names of the source channels and of the target: the modality, numbered if there are several.

    CT promises Hounsfield units, which the modality CT means.
    """
    names = [series.modality for series in pair.sources]
    if len(names) > 1:
        names = [f"{name} {i}" for i, name in enumerate(names)]
    return tuple(names), pair.target.modality


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
                " no REG object says how they lie to each other; add one, or --register rigid"
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


def _notes(pairs: Sequence[SeriesPair], choice: SeriesChoice) -> list[str]:
    notes = []
    seen: Counter[str] = Counter(pair.target.patient for pair in pairs if pair.target.patient)
    n_repeated = sum(count for count in seen.values() if count > 1)
    if n_repeated:
        notes.append(
            f"{n_repeated} folders share their PatientID with another one: if these are the same"
            " patients, keep each on one side of the splits (splits_final.json)"
        )
    notes += [f"{pair.patient}: {pair.registered}" for pair in pairs if pair.registered]
    for pair in pairs:
        lacking = choice.labels if pair.regions is None else pair.regions.lacking
        notes += [f"{pair.patient}: no structure is called {name!r}" for name in lacking]
    strange = [
        pair.patient
        for pair in pairs
        if pair.target.frame != pair.sources[0].frame
        and grid_difference(grid_of(pair.target), grid_of(pair.sources[0])) is None
    ]
    if strange:
        notes.append(
            f"{len(strange)} pairs have one grid but different frames of reference"
            f" ({strange[0]} first): check that they are registered"
        )
    return notes
