"""A model archive back to a model folder: checked to the bit before anything is in its place."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

from gdmnet import codec, files, folders
from gdmnet.errors import CheckpointError, OutputError, PlanError
from gdmnet.inference.model import load_model
from gdmnet.models.card import PredictionSettings
from gdmnet.models.manifest import (
    MANIFEST_JSON,
    Manifest,
    require_complete,
    require_names,
    require_plain,
)
from gdmnet.plan import Plan, Run

_LARGEST_MANIFEST = 1 << 20


@dataclass(frozen=True)
class InstalledModel:
    """Where a model was installed, and other datasets there that have its number."""

    folder: Path
    manifest: Manifest
    namesakes: tuple[str, ...]


def install_model(archive: Path, results: Path, *, overwrite: bool = False) -> InstalledModel:
    """Install a model archive among the results; it is there as a whole or not at all.

    Every file is held against the size and SHA-256 of the manifest, and the model is loaded
    (`torch.load(weights_only=True)`, so that nothing in it is executed) before it gets its place.

    Args:
        archive: what `export_model` wrote.
        results: root of the trained models.
        overwrite: replace a model that is there.

    Raises:
        BusyError: another process installs this model.
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
            require_plain(opened, archive)
            manifest = _read_manifest(opened, archive)
            place = folders.model_folder(
                results, manifest.dataset, manifest.objective, manifest.configuration
            )
            _install(opened, archive, manifest, place, overwrite=overwrite)
    except (EOFError, zipfile.BadZipFile) as problem:
        raise CheckpointError(f"{archive}: damaged ({problem}); get it again") from None
    names = set(folders.dataset_names(results)) - {manifest.dataset}
    namesakes = sorted(name for name in names if name.startswith(manifest.dataset[:10]))
    return InstalledModel(place, manifest, tuple(namesakes))


def _read_manifest(opened: ZipFile, archive: Path) -> Manifest:
    if MANIFEST_JSON not in opened.namelist():
        raise CheckpointError(f"{archive}: not a model archive (no {MANIFEST_JSON})")
    if opened.getinfo(MANIFEST_JSON).file_size > _LARGEST_MANIFEST:
        raise CheckpointError(f"{archive}: its {MANIFEST_JSON} is too large; do not use it")
    manifest = codec.load(Manifest, zipfile.Path(opened, MANIFEST_JSON))
    require_names(manifest, archive)
    require_complete(manifest, opened, archive)
    return manifest


def _install(
    opened: ZipFile, archive: Path, manifest: Manifest, place: Path, *, overwrite: bool
) -> None:
    try:
        with files.lock(place):
            if place.exists() and not overwrite:
                raise CheckpointError(
                    f"{place}: this model is there already; --overwrite replaces it with all its"
                    " folds"
                )
            with files.whole_folder(place, overwrite=overwrite) as aside:
                _unpack(opened, manifest, archive, aside)
                _require_working(aside, manifest, archive)
    except BaseException:
        with contextlib.suppress(OSError):
            place.parent.rmdir()  # unless other models of the dataset lie there
        raise


def _unpack(opened: ZipFile, manifest: Manifest, archive: Path, model: Path) -> None:
    needed = sum(entry.size for entry in manifest.files.values())
    free = shutil.disk_usage(model).free
    if needed > free:
        raise OutputError(
            f"{model.parent.parent}: {needed / 2**20:.0f} MiB are needed and {free / 2**20:.0f} MiB"
            " free; make room, or give another folder by --results"
        )
    (model / MANIFEST_JSON).write_bytes(opened.read(MANIFEST_JSON))
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
                require_plain(inner, model / name)


def _require_working(model: Path, manifest: Manifest, archive: Path) -> None:
    named = (manifest.dataset, manifest.objective, manifest.configuration)
    try:
        plan = codec.load(Plan, model / folders.PLAN_JSON)
        for fold in manifest.folds:
            run = codec.load(Run, folders.fold_folder(model, fold) / folders.RUN_JSON)
            found = (plan.dataset, run.objective, run.configuration)
            if found != named:
                raise CheckpointError(f"the manifest names the model {named}, but it is {found}")
        for kind in manifest.checkpoints:
            settings = PredictionSettings(checkpoint=kind, mixed_folds=True)
            load_model(model, settings, folds=manifest.folds, device="cpu")
    except (CheckpointError, PlanError) as problem:
        text = str(problem).replace(f"{model}/", "")
        raise CheckpointError(f"{archive}: does not work here: {text}") from None
