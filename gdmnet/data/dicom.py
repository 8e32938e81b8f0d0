"""Read DICOM series: which ones lie in a tree of folders, and the voxels of one of them."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from operator import attrgetter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from gdmnet.data.case import CaseFiles, Series, SeriesHeader, Volume
from gdmnet.data.dicom_file import NO_PLACE, NOT_DICOM, is_dicom, read_pixels, read_slice
from gdmnet.data.dicom_grid import Slice, split_acquisitions, stack
from gdmnet.data.volume import read_channels
from gdmnet.errors import DatasetError
from gdmnet.geometry import Geometry, grid_difference, to_lps
from gdmnet.parallel import progress_bar


@dataclass(frozen=True)
class Tree:
    """What a folder and all folders in it hold."""

    series: tuple[Series, ...]  # sound or not, in order of their folders
    skipped: dict[str, int]  # what was left aside -> how often, to be read: "RTSTRUCT", "scouts"
    objects: dict[str, tuple[Path, ...]]  # structure sets ("RTSTRUCT") and registrations ("REG")

    def __str__(self) -> str:
        said = ", ".join(f"{what} ({count})" for what, count in sorted(self.skipped.items()))
        return f"{len(self.series)} DICOM series{f'; left aside: {said}' if said else ''}"


def holds_dicom(folder: Path) -> bool:
    """True if any file of a folder, or of the folders in it, is DICOM."""
    return any(is_dicom(path) for path in _files(folder, Counter()))


def find_series(folder: Path, *, untilt: bool = False) -> Tree:
    """All series of a tree; only headers are read.

    A series is what has one SeriesInstanceUID, wherever its files lie; acquisitions that lie among
    each other in it are a series each. One that is no sound stack carries its problem, to be
    refused when somebody wants it. Scouts, objects without pixels (RTSTRUCT, SR, ...), doses,
    segmentations, files that are not DICOM and folders that are not looked into are counted; but a
    file that cannot be read and is called as the slices beside it is a damaged slice of theirs.
    With `untilt`, series of a tilted gantry are sound: reading resamples them to a plain grid.

    Raises:
        DatasetError: no such folder.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder; give a folder of DICOM files")
    slices: dict[str, list[Slice]] = {}
    skipped: Counter[str] = Counter()
    objects: dict[str, tuple[Path, ...]] = {"RTSTRUCT": (), "REG": ()}
    unread: dict[tuple[Path, str], Path] = {}
    for path in progress_bar(list(_files(folder, skipped)), "headers"):
        found = read_slice(path)
        if isinstance(found, Slice):
            slices.setdefault(found.series, []).append(found)
        else:
            skipped[found] += 1
            if found in objects:
                objects[found] += (path,)
            if found == NOT_DICOM:
                unread.setdefault(_naming(path), path)
    for uid, own in [*slices.items()]:
        if all(item.problem == NO_PLACE for item in own):
            skipped["images without a position in the patient"] += len(slices.pop(uid))
    series = [
        _series(acquisition, group, unread, untilt=untilt)
        for own in slices.values()
        for acquisition, group in split_acquisitions(own).items()
    ]
    key = attrgetter("folder", "uid", "acquisition")
    return Tree(tuple(sorted(series, key=key)), dict(skipped), objects)


def is_fitting(series: Series, pattern: str) -> bool:
    """Whether a series' label fits a pattern, in any case; * is anything: "MR*t1*"."""
    return fnmatchcase(series.label.casefold(), pattern.casefold())


def fitting_series(found: Iterable[Series], pattern: str, what: str) -> Series:
    """The only series of a patient that fits a pattern of `is_fitting`, given by --source or so.

    Raises:
        DatasetError: none fits, or several do; they are listed.
    """
    fitting = [series for series in found if is_fitting(series, pattern)]
    if len(fitting) == 1:
        return fitting[0]
    listed = ", ".join(series.label for series in fitting or found)
    raise DatasetError(
        f"{len(fitting)} series fit the {what} {pattern!r} ({listed}); narrow it by --{what}"
        if fitting
        else f"no series fits the {what} {pattern!r} (there: {listed}); name it by --{what}, or"
        " move the folder away"
    )


def only_series(folder: Path) -> Series:
    """The one series of a folder.

    Raises:
        DatasetError: there is none, or several, which are listed.
    """
    tree = find_series(folder)
    if len(tree.series) == 1:
        return tree.series[0]
    listed = "; ".join(f"{item.label}, {len(item.files)} images" for item in tree.series[:5])
    said = f"{tree} ({listed})" if listed else tree
    raise DatasetError(
        f"{folder}: one series is needed, but here are {said}; give the folder of one series"
    )


def read_series(series: Series) -> Volume:
    """The voxels of a series: float32 (1, z, y, x) in LPS, CT in HU.

    Every slice's own RescaleSlope and RescaleIntercept are applied; see `read_pixels`. Slices of a
    tilted gantry that may be resampled come on their plain grid.

    Raises:
        DatasetError: the series is no sound stack, or a file cannot be read.
    """
    geometry = grid_of(series)
    is_ct = series.modality == "CT"
    stored = np.stack([read_pixels(path, is_ct=is_ct) for path in series.files])
    if not np.isfinite(stored).all():
        raise DatasetError(f"{series.folder}: has NaN or Inf pixels; export the series anew")
    if series.slant is not None:
        stored = _straightened(stored, geometry, series.slant)
    return Volume(to_lps(stored, geometry)[None], geometry)


