"""Prepared cases on disk: compressed, chunked for patch reads, memory-mapped, never half-written.

A case is the folder <identifier>/ with source.b2nd, target.b2nd, body.b2nd, centres.npy and
case.json.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import blosc2
import numpy as np
from numpy.typing import NDArray

from gdmnet import codec
from gdmnet.data.case import Case, CaseRecord
from gdmnet.errors import DatasetError, PlanError
from gdmnet.files import whole_folder
from gdmnet.geometry import Shape, shape_of

CASE_JSON = "case.json"
N_CENTRES = 4096  # enough that patches differ over a whole training; 48 KiB a case
_CENTRES = "centres.npy"
_BLOCK = 16  # measured: a random 48^3 patch reads fastest (0.3 ms) with 16^3 of 8, 16, 24, 32


@dataclass(frozen=True)
class StoredCase:
    """A prepared case on disk; slicing an array reads and decompresses that part only.

    Attributes:
        record: everything but the arrays.
        source: float32 (c, z, y, x), network units.
        target: float32 (1, z, y, x), network units.
        body: uint8 (z, y, x).
        centres: int32 (n, 3), n <= 4096: random voxels (z, y, x) of the patient.
    """

    record: CaseRecord
    source: blosc2.NDArray
    target: blosc2.NDArray
    body: blosc2.NDArray
    centres: NDArray


def save_case(folder: Path, case: Case, patch_size: Shape) -> None:
    """Write a prepared training case to folder/<identifier>, whole or not at all.

    Args:
        folder: of the configuration.
        case: with a target.
        patch_size: (z, y, x) of the reads to come; it decides the chunks.

    Raises:
        OutputError: the folder is not writable or the disk is full.
    """
    if case.target is None:
        raise ValueError(f"case {case.record.identifier} has no target to store")
    identifier = case.record.identifier
    arrays = {"source": case.source, "target": case.target, "body": case.body}
    with whole_folder(folder / identifier, overwrite=True) as aside:
        for name, array in arrays.items():
            (aside / f"{name}.b2nd").write_bytes(_compressed(array, patch_size))
        patient = case.body if case.patient is None else case.patient
        np.save(aside / _CENTRES, _centres(identifier, patient))
        codec.save(case.record, aside / CASE_JSON)


def remove_case(folder: Path, identifier: str) -> None:
    """Remove a stored case, if it is there; its record goes first, so that no half stays."""
    (folder / identifier / CASE_JSON).unlink(missing_ok=True)
    if (folder / identifier).is_dir():
        shutil.rmtree(folder / identifier)


def is_stored(folder: Path, identifier: str) -> bool:
    """True for a finished case."""
    return (folder / identifier / CASE_JSON).is_file()


def stored_identifiers(folder: Path) -> list[str]:
    """Names of the finished cases of a folder, sorted."""
    found = (path.parent.name for path in folder.glob(f"*/{CASE_JSON}"))
    return sorted(name for name in found if not name.startswith("."))


def open_case(folder: Path, identifier: str) -> StoredCase:
    """A stored case; arrays stay on disk, memory-mapped.

    Raises:
        DatasetError: the case is not there or damaged.
    """
    place = folder / identifier
    again = "run gdm_plan_and_preprocess again"
    if not is_stored(folder, identifier):
        raise DatasetError(f"{place}: no such preprocessed case; {again}")
    try:
        record = codec.load(CaseRecord, place / CASE_JSON)
        source, target, body = (
            _open_array(place / f"{name}.b2nd") for name in ("source", "target", "body")
        )
        centres = np.load(place / _CENTRES)
    except (OSError, ValueError, EOFError, RuntimeError, PlanError) as problem:
        raise DatasetError(
            f"{place}: damaged ({problem}); delete this folder and {again}"
        ) from None
    if any(array.shape[-3:] != record.shape for array in (source, target, body)):
        raise DatasetError(f"{place}: arrays of another shape; delete this folder and {again}")
    return StoredCase(record, source, target, body, centres)


def _compressed(array: NDArray, patch_size: Shape) -> bytes:
    chunk = [
        min(size, -(-patch // _BLOCK) * _BLOCK)
        for size, patch in zip(shape_of(array), patch_size, strict=True)
    ]
    lead = (1,) * (array.ndim - 3)
    # In memory, to be written by Python: a full disk is then an OSError like any other.
    compressed = blosc2.asarray(
        np.ascontiguousarray(array),
        chunks=(*lead, *chunk),
        blocks=(*lead, *(min(size, _BLOCK) for size in chunk)),
        cparams=blosc2.CParams(codec=blosc2.Codec.LZ4, clevel=5, nthreads=1),
    )
    frame: bytes = compressed.to_cframe()
    return frame


def _open_array(path: Path) -> blosc2.NDArray:
    # Memory-mapped files are not possible in blosc2 on Windows; there blocks are read instead.
    mmap_mode = None if os.name == "nt" else "r"
    return blosc2.open(str(path), mode="r", mmap_mode=mmap_mode, dparams=blosc2.DParams(nthreads=1))


def _centres(identifier: str, body: NDArray) -> NDArray:
    """Random in-body voxels, the same for the same case name; all voxels count if none is in."""
    seed = int.from_bytes(hashlib.sha256(identifier.encode()).digest()[:8], "little")
    inside = np.flatnonzero(body)
    n_inside = inside.size or body.size
    chosen = np.random.default_rng(seed).choice(
        n_inside, size=min(N_CENTRES, n_inside), replace=False
    )
    flat = inside[chosen] if inside.size else chosen
    return np.stack(np.unravel_index(flat, body.shape), axis=1).astype(np.int32)
