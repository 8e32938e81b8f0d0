"""A trained model as one file to send: weights, plan and provenance, but no trace of a patient."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from gdmnet import __version__, codec, files, folders
from gdmnet.errors import OutputError
from gdmnet.inference.model import load_model
from gdmnet.metrics.summary import Summary
from gdmnet.models import checkpoint
from gdmnet.models.card import PredictionSettings
from gdmnet.models.describe import describe_model
from gdmnet.models.folder import ModelFolder, anonymised, read_model, read_summaries
from gdmnet.models.manifest import MANIFEST_JSON, MODEL_CARD, FileEntry, Manifest, require_names

_PREDICTS = ("epoch", "ema", "twin", "tally")  # what prediction takes, and a few numbers
_SAME_DATE = (1980, 1, 1, 0, 0, 0)  # the same model gives the same archive, to the bit


def export_model(
    folder: Path,
    output: Path,
    *,
    folds: Sequence[str] | None = None,
    with_best: bool = False,
    licence: str = "not stated",
    overwrite: bool = False,
) -> Manifest:
    """Write a model archive: all that prediction needs, and nothing that names a patient.

    Cases are called case_001, case_002, ... throughout; only averaged weights go along, neither
    optimiser nor encoder. The archive is read back as a model before it gets its name.

    Args:
        folder: of the model, for example gdmnet_results/Dataset501_MRtoCT/gdm__3d_fullres.
        output: the archive to write.
        folds: None takes all finished numeric ones.
        with_best: also the best checkpoints.
        licence: of the weights.
        overwrite: replace an archive that is there.

    Returns:
        The archive's manifest.

    Raises:
        CheckpointError: not a model folder, an unfinished fold, a damaged checkpoint.
        OutputError: the output exists or cannot be written.
        PlanError: a file of the model is damaged or of another version.
    """
    if output.exists() and not overwrite:
        raise OutputError(f"{output}: exists already; give another name, or --overwrite")
    model = read_model(folder, folds)
    known, summaries = anonymised(model, read_summaries(model))
    kinds = tuple(folders.CHECKPOINTS) if with_best else ("final",)
    manifest = _manifest(known, summaries, kinds, licence)
    require_names(manifest, output)
    files.sweep(output.parent)
    with (
        files.whole_file(output) as aside,
        tempfile.TemporaryDirectory(prefix=f"{aside.name}.", dir=output.parent) as temporary,
    ):
        stage = Path(temporary) / "model"
        _write_facts(known, summaries, stage)
        for kind in kinds:
            for fold in known.runs:
                place = replace(known, path=stage).checkpoint(fold, kind)
                _write_weights(model.checkpoint(fold, kind), place)
            # refuses what does not fit together
            settings = PredictionSettings(checkpoint=kind, mixed_folds=True)
            load_model(stage, settings, folds=list(known.runs), device="cpu")
        codec.write_text(stage / MODEL_CARD, describe_model(manifest, known, summaries))
        manifest = replace(manifest, files=_entries(stage))
        codec.save(manifest, stage / MANIFEST_JSON)
        _pack(stage, [MANIFEST_JSON, *manifest.files], aside)
    return manifest


def _write_facts(model: ModelFolder, summaries: Mapping[str, Summary], stage: Path) -> None:
    codec.save(model.plan, stage / folders.PLAN_JSON)
    if model.fingerprint is not None:
        codec.save(model.fingerprint, stage / folders.FINGERPRINT_JSON)
    for fold, run in model.runs.items():
        codec.save(run, folders.fold_folder(stage, fold) / folders.RUN_JSON)
    for fold, summary in summaries.items():
        codec.save(summary, folders.fold_folder(stage, fold) / folders.SUMMARY_JSON)


def _write_weights(path: Path, copy: Path) -> None:
    """A checkpoint without what only a training needs; the same bytes where possible."""
    state = checkpoint.load(path)
    if set(state) <= {"schema", *_PREDICTS}:
        shutil.copyfile(path, copy)
    else:
        checkpoint.save(copy, {name: state[name] for name in _PREDICTS if name in state})


def _manifest(
    model: ModelFolder, summaries: Mapping[str, Summary], kinds: tuple[str, ...], licence: str
) -> Manifest:
    first = next(iter(model.runs.values()))
    return Manifest(
        schema=Manifest.SCHEMA,
        version=__version__,
        dataset=model.plan.dataset,
        objective=first.objective,
        configuration=first.configuration,
        folds=tuple(model.runs),
        checkpoints=kinds,
        licence=licence,
        versions=first.versions,
        validation={fold: dict(summary.aggregate) for fold, summary in summaries.items()},
        files={},
    )


def _entries(stage: Path) -> dict[str, FileEntry]:
    paths = sorted(path for path in stage.rglob("*") if path.is_file())
    return {
        path.relative_to(stage).as_posix(): FileEntry(path.stat().st_size, files.file_sha256(path))
        for path in paths
    }


def _pack(stage: Path, names: Iterable[str], output: Path) -> None:
    """Uncompressed (weights hardly shrink), the manifest first."""
    with zipfile.ZipFile(output, "w", zipfile.ZIP_STORED) as archive:
        for name in names:
            entry = zipfile.ZipInfo(name, _SAME_DATE)
            entry.external_attr = 0o100644 << 16
            entry.file_size = (stage / name).stat().st_size  # zip64 from 4 GiB on
            with (stage / name).open("rb") as source, archive.open(entry, "w") as packed:
                shutil.copyfileobj(source, packed, 1 << 20)
