"""manifest.json of a model archive: what lies in it, and what may lie in it at all."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from zipfile import ZIP_STORED, ZipFile

from gdmnet.errors import CheckpointError
from gdmnet.folders import BEST, FINAL, FINGERPRINT_JSON, PLAN_JSON, RUN_JSON, SUMMARY_JSON

MANIFEST_JSON = "manifest.json"
MODEL_CARD = "model_card.md"
_FOLD_FILES = "|".join(map(re.escape, (RUN_JSON, SUMMARY_JSON, FINAL, BEST)))
_TOP_FILES = "|".join(map(re.escape, (MANIFEST_JSON, MODEL_CARD, PLAN_JSON, FINGERPRINT_JSON)))
_ALLOWED = re.compile(rf"{_TOP_FILES}|fold_(\d+|all)/({_FOLD_FILES})", re.ASCII)
_CHECKPOINTS = {"final": FINAL, "best": BEST}
_NAME = re.compile(r"[^./\\:\x00-\x1f][^/\\:\x00-\x1f]*")  # no path, on no system
_DATASET = re.compile(r"Dataset\d{3}_.+", re.ASCII)


@dataclass(frozen=True)
class FileEntry:
    """Size in bytes and SHA-256 of one file."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a model archive says about itself.

    Attributes:
        version: of the gdmnet that exported.
        dataset: for example "Dataset501_MRtoCT"; with objective and configuration the model's
            place among the results.
        folds: "0", "1", ... or "all".
        checkpoints: "final", and "best" where it was asked for.
        licence: of the weights, in the exporter's words.
        versions: of the packages that the first fold was trained with.
        validation: fold -> metric -> mean, std, ...; folds without a validation are absent.
        files: path in the archive -> size and digest, of every file but the manifest.
    """

    SCHEMA: ClassVar[int] = 1
    schema: int
    version: str
    dataset: str
    objective: str
    configuration: str
    folds: tuple[str, ...]
    checkpoints: tuple[str, ...]
    licence: str
    versions: dict[str, str]
    validation: dict[str, dict[str, Any]]
    files: dict[str, FileEntry]


def require_names(manifest: Manifest, where: Path) -> None:
    """Refuse a dataset, objective or configuration that would lead out of the results.

    Raises:
        CheckpointError: one does.
    """
    named = (manifest.dataset, manifest.objective, manifest.configuration)
    if not all(_NAME.fullmatch(name) for name in named) or not _DATASET.fullmatch(named[0]):
        raise CheckpointError(
            f"{where}: the manifest names an impossible model {named}; do not use this archive"
        )


def require_safe(archive: ZipFile, where: Path) -> None:
    """Refuse an archive that holds anything but a model's plain files, before any is unpacked.

    The names that may occur are listed, so that none can leave the folder. Nothing is compressed
    in a model archive, so that it cannot unpack to more than its own size.

    Raises:
        CheckpointError: it holds something else.
    """
    entries = archive.infolist()
    for entry in entries:
        if not _ALLOWED.fullmatch(entry.filename):
            raise _unsafe(where, f"holds {entry.filename!r}, which is no file of a model")
        if entry.external_attr >> 16 & 0o170000 not in (0, 0o100000):  # the type bits of st_mode
            raise _unsafe(where, f"{entry.filename} is a link or no plain file")
    names = [entry.filename for entry in entries]
    if len(set(names)) < len(names):
        raise _unsafe(where, "holds a file twice")
    require_stored(archive, where)


def require_stored(archive: ZipFile, where: Path) -> None:
    """Refuse a zip file (an archive or a checkpoint) that unpacks to more than its own size.

    Raises:
        CheckpointError: an entry is compressed or encrypted, or entries overlap.
    """
    entries = archive.infolist()
    for entry in entries:
        if entry.compress_type != ZIP_STORED or entry.flag_bits & 1:
            raise _unsafe(
                where,
                f"{entry.filename} is compressed or encrypted, which gdm_export_model never does",
            )
    if sum(entry.file_size for entry in entries) > where.stat().st_size:
        raise _unsafe(where, "its files claim to be larger than the whole")


def require_complete(manifest: Manifest, archive: ZipFile, where: Path) -> None:
    """Hold the files and sizes of an archive against its manifest.

    Raises:
        CheckpointError: a file is missing, is not listed or has another size, or a fold lacks what
            it needs.
    """
    there = {entry.filename: entry.file_size for entry in archive.infolist()}
    del there[MANIFEST_JSON]
    listed = {name: entry.size for name, entry in manifest.files.items()}
    for name in sorted(set(there) | set(listed)):
        if there.get(name) != listed.get(name):
            raise CheckpointError(
                f"{where}: {name} has {_size(there.get(name))}, but the manifest says"
                f" {_size(listed.get(name))}; get the archive again"
            )
    checkpoints = [_CHECKPOINTS.get(kind, kind) for kind in manifest.checkpoints]
    needed = {PLAN_JSON, MODEL_CARD}
    needed |= {
        f"fold_{fold}/{name}" for fold in manifest.folds for name in (RUN_JSON, *checkpoints)
    }
    optional = {FINGERPRINT_JSON, *(f"fold_{fold}/{SUMMARY_JSON}" for fold in manifest.folds)}
    wrong = sorted((needed - set(listed)) | (set(listed) - needed - optional))
    if wrong or not manifest.folds or FINAL not in checkpoints:
        raise CheckpointError(
            f"{where}: not one whole model: look at"
            f" {', '.join(wrong) or 'its folds and checkpoints'}; export it again"
        )


def _size(n_bytes: int | None) -> str:
    return "no such file" if n_bytes is None else f"{n_bytes} bytes"


def _unsafe(where: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"{where}: unsafe archive: {reason}; do not use it")
