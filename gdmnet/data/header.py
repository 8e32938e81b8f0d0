"""What the header of an image file says, checked before anything is made of it; NRRD, MetaImage.

No image library is asked: impossible headers corrupt ITK's memory or keep it busy without end, its
NIfTI reader fills truncated files with zeros and turns NaN into 0, both without a word.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BufferedIOBase
from pathlib import Path

import numpy as np

from gdmnet.errors import DatasetError
from gdmnet.geometry import SPACINGS, Geometry, shown, stored_geometry

_FARTHEST = 1e5  # mm from the origin of the patient: 100 m
_SKEWED = 1e-3  # of the cosine between two axes: less is the rounding of a float32 header
_DEFLATED = 1032  # times smaller than its contents a zlib stream may be
_LONGEST_LINE = 1 << 20
_ELSEWHERE = "the voxels lie in another file; store header and voxels in one"

_META_TYPES = {"MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2"}
_META_TYPES |= {"MET_INT": "i4", "MET_UINT": "u4", "MET_FLOAT": "f4", "MET_DOUBLE": "f8"}
_META_TYPES |= {"MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8"}
_NRRD_TYPES = {
    name: kind
    for kind, names in {
        "i1": "signed_char int8 int8_t",
        "u1": "unsigned_char uchar uint8 uint8_t",
        "i2": "short short_int signed_short signed_short_int int16 int16_t",
        "u2": "unsigned_short ushort unsigned_short_int uint16 uint16_t",
        "i4": "int signed_int int32 int32_t",
        "u4": "unsigned_int uint uint32 uint32_t",
        "i8": "long_long longlong long_long_int signed_long_long int64 int64_t",
        "u8": "unsigned_long_long ulonglong unsigned_long_long_int uint64 uint64_t",
        "f4": "float",
        "f8": "double",
    }.items()
    for name in names.split()
}
_NRRD_SPACES = {"": (1, 1, 1)}  # the signs that bring its axes to LPS; none is a guess
_NRRD_SPACES |= dict.fromkeys(("left-posterior-superior", "lps"), (1, 1, 1))
_NRRD_SPACES |= dict.fromkeys(("right-anterior-superior", "ras"), (-1, -1, 1))
_NRRD_SPACES |= dict.fromkeys(("left-anterior-superior", "las"), (1, -1, 1))


@dataclass(frozen=True)
class ImageHeader:
    """The header of one volume."""

    geometry: Geometry
    kind: np.dtype  # of the stored numbers
    offset: int  # of the voxels in bytes; of a gzipped NIfTI file, once it is unpacked
    is_packed: bool = False  # a zlib or gzip stream begins there
    scaling: tuple[float, float] = (1.0, 0.0)  # slope and intercept to the numbers meant

    @property
    def n_bytes(self) -> int:
        """Bytes of all voxels."""
        return math.prod(self.geometry.shape) * self.kind.itemsize


def damaged(path: Path, what: str) -> DatasetError:
    """The complaint about a file that does not hold what it should."""
    return DatasetError(f"{path}: {what}; the file is truncated or damaged: copy it anew")


def make_geometry(
    path: Path,
    sides: Sequence[int],
    spacing: Sequence[float],
    origin: Sequence[float],
    direction: np.ndarray,
) -> Geometry:
    """The grid that a header gives, or the complaint that there can be no such grid.

    Args:
        path: named in complaints.
        sides: voxels (x, y, z, ...) of two to seven axes.
        spacing: mm along them; a missing third is 1 mm thick.
        origin: mm (x, y, z) in LPS; what is missing is 0.
        direction: the cosines (n, n) of n axes, a column each.

    Raises:
        DatasetError: impossible sizes, spacings, origins or axes, or several volumes.
    """
    if not 2 <= len(sides) <= 7 or min(sides) < 1:
        raise DatasetError(f"{path}: the header gives the size {shown(sides)}; correct it")
    if math.prod(sides[3:]) > 1:
        raise DatasetError(f"{path}: holds {math.prod(sides[3:])} volumes; give one file a channel")
    if min(len(spacing), len(origin)) < min(3, len(sides)):
        raise damaged(path, "the header has fewer spacings or coordinates of its origin than axes")
    size = (*sides, 1)[:3]
    spacing, origin = (*spacing, 1.0)[:3], (*origin, 0.0)[:3]
    if not all(SPACINGS[0] <= width <= SPACINGS[1] for width in spacing):
        raise DatasetError(
            f"{path}: the header gives the spacing {shown(spacing)} mm (x, y, z), but voxels of a"
            f" patient measure {SPACINGS[0]:g} to {SPACINGS[1]:g} mm; correct the header"
        )
    if not all(abs(place) <= _FARTHEST for place in origin):
        raise DatasetError(f"{path}: the header gives the origin {shown(origin)} mm; correct it")
    cosines = np.eye(3)
    n_axes = min(3, len(direction))
    cosines[:n_axes, :n_axes] = direction[:n_axes, :n_axes]
    cosines = _at_right_angles(path, cosines)
    return stored_geometry(size[::-1], spacing[::-1], origin, cosines)


def check_size(path: Path, header: ImageHeader, *, is_packed: bool) -> None:
    """Complain about voxels that the file cannot hold, before memory is taken for them.

    Raises:
        DatasetError: too few bytes are there, or behind a text header too many.
    """
    n_there = path.stat().st_size - (0 if is_packed else header.offset)
    n_most = _DEFLATED * n_there if is_packed else n_there
    exact = not is_packed and header.geometry.forms is None
    if n_most < header.n_bytes or (exact and n_most > header.n_bytes):
        what = "compressed bytes, too few for" if is_packed else "of"
        raise damaged(path, f"{n_there} {what} {header.n_bytes} bytes of voxels are there")


def read_meta_header(path: Path, handle: BufferedIOBase) -> ImageHeader:
    """The header of a MetaImage file; the handle is left behind it."""
    header = _header_lines(handle, "=", "ElementDataFile")
    if "ElementDataFile" not in header:
        raise damaged(path, "no complete MetaImage header")
    if header["ElementDataFile"] != "LOCAL":
        raise DatasetError(f"{path}: {_ELSEWHERE}")
    if header.get("BinaryData", "True").lower() != "true":
        raise DatasetError(f"{path}: the voxels are written as text; store them as binary data")
    sides = _numbers(path, header.get("DimSize", ""), "size", int)
    if header.get("ElementType") not in _META_TYPES or not sides:
        raise damaged(path, "the MetaImage header has no usable ElementType and DimSize")
    if header.get("NDims", str(len(sides))) != str(len(sides)):
        raise damaged(path, f"the header gives NDims {header['NDims']}, but {len(sides)} sizes")
    _require_one_value(path, header.get("ElementNumberOfChannels", "1"))
    matrix = _first(header, "TransformMatrix", "Rotation", "Orientation")
    cosines = _numbers(path, matrix, "matrix", float, count=len(sides) ** 2)
    offset = _first(header, "Offset", "Position", "Origin")
    is_big = _first(header, "BinaryDataByteOrderMSB", "ElementByteOrderMSB").lower() == "true"
    is_packed = header.get("CompressedData", "False").lower() == "true"
    begin, n_there = handle.tell(), path.stat().st_size - handle.tell()
    if is_packed and header.get("CompressedDataSize", str(n_there)) != str(n_there):
        raise damaged(
            path, f"{n_there} of {header['CompressedDataSize']} compressed bytes are there"
        )
    geometry = make_geometry(
        path,
        sides,
        _numbers(path, _first(header, "ElementSpacing", "ElementSize"), "spacing", float)
        or [1.0] * len(sides),
        _numbers(path, offset, "origin", float) or [0.0] * len(sides),
        np.reshape(cosines, (len(sides), -1)).T if cosines else np.eye(len(sides)),
    )
    return ImageHeader(
        replace(geometry, is_oriented=bool(cosines)),
        np.dtype("<>"[is_big] + _META_TYPES[header["ElementType"]]),
        begin,
        is_packed,
    )


def read_nrrd_header(path: Path, handle: BufferedIOBase) -> ImageHeader:
    """The header of an NRRD file; the handle is left behind it."""
    if not re.fullmatch(rb"NRRD000[1-5]\r?\n", handle.readline(10)):
        raise damaged(path, "no NRRD header")
    header = {key.lower(): value for key, value in _header_lines(handle, ":", "").items()}
    if "data file" in header or "datafile" in header:
        raise DatasetError(f"{path}: {_ELSEWHERE}")
    if "" not in header:
        raise damaged(path, "the NRRD header has no end")
    sides = _numbers(path, header.get("sizes", ""), "size", int)
    if header.get("dimension") != str(len(sides)):
        raise damaged(path, f"the NRRD header has no {header.get('dimension', 'number of')} sizes")
    kind = _NRRD_TYPES.get(header.get("type", "").lower().replace(" ", "_"))
    if kind is None:
        raise DatasetError(f"{path}: NRRD type {header.get('type')!r}; store a plain image")
    encoding = header.get("encoding", "").lower()
    if encoding not in ("raw", "gzip", "gz"):
        raise DatasetError(f"{path}: NRRD encoding {encoding!r}; store it as raw or gzip")
    skips = {_first(header, "byte skip", "byteskip"), _first(header, "line skip", "lineskip")}
    if skips - {"", "0"}:
        raise DatasetError(f"{path}: skips bytes or lines; store the voxels behind the header")
    kinds = header.get("kinds", "").split()
    if {*kinds} - {"domain", "space", "time", "none", "???", "list", "scalar"}:
        _require_one_value(path, str(sides[0]))
    order = {"little": "<", "big": ">"}.get(header.get("endian", "").lower())
    if order is None and not kind.endswith("1"):
        raise DatasetError(f"{path}: NRRD endian {header.get('endian')!r}; use little or big")
    geometry = make_geometry(path, sides, *_nrrd_frame(path, header, len(sides)))
    return ImageHeader(
        replace(geometry, is_oriented=bool(header.get("space"))),
        np.dtype((order or "<") + kind),
        handle.tell(),
        encoding != "raw",
    )


def _nrrd_frame(
    path: Path, header: dict[str, str], n_axes: int
) -> tuple[list[float], list[float], np.ndarray]:
    """Spacing, origin and direction in LPS of the first three axes."""
    n_kept = min(3, n_axes)
    signs = _NRRD_SPACES.get(header.get("space", "").lower())
    if signs is None:
        raise DatasetError(f"{path}: NRRD space {header['space']!r}; store it in LPS or RAS")
    units = re.findall(r'"([^"]*)"', _first(header, "space units", "units"))[:n_kept]
    if {*units} - {"mm", "", "?", "???"}:
        raise DatasetError(f"{path}: NRRD units {', '.join(units)}; store it in mm")
    origin = _numbers(path, header.get("space origin", ""), "origin", float) or [0.0] * n_axes
    directions = header.get("space directions")
    if directions is None:
        spacing = _numbers(path, header.get("spacings", ""), "spacing", float)
        return spacing or [1.0] * n_kept, origin, np.eye(n_kept)
    numbers = _numbers(path, directions, "directions", float)
    if len(numbers) % n_axes or len(numbers) < n_axes * n_kept:
        raise damaged(path, f"the header gives the directions {directions}")
    vectors = np.reshape(numbers, (n_axes, -1))[:n_kept, :n_kept] * signs[:n_kept]
    # As ITK adds; Python's sum() of floats has compensated its rounding since 3.12.
    spacing = np.sqrt(np.square(vectors).sum(axis=1)).tolist()
    with np.errstate(invalid="ignore", divide="ignore"):
        direction = vectors.T / spacing
    return spacing, [at * sign for at, sign in zip(origin, signs, strict=False)], direction


def meta_header(geometry: Geometry, kind: np.dtype, n_packed: int) -> bytes:
    """The header of a MetaImage file whose voxels follow as `n_packed` bytes of a zlib stream."""
    cosines = np.reshape(geometry.itk_direction, (3, 3)).T.ravel().tolist()
    lines = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "True",
        "CompressedDataSize": str(n_packed),
        "TransformMatrix": " ".join(map(repr, cosines)),
        "Offset": " ".join(map(repr, geometry.itk_origin)),
        "CenterOfRotation": "0 0 0",
        "ElementSpacing": " ".join(map(repr, geometry.itk_spacing)),
        "DimSize": " ".join(map(str, geometry.stored_shape[::-1])),
        "ElementType": "MET_SHORT" if kind.kind == "i" else "MET_FLOAT",
        "ElementDataFile": "LOCAL",
    }
    if not geometry.is_oriented:  # and its axes are those of LPS
        del lines["TransformMatrix"]
    return "".join(f"{key} = {value}\n" for key, value in lines.items()).encode()


def nrrd_header(geometry: Geometry, kind: np.dtype) -> bytes:
    """The header of an NRRD file whose voxels follow as a gzip stream."""
    vectors = (np.reshape(geometry.itk_direction, (3, 3)) * geometry.itk_spacing).T.tolist()
    lines = (
        "NRRD0004",
        f"type: {'short' if kind.kind == 'i' else 'float'}",
        "dimension: 3",
        "space: left-posterior-superior" if geometry.is_oriented else "space dimension: 3",
        f"sizes: {' '.join(map(str, geometry.stored_shape[::-1]))}",
        f"space directions: {' '.join(_vector(vector) for vector in vectors)}",
        "kinds: domain domain domain",
        "endian: little",
        "encoding: gzip",
        f"space origin: {_vector(geometry.itk_origin)}",
    )
    return ("\n".join(lines) + "\n\n").encode()


def _vector(values: Sequence[float]) -> str:
    return f"({','.join(map(repr, values))})"


def _at_right_angles(path: Path, cosines: np.ndarray) -> np.ndarray:
    """The nearest axes at right angles; those that are far from them are complained about."""
    with np.errstate(over="ignore", invalid="ignore"):
        skew = np.abs(cosines.T @ cosines - np.eye(3)).max()
    if not skew <= _SKEWED:  # NaN, too
        raise DatasetError(
            f"{path}: the axes in the header are not at right angles; resample it to a plain grid"
        )
    if skew <= 1e-6:
        return cosines
    left, _, right = np.linalg.svd(cosines)
    return np.asarray(left @ right)


def _first(header: dict[str, str], *keys: str) -> str:
    return next((header[key] for key in keys if key in header), "")


def _numbers(path: Path, text: str, what: str, kind: type, count: int | None = None) -> list:
    """The numbers of a line, brackets and commas apart; none for no text."""
    words = text.replace("(", " ").replace(")", " ").replace(",", " ").split()
    try:
        numbers = [kind(word) for word in words if word != "none"]
    except ValueError:
        numbers = None
    if numbers is None or (numbers and count not in (None, len(numbers))):
        raise damaged(path, f"the header gives the {what} {text[:80]}")
    return numbers


def _require_one_value(path: Path, n_values: str) -> None:
    if n_values != "1":
        raise DatasetError(f"{path}: has {n_values} values a voxel; give one file a channel")


def _header_lines(handle: BufferedIOBase, separator: str, last: str) -> dict[str, str]:
    """Keys and values of a text header; the handle is left behind the line with the key `last`."""
    header: dict[str, str] = {}
    for _ in range(1000):  # a file that is no image has no end of header
        line = handle.readline(_LONGEST_LINE)
        if not line:
            break
        key, _, value = line.decode("latin-1").partition(separator)
        header[key.strip()] = value.strip()
        if key.strip() == last:
            break
    return header
