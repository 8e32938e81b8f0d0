"""manifest.json of a model archive: what lies in it, and what may lie in it at all."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from zipfile import ZIP_STORED, ZipFile

from gdmnet.errors import CheckpointError
from gdmnet.folders import CHECKPOINTS, FINGERPRINT_JSON, PLAN_JSON, RUN_JSON, SUMMARY_JSON
from gdmnet.models.expected_error import EXPECTED_JSON

MANIFEST_JSON = "manifest.json"
MODEL_CARD = "model_card.md"
_FOLD = re.compile(r"\d+|all", re.ASCII)
_NAME = re.compile(r"[^./\\:\x00-\x1f][^/\\:\x00-\x1f]*")  # no path, on no system
_DATASET = re.compile(r"Dataset\d{3}_.+", re.ASCII)


@dataclass(frozen=True)
class FileEntry:
    """Size in bytes and SHA-256 of one file."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a model archive says about itself."""

    SCHEMA: ClassVar[int] = 1
    schema: int
    version: str  # of the gdmnet that exported
    dataset: str  # "Dataset501_MRtoCT"; with the next two the model's place among the results
    objective: str
    configuration: str
    folds: tuple[str, ...]
    checkpoints: tuple[str, ...]  # "final", and "best" where it was asked for
    licence: str  # of the weights, in the exporter's words
    versions: dict[str, str]  # of the packages that the first fold was trained with
    validation: dict[str, dict[str, Any]]  # fold -> metric -> mean, std, ..., where it has one
    files: dict[str, FileEntry]  # path in the archive -> size and digest, of all but the manifest


def require_names(manifest: Manifest, where: Path) -> None:
    """Refuse a model that is no whole one, or whose names would lead out of the results."""
    named = (manifest.dataset, manifest.objective, manifest.configuration)
    if not all(_NAME.fullmatch(name) for name in named) or not _DATASET.fullmatch(named[0]):
        raise CheckpointError(
            f"{where}: the manifest names an impossible model {named}; do not use this archive"
        )
    kinds = set(manifest.checkpoints)
    sound = manifest.folds and all(_FOLD.fullmatch(fold) for fold in manifest.folds)
    if not sound or "final" not in kinds or not kinds <= set(CHECKPOINTS):
        raise CheckpointError(
            f"{where}: not one whole model: it has the folds {manifest.folds} and checkpoints"
            f" {manifest.checkpoints}; export it again"
        )


def require_plain(archive: ZipFile, where: Path) -> None:
    """Refuse a zip file (archive or checkpoint) with links, or that unpacks to more than it is.

    Raises:
        CheckpointError: an entry is no plain file, compressed, encrypted or there twice, or entries
            overlap.
    """
    entries = archive.infolist()
    for entry in entries:
        if entry.external_attr >> 16 & 0o170000 not in (0, 0o100000):  # the type bits of st_mode
            raise _unsafe(where, f"{entry.filename} is a link or no plain file")
        if entry.compress_type != ZIP_STORED or entry.flag_bits & 1:
            reason = "is compressed or encrypted, which gdm_export_model never does"
            raise _unsafe(where, f"{entry.filename} {reason}")
    if len({entry.filename for entry in entries}) < len(entries):
        raise _unsafe(where, "holds a file twice")
    if sum(entry.file_size for entry in entries) > where.stat().st_size:
        raise _unsafe(where, "its files claim to be larger than the whole")


def require_complete(manifest: Manifest, archive: ZipFile, where: Path) -> None:
    """Refuse files that are missing, of another size than listed, or none of a model's.

    The names that may occur follow from folds and checkpoints, so that none leaves the folder.
    """
    weights = [CHECKPOINTS[kind] for kind in manifest.checkpoints]
    folds = [f"fold_{fold}" for fold in manifest.folds]
    needed = {
        PLAN_JSON,
        MODEL_CARD,
        *(f"{f}/{name}" for f in folds for name in (RUN_JSON, *weights)),
    }
    optional = {FINGERPRINT_JSON, EXPECTED_JSON, *(f"{fold}/{SUMMARY_JSON}" for fold in folds)}
    there = {entry.filename: entry.file_size for entry in archive.infolist()}
    del there[MANIFEST_JSON]
    listed = {name: entry.size for name, entry in manifest.files.items()}
    for name in sorted({*there, *listed, *needed}):
        if name not in needed | optional:
            raise _unsafe(where, f"holds {name!r}, which is no file of this model")
        if name not in there or there[name] != listed.get(name):
            raise CheckpointError(
                f"{where}: {name} is {_size(there.get(name))} in the archive and"
                f" {_size(listed.get(name))} in its manifest; get it again"
            )


def _size(n_bytes: int | None) -> str:
    return "missing" if n_bytes is None else f"{n_bytes} bytes"


def _unsafe(where: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"{where}: unsafe archive: {reason}; do not use it")
