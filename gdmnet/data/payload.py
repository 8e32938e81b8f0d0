"""The voxel bytes of an image file: are they all there, and undamaged?

SimpleITK gives the geometry, but must not be trusted with the bytes: its NIfTI reader fills a
truncated file with zeros and turns NaN into 0, both without a word, and its MetaImage reader does
no more than print when a compressed file is damaged. So NIfTI voxels are decoded here, and those
of the other formats are checked here before ITK reads them.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gdmnet.errors import DatasetError

_CHUNK = 1 << 20
_ELSEWHERE = "the voxels lie in another file; store header and voxels in one"

_NIFTI_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8"}
_NIFTI_TYPES |= {256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
_META_BYTES = {"MET_CHAR": 1, "MET_UCHAR": 1, "MET_SHORT": 2, "MET_USHORT": 2, "MET_INT": 4}
_META_BYTES |= {"MET_UINT": 4, "MET_FLOAT": 4, "MET_DOUBLE": 8}
_META_BYTES |= {"MET_LONG_LONG": 8, "MET_ULONG_LONG": 8}


def damaged(path: Path, what: str) -> DatasetError:
    """The complaint about a file that does not hold what it should."""
    return DatasetError(f"{path}: {what}; the file is truncated or damaged: copy it anew")


def read_nifti_voxels(path: Path) -> NDArray:
    """The voxels of one NIfTI-1 volume as float32, (z, y, x) as stored, with its scaling applied.

    Raises:
        DatasetError: truncated or damaged, not NIfTI-1, several volumes, no real voxel type.
    """
    with _opened(path, ".nii") as handle:
        shape, kind, offset, scaling = _nifti_header(path, handle.read(348))
        handle.read(offset - 348)
        data = handle.read(math.prod(shape) * kind.itemsize)
        _require_bytes(path, len(data), math.prod(shape) * kind.itemsize)
        while handle.read(_CHUNK):  # gzip compares its checksum only at the very end
            pass
    stored = np.frombuffer(data, dtype=kind).reshape(shape)
    voxels = np.empty(shape, dtype=np.float32)
    slope, intercept = scaling
    with np.errstate(over="ignore"):  # the reader complains about the Inf
        for image, raw in zip(voxels, stored, strict=True):
            image[...] = raw if scaling == (1, 0) else raw.astype(np.float64) * slope + intercept
    return voxels


def check_header(path: Path, ending: str) -> None:
    """Complain about a file that is no image of its ending, before ITK prints about it.

    Raises:
        DatasetError: no header, or not one that can be used.
    """
    with _opened(path, ending) as handle:
        if ending == ".mha":
            _meta_header(path, handle)
        elif ending == ".nrrd":
            _nrrd_header(path, handle)
        else:
            _nifti_header(path, handle.read(348))


def check_voxels(path: Path, ending: str) -> None:
    """Complain unless the voxel bytes are all there and, where compressed, undamaged.

    ITK counts the voxels of an uncompressed .nrrd file itself, and loudly.

    Raises:
        DatasetError: truncated or damaged.
    """
    if ending.startswith(".nii"):
        read_nifti_voxels(path)
        return
    with _opened(path, ending) as handle:
        if ending == ".mha":
            header = _meta_header(path, handle)
            sides = [int(side) for side in header["DimSize"].split()]
            size = _META_BYTES[header["ElementType"]]
            channels = int(header.get("ElementNumberOfChannels", "1"))
            if header.get("CompressedData", "False").lower() == "true":
                found = _inflated_size(handle)
            else:
                found = path.stat().st_size - handle.tell()
            _require_bytes(path, found, math.prod(sides) * size * channels)
        elif _nrrd_header(path, handle).get("encoding") in ("gzip", "gz"):
            _inflated_size(handle)


def _meta_header(path: Path, handle: BufferedIOBase) -> dict[str, str]:
    header = _header_lines(handle, "=", "ElementDataFile")
    if "ElementDataFile" not in header:
        raise damaged(path, "no complete MetaImage header")
    if header["ElementDataFile"] != "LOCAL":
        raise DatasetError(f"{path}: {_ELSEWHERE}")
    sides = header.get("DimSize", "").split()
    if header.get("ElementType") not in _META_BYTES or not sides:
        raise damaged(path, "the MetaImage header has no usable ElementType and DimSize")
    if not all(side.isdecimal() for side in sides):
        raise damaged(path, f"the header gives the size {' '.join(sides)}")
    return header


def _nrrd_header(path: Path, handle: BufferedIOBase) -> dict[str, str]:
    if handle.read(4) != b"NRRD":
        raise damaged(path, "no NRRD header")
    header = _header_lines(handle, ":", "")
    if "data file" in header or "datafile" in header:
        raise DatasetError(f"{path}: {_ELSEWHERE}")
    if "" not in header:
        raise damaged(path, "the NRRD header has no end")
    return header


@contextmanager
def _opened(path: Path, ending: str) -> Iterator[BufferedIOBase]:
    """A file to read, unpacked if it is a compressed NIfTI; a broken stream is complained about."""
    with path.open("rb") as file:
        is_packed = ending.startswith(".nii") and file.read(2) == b"\x1f\x8b"
        file.seek(0)
        try:
            yield gzip.GzipFile(fileobj=file) if is_packed else file
        except (EOFError, gzip.BadGzipFile, zlib.error):
            raise damaged(path, "the compressed data end too early or are wrong") from None


def _require_bytes(path: Path, n_there: int, n_wanted: int) -> None:
    if n_there < n_wanted:
        raise damaged(path, f"{n_there} of {n_wanted} bytes of voxels are there")


def _nifti_header(
    path: Path, header: bytes
) -> tuple[tuple[int, int, int], np.dtype, int, tuple[float, float]]:
    """Shape (z, y, x), stored type, offset of the voxels in bytes, and (slope, intercept)."""
    if len(header) < 348:
        raise damaged(path, "the NIfTI header is not complete")
    order = next((o for o in "<>" if struct.unpack_from(o + "i", header)[0] == 348), None)
    if header[4:8] == b"n+2\0":
        raise DatasetError(f"{path}: is NIfTI-2; store it as NIfTI-1")
    if order is None or header[344:347] != b"n+1":
        raise damaged(path, "no NIfTI-1 header")
    n_axes, *sides = struct.unpack_from(order + "8h", header, 40)
    sides = sides[: max(0, n_axes)] + [1] * (7 - n_axes)
    if not 1 <= n_axes <= 7 or min(sides) < 1:
        raise damaged(path, f"the header gives the size {sides}")
    if math.prod(sides[3:]) > 1:
        raise DatasetError(f"{path}: holds {math.prod(sides[3:])} volumes; give one file a channel")
    code = struct.unpack_from(order + "h", header, 70)[0]
    if code not in _NIFTI_TYPES:
        raise DatasetError(
            f"{path}: NIfTI voxel type {code} is no real number; store a plain image"
        )
    offset, slope, intercept = struct.unpack_from(order + "3f", header, 108)
    is_scaled = math.isfinite(slope) and math.isfinite(intercept) and slope != 0
    kind = np.dtype(order + _NIFTI_TYPES[code])
    scaling = (slope, intercept) if is_scaled else (1.0, 0.0)
    return (sides[2], sides[1], sides[0]), kind, max(348, int(offset)), scaling


def _header_lines(handle: BufferedIOBase, separator: str, last: str) -> dict[str, str]:
    """Keys and values of a text header; the handle is left behind the line with the key `last`."""
    header: dict[str, str] = {}
    for _ in range(1000):  # a file that is no image has no end of header
        line = handle.readline(_CHUNK)
        if not line:
            break
        key, _, value = line.decode("latin-1").partition(separator)
        header[key.strip()] = value.strip()
        if key.strip() == last:
            break
    return header


def _inflated_size(stream: BufferedIOBase) -> int:
    inflate = zlib.decompressobj(wbits=47)  # zlib or gzip, as MetaImage accepts both
    size = 0
    while not inflate.eof:
        chunk = stream.read(_CHUNK)
        if not chunk:
            raise EOFError
        size += len(inflate.decompress(chunk))
    return size
