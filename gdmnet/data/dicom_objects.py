"""What lies beside DICOM series: contours drawn on them (RTSTRUCT) and registrations (REG)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from skimage.draw import polygon

from gdmnet.data.case import Series, Volume
from gdmnet.data.dicom import grid_of
from gdmnet.data.dicom_file import unsound_files
from gdmnet.errors import DatasetError
from gdmnet.geometry import Geometry, stored_geometry, to_lps

if TYPE_CHECKING:
    from pydicom import Dataset

_BESIDE = 0.1  # of the slice distance: a contour further from its slice lies on another grid
_NOT_RIGID = 1e-3  # of a rotation's cosines
_SAME = 0.1  # mm, by which two registrations of the same frames may differ at the origin


@dataclass(frozen=True)
class Structure:
    """One drawn structure: closed polygons (n, 3) in mm, LPS, each in the plane of one slice."""

    file: Path
    name: str  # ROIName
    frame: str  # FrameOfReferenceUID, in which the points are
    series: tuple[str, ...]  # SeriesInstanceUIDs that it was drawn on, if the file says so
    contours: tuple[NDArray, ...]


@dataclass(frozen=True)
class DrawnRegions:
    """Regions as an image: labels on the grid of the series that they were drawn on.

    Label 1 has the structures whose names fit the first pattern, and so on; a later label lies
    above an earlier one.
    """

    files: tuple[Path, ...]  # structure sets
    patterns: tuple[str, ...]
    series: Series  # on whose slices the contours lie
    geometry: Geometry  # of that series, registered where the pair is
    lacking: tuple[str, ...] = ()  # patterns that no structure fits


def read_structures(path: Path) -> list[Structure]:
    """The structures of a structure set that have closed contours.

    Raises:
        DatasetError: the file cannot be read.
    """
    from pydicom import dcmread

    with unsound_files(path, "a structure set that cannot be read; export it anew"):
        item = dcmread(path, force=True)
        places = {roi.ReferencedROINumber: roi for roi in item.get("ROIContourSequence", ())}
        found = []
        for roi in item.get("StructureSetROISequence", ()):
            contours = [
                _points(contour)
                for contour in getattr(places.get(roi.ROINumber), "ContourSequence", ())
                if contour.ContourGeometricType.startswith("CLOSED_PLANAR")
            ]
            frame = str(roi.get("ReferencedFrameOfReferenceUID", ""))
            if contours:
                drawn = tuple(_series_of(item, frame))
                name = str(roi.get("ROIName", ""))
                found.append(Structure(path, name, frame, drawn, tuple(contours)))
    return found


def _points(contour: Dataset) -> NDArray:
    points = np.array(contour.ContourData, float).reshape(-1, 3)
    if not (points.size and np.isfinite(points).all()):
        raise ValueError(points)
    return points


def is_called(structure: Structure, pattern: str) -> bool:
    """Whether a structure's name fits a pattern, in any case; "BODY|EXTERNAL" is either."""
    name = structure.name.strip().casefold()
    return any(fnmatchcase(name, part.strip().casefold()) for part in pattern.split("|"))


def slices_without(structure: Structure, series: Series) -> list[int]:
    """Numbers, from 1, of the slices between those of its contours that have none."""
    drawn = {number for number, _ in _indices(structure, series) or ()}
    return [n + 1 for n in range(min(drawn, default=0), max(drawn, default=0)) if n not in drawn]


def series_drawn_on(structure: Structure, candidates: Iterable[Series]) -> Series:
    """The series on whose slices a structure was drawn.

    Raises:
        DatasetError: none lies in its frame of reference, or has its slices.
    """
    sound = [series for series in candidates if series.geometry is not None]
    same = [series for series in sound if structure.frame and series.frame == structure.frame]
    if not same:
        raise DatasetError(
            f"{structure.name} of {structure.file.name} was drawn in the frame of reference of none"
            " of the series"
        )
    for series in sorted(same, key=lambda series: series.uid not in structure.series):
        if _indices(structure, series) is not None:
            return series
    raise DatasetError(
        f"{structure.name} of {structure.file.name} does not lie on the slices of"
        f" {' or '.join(series.label for series in same)}; export the series that it was drawn on"
    )


def read_regions(regions: DrawnRegions) -> Volume:
    """Labels, float32 (1, z, y, x) in LPS, 0 where nothing was drawn.

    A voxel is inside where its centre is. Contours of a structure in one slice that lie in each
    other are its holes; several beside each other are its parts.

    Raises:
        DatasetError: a file cannot be read, or a contour does not lie on the series' slices.
    """
    structures = [item for path in regions.files for item in read_structures(path)]
    labels = np.zeros(grid_of(regions.series).stored_shape, np.float32)
    for label, pattern in enumerate(regions.patterns, start=1):
        for structure in structures:
            if is_called(structure, pattern):
                labels[_inside(structure, regions.series)] = label
    # The stored order is the same on the registered grid; only its place in the patient differs.
    return Volume(to_lps(labels, regions.geometry)[None], regions.geometry)


