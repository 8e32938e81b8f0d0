"""Read and write volumes: NIfTI, NRRD and MetaImage files to float32 in LPS and back."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import BufferedIOBase, BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gdmnet.data.case import Volume
from gdmnet.data.case_files import FORMATS, ending_of, require_file
from gdmnet.data.header import (
    ImageHeader,
    check_size,
    damaged,
    meta_header,
    nrrd_header,
    read_meta_header,
    read_nrrd_header,
)
from gdmnet.data.nifti import nifti_header, read_nifti_header
from gdmnet.errors import DatasetError
from gdmnet.files import whole_file
from gdmnet.folders import nifti_form
from gdmnet.geometry import Geometry, grid_difference, to_lps, to_stored

_CHUNK = 1 << 20
_SLAB = 16  # slices
_LENGTHENED = "bytes that are not its own lie behind the compressed image"
_LEVEL = 4  # of compression: noise hardly shrinks further


def read_volume(path: Path) -> Volume:
    """One image as float32 (1, z, y, x) in LPS, file units.

    A 2D image becomes one slice; a 4D image is taken if it holds one volume.

    Raises:
        DatasetError: missing, unreadable, truncated, several volumes, vectors, NaN or Inf.
    """
    array, geometry = _read(path)
    return Volume(array[None], geometry)


def read_channels(paths: Sequence[Path]) -> Volume:
    """One image a channel, as float32 (c, z, y, x) in LPS.

    Raises:
        DatasetError: as `read_volume`, or the grids of the files differ.
    """
    if len(paths) == 1:
        return read_volume(paths[0])
    geometry = read_geometry(paths[0])
    for complaint in grid_complaints(paths[0], paths[1:]):
        raise DatasetError(f"{complaint}; resample one onto the other")
    array = np.empty((len(paths), *geometry.shape), dtype=np.float32)
    for channel, path in zip(array, paths, strict=True):
        channel[...], _ = _read(path)
    return Volume(array, geometry)


def read_geometry(path: Path) -> Geometry:
    """The grid of an image, from its header only.

    Raises:
        DatasetError: missing, unreadable, several volumes, vectors.
    """
    return _read_header(path).geometry


def grid_complaints(reference: Path, others: Iterable[Path]) -> list[str]:
    """A line for each image that is not on the grid of the first; reads headers only.

    Raises:
        DatasetError: an image cannot be read.
    """
    grid = read_geometry(reference)
    found = ((path, grid_difference(read_geometry(path), grid)) for path in others)
    return [f"{path} is not on the grid of {reference}: {text}" for path, text in found if text]


def write_volume(path: Path, volume: Volume, *, integer: bool = False) -> None:
    """Write a volume (1, z, y, x) on its stored grid, compressed; never half-written.

    The ending, one of `FORMATS`, decides the format; with `integer` the numbers are int16, rounded
    and clipped (CT in HU), else float32.

    Raises:
        OutputError: the folder is not writable or the disk is full.
        ValueError: an unknown ending, or several channels.
    """
    if not path.name.endswith(FORMATS) or volume.array.shape[0] != 1:
        raise ValueError(f"{path}: one channel and an ending of {', '.join(FORMATS)}")
    stored = to_stored(volume.array[0], volume.geometry)
    kind, ending = np.dtype("<i2" if integer else "<f4"), ending_of(path)
    with whole_file(path) as aside, aside.open("wb") as handle:
        if ending == ".mha":
            packer = zlib.compressobj(_LEVEL)
            packed = [packer.compress(slab) for slab in _slabs(stored, kind)] + [packer.flush()]
            handle.write(meta_header(volume.geometry, kind, sum(map(len, packed))))
            handle.writelines(packed)
            return
        header = (nrrd_header if ending == ".nrrd" else nifti_header)(volume.geometry, kind)
        if ending != ".nii.gz":  # whose header is packed, too
            handle.write(header)
        if ending == ".nii":
            handle.writelines(_slabs(stored, kind))
            return
        with gzip.GzipFile("", "wb", _LEVEL, handle, mtime=0) as packing:
            packing.writelines([header] if ending == ".nii.gz" else [])
            packing.writelines(_slabs(stored, kind))


def _slabs(stored: NDArray, kind: np.dtype) -> Iterator[memoryview]:
    """The bytes of a volume (z, y, x), some slices at a time; integers are rounded and clipped."""
    for first in range(0, len(stored), _SLAB):
        slab = stored[first : first + _SLAB]
        if kind.kind == "i":
            limits = np.iinfo(kind)
            slab = np.clip(np.rint(slab), limits.min, limits.max)
        yield np.ascontiguousarray(slab, dtype=kind).data.cast("B")


def _read(path: Path) -> tuple[NDArray, Geometry]:
    """One image as float32 (z, y, x) in LPS, and its grid."""
    header = _read_header(path)
    with _opened(path) as handle:
        handle.seek(header.offset)
        voxels: BufferedIOBase = handle
        if header.is_packed:
            voxels = BytesIO(_inflated(path, handle.read(), header.n_bytes))
        stored = np.empty(header.geometry.stored_shape, dtype=np.float32)
        slope, intercept = header.scaling
        is_plain = header.scaling == (1, 0)
        n_bytes, there = header.n_bytes // len(stored), 0
        for image in stored:  # slice by slice: the volume is in memory once
            data = voxels.read(n_bytes)
            there += len(data)
            if len(data) < n_bytes:
                raise damaged(path, f"{there} of {header.n_bytes} bytes of voxels are there")
            raw = np.frombuffer(data, dtype=header.kind).reshape(image.shape)
            with np.errstate(over="ignore", invalid="ignore"):  # an Inf is complained about below
                image[...] = raw if is_plain else raw.astype(np.float64) * slope + intercept
        _read_checksum(path, handle)
    if not (np.isfinite(stored.min()) and np.isfinite(stored.max())):
        raise DatasetError(f"{path}: has NaN or Inf voxels; replace them, for example by air")
    return to_lps(stored, header.geometry), header.geometry


def _read_header(path: Path) -> ImageHeader:
    """The header, which gives no more voxels than the file can hold."""
    ending = ending_of(path)
    require_file(path)
    with _opened(path) as handle:
        if ending == ".mha":
            header = read_meta_header(path, handle)
        elif ending == ".nrrd":
            header = read_nrrd_header(path, handle)
        else:
            header = read_nifti_header(path, handle.read(348), nifti_form())
        is_packed = header.is_packed or isinstance(handle, gzip.GzipFile)
    check_size(path, header, is_packed=is_packed)
    return header


@contextmanager
def _opened(path: Path) -> Iterator[BufferedIOBase]:
    """A file to read, unpacked if it is a gzipped NIfTI; what goes wrong is a DatasetError."""
    try:
        with path.open("rb") as file:
            is_gzip = ending_of(path).startswith(".nii") and file.read(2) == b"\x1f\x8b"
            file.seek(0)
            yield gzip.GzipFile(fileobj=file) if is_gzip else file
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise damaged(path, "the compressed data end too early or are wrong") from None
    except OSError as problem:
        raise DatasetError(
            f"{path}: cannot be read: {problem.strerror}; check its permissions"
        ) from None


def _read_checksum(path: Path, handle: BufferedIOBase) -> None:
    """Read what is behind the voxels: gzip compares its checksum only at the very end."""
    try:
        while handle.read(_CHUNK):
            pass
    except gzip.BadGzipFile as problem:
        if "Not a gzipped file" not in str(problem):
            raise
        raise damaged(path, _LENGTHENED) from None


def _inflated(path: Path, packed: bytes, n_bytes: int) -> bytes:
    """The bytes of a zlib or gzip stream of just so many, read to its checksum and to its end."""
    inflate = zlib.decompressobj(wbits=47)  # either kind
    data = inflate.decompress(packed, n_bytes + 1)
    if len(data) > n_bytes:
        raise damaged(path, f"more than the {n_bytes} bytes of voxels of its header are there")
    if not inflate.eof:
        raise EOFError
    if inflate.unused_data:
        raise damaged(path, _LENGTHENED)
    return data
