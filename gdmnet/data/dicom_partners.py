"""Sources and references of predictions from DICOM trees, as files that carry the cases' names."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from gdmnet.codec import read_json
from gdmnet.data.case import Series
from gdmnet.data.case_files import image_endings, images_by_case
from gdmnet.data.dicom import (
    Tree,
    case_name,
    find_series,
    frame_name,
    grid_of,
    holds_dicom,
    read_series,
)
from gdmnet.data.dicom_objects import registered_geometry, registration_between
from gdmnet.data.regrid import regrid, share_inside
from gdmnet.data.volume import read_geometry, write_volume
from gdmnet.errors import DatasetError
from gdmnet.geometry import grid_difference

_AIR = -1024.0  # HU outside of a CT


@contextmanager
def partner_folders(
    predictions: Path, sources: Path | None, references: Path | None, say: Callable[[str], None]
) -> Iterator[tuple[Path | None, Path | None]]:
    """Folders of images instead of those of DICOM series, for as long as the block lasts.

    predictions.json names the series of each case by hashes. A case's sources are the series of
    these names; its reference is the one CT of the same frame of reference; where there is none,
    one that a REG object beside the source links to it. Both are resampled onto the prediction's
    grid where theirs is another, which `say` is told. Folders of images stay as they are.

    Raises:
        DatasetError: a case's series is not there, or several may be its reference.
    """
    with tempfile.TemporaryDirectory() as place:
        converted = []
        for role, folder, find in (
            ("sources", sources, _sources_of),
            ("references", references, _reference_of),
        ):
            if folder is None or not _is_tree(folder):
                converted.append(folder)
                continue
            found, recorded = find_series(folder, untilt=True), _recorded_series(predictions)
            for case, path in images_by_case(predictions).items():
                if case not in recorded:
                    raise DatasetError(
                        f"{path}: predictions.json names no DICOM series of this case; give images"
                        f" of its name in place of {folder}"
                    )
                try:
                    chosen = find(found, recorded[case])
                except DatasetError as problem:
                    raise DatasetError(f"{folder}: {case}: {problem}") from None
                for channel, series in enumerate(chosen):
                    name = f"{case}_{channel:04d}" if role == "sources" else case
                    _write(series, path, Path(place) / role / f"{name}.nii.gz", say)
            converted.append(Path(place) / role)
        yield converted[0], converted[1]


def _is_tree(folder: Path) -> bool:
    return folder.is_dir() and not image_endings(folder) and holds_dicom(folder)


def _recorded_series(predictions: Path) -> dict[str, list[dict[str, str]]]:
    """Case -> what predictions.json says of its series, a channel each."""
    found: dict[str, list[dict[str, str]]] = {}
    for path in sorted(predictions.glob("predictions*.json")):
        record: Any = read_json(path, DatasetError)
        cases = record.get("cases", {}) if isinstance(record, dict) else {}
        found |= {name: result["series"] for name, result in cases.items() if result.get("series")}
    return found


def _sources_of(found: Tree, recorded: list[dict[str, str]]) -> list[Series]:
    by_name = {case_name(series): series for series in found.series}
    for series in recorded:
        if series["name"] not in by_name:
            raise DatasetError(f"its source {series['description']} is not here")
    return [by_name[series["name"]] for series in recorded]


def _reference_of(found: Tree, recorded: list[dict[str, str]]) -> list[Series]:
    name, frame = recorded[0]["name"], recorded[0]["frame"]
    scans = [s for s in found.series if s.modality == "CT" and case_name(s) != name]
    fitting = [series for series in scans if frame_name(series) == frame]
    for source in found.series:
        if case_name(source) == name and not fitting:
            moved = (_registered(series, source, found.objects["REG"]) for series in scans)
            fitting = [series for series in moved if series is not None]
    if len(fitting) == 1:
        return fitting
    listed = ", ".join(f"{series.label} in {series.folder}" for series in fitting)
    raise DatasetError(
        f"{len(fitting)} CTs in its frame of reference may be the reference ({listed}); keep one"
        if fitting
        else "no CT lies in its frame of reference, and no REG object beside its source links one;"
        " give the reference as an image"
    )


def _registered(series: Series, source: Series, files: Sequence[Path]) -> Series | None:
    """A series at its place in the source's frame of reference, if a registration says so."""
    matrix = registration_between(files, series, source)
    if matrix is None:
        return None
    said = f"{series.description}, registered by a REG object,"
    geometry = registered_geometry(grid_of(series), matrix)
    return replace(series, geometry=geometry, description=said)


def _write(series: Series, prediction: Path, path: Path, say: Callable[[str], None]) -> None:
    volume, grid = read_series(series), read_geometry(prediction)
    if grid_difference(volume.geometry, grid) is not None:
        if share_inside(grid, volume.geometry) == 0:
            raise DatasetError(f"{series.folder}: {series.label} lies beside {prediction.name}")
        say(f"{series.label} is resampled onto the grid of {prediction.name}")
        lowest = _AIR if series.modality == "CT" else min(0.0, float(volume.array.min()))
        volume = regrid(volume, grid, fill=lowest)
    write_volume(path, volume)