def registration_between(files: Sequence[Path], moving: Series, fixed: Series) -> NDArray | None:
    """The rigid registration (4, 4) of a series' points into another's frame, in mm.

    None where none of the Spatial Registration objects links the two frames.

    Raises:
        DatasetError: a file cannot be read, several contradict each other, or it is not rigid.
    """
    found: dict[Path, NDArray] = {}
    for path in files:
        frames = _read_registration(path)
        if moving.frame in frames and fixed.frame in frames:
            ours, theirs = frames[moving.frame], frames[fixed.frame]
            if not (_is_rigid(ours) and _is_rigid(theirs)):
                raise DatasetError(f"{path.name}: is no rigid registration; give a rigid one")
            found[path] = np.linalg.inv(theirs) @ ours
    for path, matrix in found.items():
        first = next(iter(found))
        if np.abs(matrix - found[first]).max() > _SAME:
            raise DatasetError(
                f"{first.name} and {path.name} register {moving.label} in two ways; move one away"
            )
    return next(iter(found.values()), None)


def _is_rigid(matrix: NDArray) -> bool:
    turn = matrix[:3, :3]
    skew = np.abs(turn @ turn.T - np.eye(3)).max() + np.abs(matrix[3] - (0, 0, 0, 1)).max()
    return bool(np.isfinite(matrix).all() and skew <= _NOT_RIGID and np.linalg.det(turn) > 0)


def registered_geometry(old: Geometry, matrix: NDArray) -> Geometry:
    """A grid at its place in another frame of reference, by a rigid matrix (4, 4) in mm.

    No voxel is interpolated.
    """
    direction = matrix[:3, :3] @ np.reshape(old.itk_direction, (3, 3))
    origin = matrix[:3, :3] @ old.itk_origin + matrix[:3, 3]
    return stored_geometry(old.stored_shape, old.itk_spacing[::-1], origin, direction)


def _series_of(item: Dataset, frame: str) -> Iterable[str]:
    """The series that a structure set refers to in a frame of reference."""
    for place in item.get("ReferencedFrameOfReferenceSequence", ()):
        if place.get("FrameOfReferenceUID", "") == frame:
            for study in place.get("RTReferencedStudySequence", ()):
                for series in study.get("RTReferencedSeriesSequence", ()):
                    yield str(series.get("SeriesInstanceUID", ""))


def _indices(structure: Structure, series: Series) -> list[tuple[int, NDArray]] | None:
    """Slice number and points (n, 2) in rows and columns of each contour; None if one is beside."""
    grid = grid_of(series)
    direction = np.reshape(grid.itk_direction, (3, 3))
    found = []
    for points in structure.contours:
        index = (points - grid.itk_origin) @ direction / grid.itk_spacing  # column, row, slice
        number = round(float(index[:, 2].mean()))
        is_there = 0 <= number < grid.stored_shape[0]
        if not is_there or np.abs(index[:, 2] - number).max() > _BESIDE:
            return None
        found.append((number, index[:, 1::-1]))
    return found


def _inside(structure: Structure, series: Series) -> NDArray:
    """Where a structure is, bool (slices, rows, columns) as in the files of the series."""
    contours = _indices(structure, series)
    if contours is None:
        raise DatasetError(
            f"{structure.file}: {structure.name} does not lie on the slices of {series.label}"
        )
    inside = np.zeros(grid_of(series).stored_shape, bool)
    for number, points in contours:
        inside[number][polygon(points[:, 0], points[:, 1], inside.shape[1:])] ^= True
    return inside


def _read_registration(path: Path) -> dict[str, NDArray]:
    """Frame of reference -> matrix (4, 4) of its points into the registered space."""
    from pydicom import dcmread

    with unsound_files(path, "a registration that cannot be read; export it anew"):
        item = dcmread(path, force=True)
        found = {str(item.get("FrameOfReferenceUID", "")): np.eye(4)}
        for entry in item.get("RegistrationSequence", ()):  # deformable ones have none
            frame, matrix = str(entry.get("FrameOfReferenceUID", "")), np.eye(4)
            registrations = entry.get("MatrixRegistrationSequence", ())
            for registration in registrations:
                for step in registration.MatrixSequence:  # applied one after the other
                    values = np.array(step.FrameOfReferenceTransformationMatrix, float)
                    matrix = values.reshape(4, 4) @ matrix
            if registrations:  # without any, nothing is said of where the frame lies
                found[frame] = matrix
    found.pop("", None)
    return found
