"""A model archive back to a model folder: checked to the bit before anything is in its place."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

from gdmnet import codec, folders
from gdmnet.errors import CheckpointError, OutputError, PlanError
from gdmnet.inference.manifest import (
    MANIFEST_JSON,
    Manifest,
    require_complete,
    require_names,
    require_safe,
    require_stored,
)
from gdmnet.inference.model import load_model
from gdmnet.models.card import PredictionSettings

_LARGEST_MANIFEST = 1 << 20


@dataclass(frozen=True)
class Installed:
    """Where a model was installed, and other datasets there that have its number."""

    folder: Path
    manifest: Manifest
    namesakes: tuple[str, ...]


def install_model(archive: Path, results: Path, *, overwrite: bool = False) -> Installed:
    """Install a model archive among the results; it is there as a whole or not at all.

    Every file is held against the size and SHA-256 of the manifest, and the model is loaded
    (`torch.load(weights_only=True)`, so that nothing in it is executed) before it gets its place.

    Args:
        archive: what `export_model` wrote.
        results: root of the trained models.
        overwrite: replace a model that is there.

    Raises:
        CheckpointError: the archive is damaged, unsafe or no model, or the model is there already.
        OutputError: the results cannot be written, or the disk is too full.
        PlanError: the model was made by another version of gdmnet.
    """
    try:
        opened = ZipFile(archive)
    except (OSError, zipfile.BadZipFile, NotImplementedError) as problem:
        raise CheckpointError(f"{archive}: no model archive that can be read ({problem})") from None
    try:
        with opened:
            require_safe(opened, archive)
            return _install(opened, archive, results, overwrite=overwrite)
    except (EOFError, zipfile.BadZipFile) as problem:
        raise CheckpointError(f"{archive}: damaged ({problem}); get it again") from None
    except OSError as problem:
        raise OutputError(
            f"{results}: cannot be written ({problem.strerror or problem}); check permissions and"
            " free space, or give another folder by --results"
        ) from None


def _install(opened: ZipFile, archive: Path, results: Path, *, overwrite: bool) -> Installed:
    results.mkdir(parents=True, exist_ok=True)
    stage = results / f".installing_{archive.name}"
    _remove(stage)  # of an interrupted installation
    try:
        model = stage / "model"
        model.mkdir(parents=True)
        manifest = _read_manifest(opened, archive, model)
        place = folders.model_folder(
            results, manifest.dataset, manifest.objective, manifest.configuration
        )
        if place.exists() and not overwrite:
            raise CheckpointError(
                f"{place}: this model is there already; --overwrite replaces it with all its folds"
            )
        _unpack(opened, manifest, archive, model)
        _require_working(model, manifest, archive)
        _put(model, place, stage)
    finally:
        _remove(stage)
    number = manifest.dataset[:10]
    others = [name for name in folders.dataset_names(results) if name.startswith(number)]
    namesakes = tuple(name for name in others if name != manifest.dataset)
    return Installed(place, manifest, namesakes)


def _read_manifest(opened: ZipFile, archive: Path, model: Path) -> Manifest:
    if MANIFEST_JSON not in opened.namelist():
        raise CheckpointError(f"{archive}: not a model archive (no {MANIFEST_JSON})")
    if opened.getinfo(MANIFEST_JSON).file_size > _LARGEST_MANIFEST:
        raise CheckpointError(f"{archive}: its {MANIFEST_JSON} is too large; do not use it")
    (model / MANIFEST_JSON).write_bytes(opened.read(MANIFEST_JSON))
    manifest = codec.load(Manifest, model / MANIFEST_JSON)
    require_names(manifest, archive)
    require_complete(manifest, opened, archive)
    return manifest


def _unpack(opened: ZipFile, manifest: Manifest, archive: Path, model: Path) -> None:
    needed = sum(entry.size for entry in manifest.files.values())
    free = shutil.disk_usage(model).free
    if needed > free:
        raise OutputError(
            f"{model.parent.parent}: {needed / 2**20:.0f} MiB are needed and {free / 2**20:.0f} MiB"
            " free; make room, or give another folder by --results"
        )
    for name, listed in manifest.files.items():
        digest = hashlib.sha256()
        (model / name).parent.mkdir(exist_ok=True)
        with opened.open(name) as packed, (model / name).open("wb") as unpacked:
            while block := packed.read(1 << 20):
                digest.update(block)
                unpacked.write(block)
        if digest.hexdigest() != listed.sha256:
            raise CheckpointError(
                f"{archive}: {name} is damaged (its SHA-256 is not the manifest's); get it again"
            )
        if name.endswith(".pt"):
            with ZipFile(model / name) as inner:
                require_stored(inner, model / name)


def _require_working(model: Path, manifest: Manifest, archive: Path) -> None:
    for kind in manifest.checkpoints:
        try:
            translator = load_model(
                model, PredictionSettings(checkpoint=kind), folds=manifest.folds, device="cpu"
            )
        except (CheckpointError, PlanError) as problem:
            text = str(problem).replace(f"{model}/", "")
            raise CheckpointError(f"{archive}: does not work here: {text}") from None
        found = (
            translator.plan.dataset,
            translator.card.objective,
            translator.configuration.name,
        )
        named = (manifest.dataset, manifest.objective, manifest.configuration)
        if found != named:
            raise CheckpointError(
                f"{archive}: the manifest names the model {named}, but it is {found}; do not use it"
            )


def _put(model: Path, place: Path, stage: Path) -> None:
    """Rename the model to its place; one that is there goes aside first and is then removed."""
    place.parent.mkdir(parents=True, exist_ok=True)
    before = stage / "before"
    if place.exists():
        place.rename(before)
    try:
        model.rename(place)
    except BaseException:
        if before.exists():
            before.rename(place)
        raise


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
