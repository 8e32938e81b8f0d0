"""A trained model as one file to send, without a trace of a patient; and back, to the bit."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from zipfile import ZipFile

from gdmnet import __version__, codec, files, folders
from gdmnet.errors import CheckpointError, OutputError, PlanError
from gdmnet.inference.translator import load_model
from gdmnet.metrics.summary import Summary
from gdmnet.models import checkpoint
from gdmnet.models.card import PredictionSettings
from gdmnet.models.describe import describe_model
from gdmnet.models.expected_error import EXPECTED_JSON
from gdmnet.models.folder import ModelFolder, anonymised, read_model, read_summaries
from gdmnet.models.manifest import (
    MANIFEST_JSON,
    MODEL_CARD,
    FileEntry,
    Manifest,
    require_complete,
    require_names,
    require_plain,
)
from gdmnet.plan import Plan, Run

_PREDICTS = ("epoch", "ema", "twin", "tally")  # what prediction takes, and a few numbers
_SAME_DATE = (1980, 1, 1, 0, 0, 0)  # the same model gives the same archive, to the bit
_LARGEST_MANIFEST = 1 << 20


@dataclass(frozen=True)
class InstalledModel:
    """Where a model was installed, and other datasets there that have its number."""

    folder: Path
    manifest: Manifest
    namesakes: tuple[str, ...]


def export_model(
    folder: Path,
    output: Path,
    *,
    folds: Sequence[str] | None = None,
    with_best: bool = False,
    licence: str = "not stated",
    overwrite: bool = False,
) -> Manifest:
    """Write a model archive: what `write_model` writes, as one file; its manifest.

    No folds named are all finished numeric ones; `licence` is that of the weights.

    Raises:
        CheckpointError: not a model folder, an unfinished fold, a damaged checkpoint.
        OutputError: the output exists or cannot be written.
        PlanError: a file of the model is damaged or of another version.
    """
    if output.exists() and not overwrite:
        raise OutputError(f"{output}: exists already; give another name, or --overwrite")
    model = read_model(folder, folds)
    files.sweep(output.parent)
    with (
        files.whole_file(output) as aside,
        tempfile.TemporaryDirectory(prefix=f"{aside.name}.", dir=output.parent) as temporary,
    ):
        stage = Path(temporary) / "model"
        kinds = tuple(folders.CHECKPOINTS) if with_best else ("final",)
        manifest = write_model(model, stage, kinds, licence=licence)
        _pack(stage, [MANIFEST_JSON, *manifest.files], aside)
    return manifest


def write_model(
    model: ModelFolder, place: Path, kinds: tuple[str, ...] = ("final",), *, licence: str
) -> Manifest:
    """Write a model folder with all that prediction needs, and nothing that names a patient.

    Cases are called case_001, case_002, ... throughout; only averaged weights go along, neither
    optimiser nor encoder. What is written is loaded as a model in the end.

    Raises:
        CheckpointError: a damaged checkpoint, or names that no model can have.
    """
    known, summaries = anonymised(model, read_summaries(model))
    first = next(iter(known.runs.values()))
    manifest = Manifest(
        schema=Manifest.SCHEMA,
        version=__version__,
        dataset=known.plan.dataset,
        objective=first.objective,
        configuration=first.configuration,
        folds=tuple(known.runs),
        checkpoints=kinds,
        licence=licence,
        versions=first.versions,
        validation={fold: dict(summary.aggregate) for fold, summary in summaries.items()},
        files={},
    )
    require_names(manifest, model.path)
    _write_facts(known, summaries, place)
    for kind in kinds:
        for fold in known.runs:
            copy = replace(known, path=place).checkpoint(fold, kind)
            _write_weights(model.checkpoint(fold, kind), copy)
    _require_loading(place, manifest)
    return write_manifest(manifest, known, summaries, place)


def write_manifest(
    manifest: Manifest, model: ModelFolder, summaries: Mapping[str, Summary], place: Path
) -> Manifest:
    """Write the model card, and the manifest that lists size and SHA-256 of every other file."""
    paths = (p for p in place.rglob("*") if p.is_file() and p != place / MANIFEST_JSON)
    entries = {path.relative_to(place).as_posix(): _entry(path) for path in paths}
    text = describe_model(replace(manifest, files=entries), model, summaries)
    codec.write_text(place / MODEL_CARD, text)
    entries[MODEL_CARD] = _entry(place / MODEL_CARD)
    manifest = replace(manifest, files=dict(sorted(entries.items())))
    codec.save(manifest, place / MANIFEST_JSON)
    return manifest


def _entry(path: Path) -> FileEntry:
    return FileEntry(path.stat().st_size, files.file_sha256(path))


def _write_facts(model: ModelFolder, summaries: Mapping[str, Summary], place: Path) -> None:
    codec.save(model.plan, place / folders.PLAN_JSON)
    if model.fingerprint is not None:
        codec.save(model.fingerprint, place / folders.FINGERPRINT_JSON)
    if model.expected is not None:
        codec.save(model.expected, place / EXPECTED_JSON)
    for fold, run in model.runs.items():
        codec.save(run, folders.fold_folder(place, fold) / folders.RUN_JSON)
    for fold, summary in summaries.items():
        codec.save(summary, folders.fold_folder(place, fold) / folders.SUMMARY_JSON)


def _write_weights(path: Path, copy: Path) -> None:
    """A checkpoint without what only a training needs; the same bytes where possible."""
    state = checkpoint.load(path)
    if set(state) <= {"schema", *_PREDICTS}:
        shutil.copyfile(path, copy)
    else:
        checkpoint.save(copy, {name: state[name] for name in _PREDICTS if name in state})


def _pack(stage: Path, names: Iterable[str], output: Path) -> None:
    """Uncompressed (weights hardly shrink), the manifest first."""
    with zipfile.ZipFile(output, "w", zipfile.ZIP_STORED) as archive:
        for name in names:
            entry = zipfile.ZipInfo(name, _SAME_DATE)
            entry.external_attr = 0o100644 << 16
            entry.file_size = (stage / name).stat().st_size  # zip64 from 4 GiB on
            with (stage / name).open("rb") as source, archive.open(entry, "w") as packed:
                shutil.copyfileobj(source, packed, 1 << 20)


def install_model(archive: Path, results: Path, *, overwrite: bool = False) -> InstalledModel:
    """Install a model archive among the results; it is there as a whole or not at all.

    Every file is held against the size and SHA-256 of the manifest, and the model is loaded
    (`torch.load(weights_only=True)`, so that nothing in it is executed) before it gets its place.

    Raises:
        BusyError: another process installs this model.
        CheckpointError: the archive is damaged, unsafe or no model, or the model is there already.
        OutputError: the results cannot be written, or the disk is too full.
        PlanError: the model was made by another version of gdmnet.
    """
    try:
        if archive.exists() and not archive.is_file():  # a pipe would never end
            raise OSError("it is no plain file")
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
    except BaseException:  # Ctrl-C and SIGTERM, too
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
        (model / name).parent.mkdir(exist_ok=True)
        with opened.open(name) as packed, (model / name).open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked, 1 << 20)
        if files.file_sha256(model / name) != listed.sha256:
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
        _require_loading(model, manifest)
    except (CheckpointError, PlanError) as problem:
        text = str(problem).replace(f"{model}/", "")
        raise CheckpointError(f"{archive}: does not work here: {text}") from None


def _require_loading(model: Path, manifest: Manifest) -> None:
    for kind in manifest.checkpoints:
        settings = PredictionSettings(checkpoint=kind, mixed_folds=True)
        load_model(model, settings, folds=manifest.folds, device="cpu")
