"""A trained model as one file to send: weights, plan and provenance, but no trace of a patient."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from gdmnet import __version__, codec, folders
from gdmnet.errors import OutputError
from gdmnet.inference.describe import describe_model
from gdmnet.inference.facts import Facts, anonymised, read_facts
from gdmnet.inference.manifest import (
    MANIFEST_JSON,
    MODEL_CARD,
    FileEntry,
    Manifest,
    require_names,
)
from gdmnet.inference.model import CHECKPOINTS, file_sha256, load_model
from gdmnet.models import checkpoint as checkpoint_file
from gdmnet.models.select import choose_folds

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
    chosen = choose_folds(folder, folds)
    kinds = tuple(CHECKPOINTS) if with_best else ("final",)
    facts = anonymised(read_facts(folder, chosen))
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".exporting_", dir=output.parent) as temporary:
            stage = Path(temporary) / "model"
            _write_facts(facts, stage)
            for fold in chosen:
                for kind in kinds:
                    name = f"fold_{fold}/{CHECKPOINTS[kind]}"
                    _write_weights(folder / name, stage / name)
            for kind in kinds:  # refuses what does not fit together
                load_model(stage, folds=chosen, device="cpu", checkpoint=kind)
            manifest = _manifest(facts, kinds, licence)
            require_names(manifest, output)
            codec.write_text(stage / MODEL_CARD, describe_model(manifest, facts))
            manifest = replace(manifest, files=_entries(stage))
            codec.save(manifest, stage / MANIFEST_JSON)
            _pack(stage, [MANIFEST_JSON, *manifest.files], output)
    except OSError as problem:
        raise OutputError(
            f"{output}: cannot be written ({problem.strerror or problem}); check the folder's"
            " permissions and free space"
        ) from None
    return manifest


def _write_facts(facts: Facts, stage: Path) -> None:
    codec.save(facts.plan, stage / folders.PLAN_JSON)
    if facts.fingerprint is not None:
        codec.save(facts.fingerprint, stage / folders.FINGERPRINT_JSON)
    for fold, run in facts.runs.items():
        codec.save(run, folders.fold_folder(stage, fold) / folders.RUN_JSON)
    for fold, summary in facts.summaries.items():
        codec.save(summary, folders.fold_folder(stage, fold) / folders.SUMMARY_JSON)


def _write_weights(path: Path, copy: Path) -> None:
    """A checkpoint without what only a training needs; the same bytes where possible."""
    state = checkpoint_file.load(path)
    if set(state) <= {"schema", *_PREDICTS}:
        shutil.copyfile(path, copy)
    else:
        checkpoint_file.save(copy, {name: state[name] for name in _PREDICTS if name in state})


def _manifest(facts: Facts, kinds: tuple[str, ...], licence: str) -> Manifest:
    first = next(iter(facts.runs.values()))
    return Manifest(
        schema=Manifest.SCHEMA,
        version=__version__,
        dataset=facts.plan.dataset,
        objective=first.objective,
        configuration=first.configuration,
        folds=tuple(facts.runs),
        checkpoints=kinds,
        licence=licence,
        versions=first.versions,
        validation={fold: dict(summary.aggregate) for fold, summary in facts.summaries.items()},
        files={},
    )


def _entries(stage: Path) -> dict[str, FileEntry]:
    paths = sorted(path for path in stage.rglob("*") if path.is_file())
    return {
        path.relative_to(stage).as_posix(): FileEntry(path.stat().st_size, file_sha256(path))
        for path in paths
    }


def _pack(stage: Path, names: Iterable[str], output: Path) -> None:
    """Uncompressed (weights hardly shrink), the manifest first; aside and renamed."""
    aside = output.with_name(f".{output.name}.partial")
    try:
        with zipfile.ZipFile(aside, "w", zipfile.ZIP_STORED) as archive:
            for name in names:
                entry = zipfile.ZipInfo(name, _SAME_DATE)
                entry.external_attr = 0o100644 << 16
                entry.file_size = (stage / name).stat().st_size  # zip64 from 4 GiB on
                with (stage / name).open("rb") as source, archive.open(entry, "w") as packed:
                    shutil.copyfileobj(source, packed, 1 << 20)
        aside.replace(output)
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
