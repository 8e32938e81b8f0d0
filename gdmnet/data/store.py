"""Prepared cases on disk: compressed, chunked for patch reads, memory-mapped, never half-written.

A case is the folder <identifier>/ with source.b2nd, target.b2nd, body.b2nd, case.json, and in
index.npz voxels of the patient and checksums of the record and of every chunk of the arrays. An
image of few values, as files of integers give that are not resampled, is stored by their numbers.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import blosc2
import numpy as np
from numpy.typing import NDArray

from gdmnet import codec
from gdmnet.data.case import Case, CaseRecord
from gdmnet.errors import DatasetError, PlanError
from gdmnet.files import whole_folder
from gdmnet.folders import nifti_form_in
from gdmnet.geometry import Shape, shape_of

CASE_JSON = "case.json"
N_CENTRES = 4096  # enough that patches differ over a whole training; 48 KiB a case
_INDEX = "index.npz"
_ARRAYS = ("source", "target", "body")
_EMPTY_CHUNK = 32  # bytes that stand for a chunk of zeros
_BAD = (BadZipFile, PlanError)
_MOST_VALUES = 1 << 16  # whose numbers are uint16
_BLOCK = 16  # measured: a random 48^3 patch reads fastest (0.3 ms) with 16^3 of 8, 16, 24, 32


class CheckedArray:
    """A compressed array on disk; each chunk is compared with its checksum when it is first read.

    The numbers on disk stand for float32 values; None where they are the voxels.

    Raises:
        DatasetError: what is around the chunks is not what was written.
    """

    def __init__(self, path: Path, sums: NDArray, values: NDArray | None) -> None:
        begin, end, around, *chunks = sums.tolist()
        with path.open("rb") as handle:
            found = zlib.crc32(handle.read(begin))
            handle.seek(end)
            found = zlib.crc32(handle.read(), found)
        if found != around:
            raise _damaged(path.parent, f"{path.name} is not what was written")
        # Memory-mapped files are not possible in blosc2 on Windows; there blocks are read instead.
        mode = None if os.name == "nt" else "r"
        cores = blosc2.DParams(nthreads=1)
        self._array = blosc2.open(str(path), mode="r", mmap_mode=mode, dparams=cores)
        self._values = values
        self._path, self._sums, self._known = path, chunks, [False] * len(chunks)
        self.shape: tuple[int, ...] = self._array.shape
        self.chunks: tuple[int, ...] = self._array.chunks

    def __getitem__(self, index: Any) -> NDArray:  # noqa: ANN401 (as numpy's, slices or all)
        for chunk in blosc2.get_slice_nchunks(self._array, index).tolist():
            if not self._known[chunk]:
                if _checksum(self._array.schunk.get_chunk(chunk)) != self._sums[chunk]:
                    raise _damaged(self._path.parent, f"chunk {chunk} of {self._path.name}")
                self._known[chunk] = True
        part: NDArray = self._array[index]
        return part if self._values is None else self._values.take(part)


@dataclass(frozen=True)
class StoredCase:
    """A prepared case on disk; slicing an array reads and decompresses that part only."""

    record: CaseRecord
    source: CheckedArray | NDArray  # float32 (c, z, y, x), network units
    target: CheckedArray | NDArray  # float32 (1, z, y, x), network units
    body: CheckedArray | NDArray  # uint8 (z, y, x)
    centres: NDArray  # int32 (n, 3), n <= 4096: random voxels (z, y, x) of the patient


def save_case(folder: Path, case: Case, patch_size: Shape) -> None:
    """Write a prepared training case to folder/<identifier>, whole or not at all.

    The patch size (z, y, x) of the reads to come decides the chunks.

    Raises:
        OutputError: the folder is not writable or the disk is full.
    """
    if case.target is None:
        raise ValueError(f"case {case.record.identifier} has no target to store")
    identifier = case.record.identifier
    patient = case.body if case.patient is None else case.patient
    index: dict[str, Any] = {"centres": _centres(identifier, patient)}
    with whole_folder(folder / identifier, overwrite=True) as aside:
        for name, array in zip(_ARRAYS, (case.source, case.target, case.body), strict=True):
            values = _few_values(array)
            if values is not None:
                index[f"{name}_values"] = values
                array = np.searchsorted(values, array).astype(np.uint16)
            compressed = _compressed(array, patch_size)
            frame = compressed.to_cframe()
            index[name] = _checksums(compressed, frame)
            # By Python, so that a full disk is an OSError like any other.
            (aside / f"{name}.b2nd").write_bytes(frame)
        codec.save(case.record, aside / CASE_JSON)
        index["record"] = np.array(zlib.crc32((aside / CASE_JSON).read_bytes()))
        np.savez(aside / _INDEX, **index)  # whose entries have checksums of their own


def stored_record(folder: Path, identifier: str) -> CaseRecord | None:
    """The record of a finished case; None if it is missing, damaged or of another version."""
    try:
        return codec.load(CaseRecord, folder / identifier / CASE_JSON)
    except PlanError:
        return None


@contextmanager
def placed_as_prepared(folder: Path) -> Iterator[None]:
    """NIfTI files read within the block are placed by the form that placed a folder's cases.

    Raises:
        DatasetError: some cases were placed by the sform and some by the qform.
    """
    records = (stored_record(folder, path.parent.name) for path in folder.glob(f"*/{CASE_JSON}"))
    found = (record.geometry.forms for record in records if record is not None)
    forms = {form.decided for form in found if form is not None and form.decided is not None}
    if len(forms) > 1:
        raise DatasetError(f"{folder}: placed by both forms; prepare all with one --nifti-form")
    with nifti_form_in(next(iter(forms), None)):
        yield


def open_case(folder: Path, identifier: str) -> StoredCase:
    """A stored case; arrays stay on disk, memory-mapped.

    Raises:
        DatasetError: the case is not there or damaged.
    """
    place = folder / identifier
    if not (place / CASE_JSON).is_file():
        raise DatasetError(f"{place}: no such preprocessed case; run gdm_plan_and_preprocess again")
    try:
        record = codec.load(CaseRecord, place / CASE_JSON)
        with np.load(place / _INDEX) as index:
            if index["record"] != zlib.crc32((place / CASE_JSON).read_bytes()):
                raise _damaged(place, f"{CASE_JSON} is not what was written")
            centres = index["centres"]
            source, target, body = (
                CheckedArray(place / f"{name}.b2nd", index[name], index.get(f"{name}_values"))
                for name in _ARRAYS
            )
    except (OSError, EOFError, LookupError, ValueError, RuntimeError, *_BAD) as problem:
        raise _damaged(place, str(problem)) from None
    if any(array.shape[-3:] != record.shape for array in (source, target, body)):
        raise _damaged(place, "arrays of another shape")
    return StoredCase(record, source, target, body, centres)


def _damaged(place: Path, what: str) -> DatasetError:
    return DatasetError(
        f"{place}: damaged ({what}); delete this folder and run gdm_plan_and_preprocess again"
    )


def _few_values(array: NDArray) -> NDArray | None:
    """All values of a float32 image, sorted; None where they are too many, or it is a mask."""
    flat = array.reshape(-1)
    look = flat[:: max(1, flat.size >> 17)]  # enough to see that a resampled image has too many
    if array.dtype != np.float32 or len(np.unique(look)) > _MOST_VALUES // 2:
        return None
    values = np.unique(flat)
    return values if len(values) <= _MOST_VALUES else None


def _compressed(array: NDArray, patch_size: Shape) -> blosc2.NDArray:
    chunk = [
        min(size, -(-patch // _BLOCK) * _BLOCK)
        for size, patch in zip(shape_of(array), patch_size, strict=True)
    ]
    lead = (1,) * (array.ndim - 3)
    return blosc2.asarray(
        np.ascontiguousarray(array),
        chunks=(*lead, *chunk),
        blocks=(*lead, *(min(size, _BLOCK) for size in chunk)),
        cparams=blosc2.CParams(codec=blosc2.Codec.LZ4, clevel=5, nthreads=1),
    )


def _checksums(array: blosc2.NDArray, frame: bytes) -> NDArray:
    """Begin and end of the chunks in a frame in bytes, CRC-32 of what is around, and of each."""
    chunks = [array.schunk.get_chunk(number) for number in range(array.schunk.nchunks)]
    begin = int.from_bytes(frame[11:15], "big")
    end = begin + sum(len(chunk) for chunk in chunks if _checksum(chunk))
    around = zlib.crc32(frame[end:], zlib.crc32(frame[:begin]))
    return np.array([begin, end, around, *map(_checksum, chunks)], dtype=np.int64)


def _checksum(chunk: bytes) -> int:
    """CRC-32 of a chunk; 0 of one that is all zeros, which has no bytes in a frame."""
    return zlib.crc32(chunk) if len(chunk) > _EMPTY_CHUNK else 0


def _centres(identifier: str, body: NDArray) -> NDArray:
    """Random in-body voxels, the same for the same case name; all voxels count if none is in."""
    seed = int.from_bytes(hashlib.sha256(identifier.encode()).digest()[:8], "little")
    inside = np.flatnonzero(body)
    n_inside = inside.size or body.size
    n_chosen = min(N_CENTRES, n_inside)
    chosen = np.random.default_rng(seed).choice(n_inside, size=n_chosen, replace=False)
    flat = inside[chosen] if inside.size else chosen
    return np.stack(np.unravel_index(flat, body.shape), axis=1).astype(np.int32)
