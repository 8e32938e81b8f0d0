"""Read DICOM series: which ones lie in a tree of folders, and the voxels of one of them.

Headers and pixels are decoded by GDCM (through SimpleITK); what belongs together, in which order
and on which grid is decided here, because GDCM stacks whatever it is given.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from gdmnet.data.case import CaseFiles, Series, Volume
from gdmnet.data.dicom_file import Header, is_dicom, read_header, read_pixels
from gdmnet.data.dicom_grid import Slice, stack
from gdmnet.data.volume import read_channels
from gdmnet.errors import DatasetError
from gdmnet.geometry import Geometry, grid_difference, to_lps

_NO_SCANS = ("RTDOSE", "RTIMAGE", "SEG")  # modalities with pixels that are no scan of a patient
_SCOUT = re.compile(r"locali[sz]er|scout|survey|topogram|surview|scanogram|\bloc\b")


@dataclass(frozen=True)
class Tree:
    """What a folder and all folders in it hold.

    Attributes:
        series: that may be volumes, sound or not, in the order of their folders.
        skipped: what was left aside -> how often, for a person to read: "RTSTRUCT", "scouts".
    """

    series: tuple[Series, ...]
    skipped: dict[str, int]

    def __str__(self) -> str:
        said = ", ".join(f"{what} ({count})" for what, count in sorted(self.skipped.items()))
        n_series = len(self.series)
        return f"{n_series} DICOM series{f'; left aside: {said}' if said else ''}"


def holds_dicom(folder: Path) -> bool:
    """True if any file of a folder, or of the folders in it, is DICOM."""
    return any(is_dicom(path) for path in _files(folder))


def find_series(folder: Path) -> Tree:
    """All series of a tree; only headers are read.

    A series is what has one SeriesInstanceUID, wherever its files lie. One that is no sound stack
    carries its problem, to be refused when somebody wants it. Scouts, objects without pixels
    (RTSTRUCT, SR, ...), doses, segmentations and files that are not DICOM are counted.

    Raises:
        DatasetError: no such folder, or an image in it is damaged.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder; give a folder of DICOM files")
    images: dict[str, list[tuple[Path, Header]]] = {}
    skipped: Counter[str] = Counter()
    for path in tqdm(list(_files(folder)), desc="headers", disable=None, leave=False):
        header = read_header(path) if is_dicom(path) else "not DICOM"
        reason = header if isinstance(header, str) else _why_no_slice(header)
        if isinstance(header, Header) and reason is None:
            images.setdefault(header.series, []).append((path, header))
        else:
            skipped[str(reason)] += 1
    found = sorted((_series(items) for items in images.values()), key=lambda s: (s.folder, s.uid))
    return Tree(tuple(found), dict(skipped))


def only_series(folder: Path) -> Series:
    """The one series of a folder.

    Raises:
        DatasetError: there is none, or several, which are listed.
    """
    tree = find_series(folder)
    if len(tree.series) == 1:
        return tree.series[0]
    listed = "; ".join(f"{item.label}, {len(item.files)} images" for item in tree.series[:5])
    raise DatasetError(
        f"{folder}: one series is needed, but here are {tree}"
        f"{f' ({listed})' if listed else ''}; give the folder of one series"
    )


def read_series(series: Series) -> Volume:
    """The voxels of a series: float32 (1, z, y, x) in LPS, CT in HU.

    Every slice's own RescaleSlope and RescaleIntercept are applied; see `read_pixels`.

    Raises:
        DatasetError: the series is no sound stack, or a file cannot be read.
    """
    geometry = grid_of(series)
    is_ct = series.modality == "CT"
    stored = np.stack([read_pixels(path, is_ct=is_ct) for path in series.files])
    if not np.isfinite(stored).all():
        raise DatasetError(f"{series.folder}: has NaN or Inf pixels; export the series anew")
    return Volume(to_lps(stored, geometry)[None], geometry)