def case_of(identifier: str, paths: Sequence[Path]) -> CaseFiles:
    """The case whose channels lie in these files, or in these folders of one series each.

    Raises:
        DatasetError: a folder does not hold exactly one series.
    """
    if all(path.is_dir() for path in paths):
        return CaseFiles(identifier, (), series=tuple(only_series(path) for path in paths))
    return CaseFiles(identifier, tuple(paths))


def read_sources(case: CaseFiles) -> Volume:
    """The source channels of a case, from files or from series: float32 (c, z, y, x) in LPS.

    Raises:
        DatasetError: as `read_channels` and `read_series`, or the grids of the series differ.
    """
    if not case.series:
        return read_channels(case.sources)
    first, *others = case.series
    geometry = grid_of(first)
    for series in others:
        difference = grid_difference(geometry, grid_of(series))
        if difference:
            raise DatasetError(
                f"{series.folder}: {series.label} is not on the grid of {first.label}:"
                f" {difference}; resample one onto the other"
            )
    return Volume(np.concatenate([read_series(item).array for item in case.series]), geometry)


def grid_of(series: Series) -> Geometry:
    """The grid of a sound series.

    Raises:
        DatasetError: it is not sound; folder and problem are named.
    """
    if series.geometry is None:
        raise DatasetError(f"{series.folder}: {series.label}: {series.problem}")
    return series.geometry


def series_sha256(series: Series) -> str:
    """SHA-256 over the SHA-256 of each slice's file, in order, as hexadecimal digits."""
    digests = [hashlib.sha256(path.read_bytes()).digest() for path in series.files]
    return hashlib.sha256(b"".join(digests)).hexdigest()


def case_name(series: Series) -> str:
    """A name that tells nothing of the patient and is the same wherever the series lies."""
    name = f"{series.uid} {series.acquisition}".strip()
    return f"case_{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def frame_name(series: Series) -> str:
    """A name of the frame of reference that tells nothing of the patient; "" if it has none."""
    return hashlib.sha256(series.frame.encode()).hexdigest()[:16] if series.frame else ""


def _straightened(stored: NDArray, grid: Geometry, slant: tuple[float, float]) -> NDArray:
    """The slices (n, rows, columns) of a tilted gantry on their plain grid, linearly in the plane.

    What no slice shows has the lowest value that there is.
    """
    lowest = stored.min()
    straight = np.full(grid.stored_shape, lowest, np.float32)
    straight[:, : stored.shape[1], : stored.shape[2]] = stored
    pixels = np.array(slant) / grid.itk_spacing[:2]  # columns and rows a slice
    first = -np.floor(np.minimum(pixels * (len(stored) - 1), 0))
    for number, plane in enumerate(straight):
        columns, rows = first + pixels * number
        ndimage.shift(plane.copy(), (rows, columns), plane, order=1, cval=float(lowest))
    return straight


def _files(folder: Path, skipped: Counter[str]) -> Iterator[Path]:
    """The files of a tree but hidden ones; folders that are not looked into are counted."""

    def count(problem: OSError) -> None:
        skipped["folders that cannot be read"] += 1

    for parent, folders, names in os.walk(folder, onerror=count):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        skipped.update("links to folders" for name in folders if Path(parent, name).is_symlink())
        for name in sorted(names):
            if not name.startswith("."):
                yield Path(parent) / name


def _naming(path: Path) -> tuple[Path, str]:
    """What the slices of one series share: folder and ending, or the name but for its numbers."""
    ending = path.suffix.lower()
    return path.parent, ending if ending[1:].isalpha() else re.sub(r"\d\w*", "", path.name)


def _series(
    acquisition: str,
    slices: Sequence[Slice],
    unread: Mapping[tuple[Path, str], Path],
    *,
    untilt: bool,
) -> Series:
    geometry = slant = problem = None
    try:
        for item in slices:
            if damaged := unread.get(_naming(item.path)):
                raise DatasetError(
                    f"{damaged.name} beside its slices cannot be read: empty, cut off or damaged;"
                    " restore it, or move it away if it is no slice"
                )
        slices, geometry, slant = stack(slices)
        if slant is not None and not untilt:
            tilt = np.degrees(np.arctan(np.hypot(*slant) / geometry.itk_spacing[2]))
            problem = (
                f"the gantry was tilted by {tilt:.1f} degrees: the slices are sheared against"
                " each other; --untilt resamples it to a plain grid"
            )
    except DatasetError as error:
        problem = str(error)
    first = slices[0]
    return Series(
        **{shared.name: getattr(first, shared.name) for shared in fields(SeriesHeader)},
        uid=first.series,
        files=tuple(item.path for item in slices),
        geometry=geometry if problem is None else None,
        problem=problem,
        acquisition=acquisition,
        slant=slant,
    )