def read_series_channels(channels: Sequence[Series]) -> Volume:
    """One series a channel, as float32 (c, z, y, x) in LPS.

    Raises:
        DatasetError: as `read_series`, or the grids differ.
    """
    geometry = grid_of(channels[0])
    for series in channels[1:]:
        difference = grid_difference(geometry, grid_of(series))
        if difference:
            raise DatasetError(
                f"{series.folder}: {series.label} is not on the grid of {channels[0].label}:"
                f" {difference}; resample one onto the other"
            )
    return Volume(np.concatenate([read_series(series).array for series in channels]), geometry)


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
        DatasetError: as `read_channels` and `read_series_channels`.
    """
    return read_series_channels(case.series) if case.series else read_channels(case.sources)


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
    digest = hashlib.sha256()
    for path in series.files:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def case_name(series: Series) -> str:
    """A name that tells nothing of the patient and is the same wherever the series lies."""
    return f"case_{hashlib.sha256(series.uid.encode()).hexdigest()[:8]}"


def _files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                yield Path(parent) / name


def _why_no_slice(header: Header) -> str | None:
    """What to call an image that is no part of a volume."""
    if header.modality in _NO_SCANS:
        return header.modality
    if "LOCALIZER" in header.image_type.split("\\") or _SCOUT.search(header.description.casefold()):
        return "scouts"
    if _is_multi_frame(header):  # kept: it is refused with its reason if somebody wants it
        return None
    if not (header.position and header.orientation and header.pixel_spacing):
        return "images without a position in the patient"
    return None


def _is_multi_frame(header: Header) -> bool:
    return header.frames not in ("", "1")


def _series(items: Sequence[tuple[Path, Header]]) -> Series:
    files: tuple[Path, ...] = tuple(path for path, _ in items)
    geometry, problem = None, None
    try:
        _require_one_kind([header for _, header in items])
        slices, geometry = stack([_slice(path, header) for path, header in items])
        files = tuple(item.path for item in slices)
    except DatasetError as error:
        problem = str(error)
    header = items[0][1]
    return Series(
        uid=header.series,
        study=header.study,
        frame=header.frame,
        patient=header.patient,
        modality=header.modality,
        description=header.description.encode("ascii", "replace").decode(),
        files=files,
        geometry=geometry,
        problem=problem,
    )


def _require_one_kind(headers: Sequence[Header]) -> None:
    if any(_is_multi_frame(header) for header in headers):
        raise DatasetError(
            "enhanced multi-frame images are not supported; export them as single-frame images"
        )
    if any(header.samples not in ("", "1") for header in headers):
        raise DatasetError("its images are in colour; give the original scan")
    first = headers[0]
    owner = first.patient, first.study, first.frame
    if any((header.patient, header.study, header.frame) != owner for header in headers):
        raise DatasetError(
            "its images differ in patient, study or frame of reference; export the series anew"
        )


def _slice(path: Path, header: Header) -> Slice:
    try:
        x, y, z = _numbers(header.position)
        rx, ry, rz, cx, cy, cz = _numbers(header.orientation)
        between_rows, between_columns = _numbers(header.pixel_spacing)
        thickness = _numbers(header.thickness)[0] if header.thickness else None
        shape = int(header.rows), int(header.columns)
    except ValueError:
        raise DatasetError(
            f"{path.name}: position, orientation or pixel spacing are no numbers; export it anew"
        ) from None
    if min(between_rows, between_columns) <= 0:
        raise DatasetError(f"{path.name}: the pixel spacing is not positive; export it anew")
    spacing = between_rows, between_columns
    along_row, along_column = (rx, ry, rz), (cx, cy, cz)
    return Slice(path, header.uid, (x, y, z), along_row, along_column, spacing, shape, thickness)


def _numbers(text: str) -> list[float]:
    values = [float(part) for part in text.split("\\")]
    if not np.isfinite(values).all():
        raise ValueError(text)
    return values
