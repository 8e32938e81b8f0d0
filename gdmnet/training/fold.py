"""One fold from what is asked of it to its validation."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from gdmnet import codec, files, folders
from gdmnet.cluster import ProcessRank, rank_from_environment
from gdmnet.data.store import placed_as_prepared
from gdmnet.errors import CheckpointError, PlanError, TrainingError
from gdmnet.folders import Roots
from gdmnet.models.checkpoint import weights_sha256
from gdmnet.models.device import describe_devices
from gdmnet.models.folder import FINISH_JSON
from gdmnet.objectives.base import Context, Inputs, Objective
from gdmnet.objectives.build import OBJECTIVES, SAMPLED
from gdmnet.objectives.options import all_options
from gdmnet.plan import Plan
from gdmnet.training.distributed import (
    devices_here,
    made_by_leader,
    process_group,
    require_devices,
    require_own_devices,
    run_together,
    this_process,
)
from gdmnet.training.expected_error import update_table
from gdmnet.training.feature_encoder import chosen_encoder, log_origin, make_norms_constant
from gdmnet.training.loop import fit
from gdmnet.training.memory import memory_watched, predicted_gb
from gdmnet.training.progress import PROGRESS_PNG
from gdmnet.training.run import (
    FoldTraining,
    build_generator,
    continue_run,
    describe_training,
    detail_gain,
    patch_batches,
)
from gdmnet.training.settings import EncoderSettings, TrainingSettings
from gdmnet.training.validate import validate_fold

_log = logging.getLogger(__name__)


def train_fold(
    dataset: str | int,
    configuration: str,
    fold: str,
    roots: Roots,
    settings: TrainingSettings | None = None,
) -> Path:
    """Train and validate one fold.

    Everything is checked before anything is written, and a training that is to be overwritten stays
    until the new one has its first checkpoint on the disk.

    Args:
        dataset: 501 or "Dataset501_Name"; planned and prepared.
        configuration: a name of its plan.
        fold: "0", "1", ... or "all".
        roots: the folders.
        settings: of the training; None is the default of each.

    Returns:
        The folder of the fold: run.json, logs, checkpoints, and of a training that validates
        validation/ and summary.json.

    Raises:
        GdmnetError: an unknown dataset, configuration, fold or device; a setting, a case or a
            pretrained checkpoint that does not fit; an existing training, or another process at
            this one.
    """
    rank = rank_from_environment()
    asked = _as_launched(settings or TrainingSettings(), rank)
    with contextlib.ExitStack() as held:
        held.enter_context(process_group(rank))
        where = (dataset, configuration, fold, roots)
        described = made_by_leader(lambda: describe_training(*where, asked))
        require_own_devices(torch.device(described.device))
        prepared = described.dataset / described.configuration.name
        held.enter_context(placed_as_prepared(prepared))  # those that validate
        training = made_by_leader(lambda: _claimed(held, described, asked))
        if this_process().n_ranks == 1 and training.run.n_devices > 1:
            run_together(_train_and_validate, training.run.n_devices, training, asked, roots.raw)
        else:
            _train_and_validate(training, asked, roots.raw)
    return training.folder


def _as_launched(settings: TrainingSettings, rank: ProcessRank | None) -> TrainingSettings:
    """What is asked where torchrun or srun started this process; a restarted training goes on."""
    if rank is None:
        return settings
    if settings.n_devices not in (None, rank.n_ranks):
        raise TrainingError(
            f"--num-gpus {settings.n_devices}: the launcher has started {rank.n_ranks} processes;"
            " leave the option out"
        )
    resume = settings.resume or (rank.restarts > 0 and not settings.overwrite)
    return replace(settings, n_devices=rank.n_ranks, resume=resume)


def _claimed(
    held: contextlib.ExitStack, training: FoldTraining, settings: TrainingSettings
) -> FoldTraining:
    """A training that has been checked, whose folder is this process's own, with its encoder."""
    gain = detail_gain(training.cases()[0])
    training = replace(training, run=replace(training.run, detail_gain=gain))
    if training.pretrained is not None:
        build_generator(training)  # do its weights fit?
    held.enter_context(files.lock(training.folder))
    training = _new_or_continued(training, settings)
    if _is_finished(training):
        summary, finish = (training.folder / n for n in (folders.SUMMARY_JSON, FINISH_JSON))
        if settings.finish and summary.is_file() and not finish.is_file():
            text = "warning: %s is there, so no spectral finish is fitted: delete it and ask again"
            _log.warning(text, summary)
        return training
    _announce(training)
    return _with_encoder(training)


def _announce(training: FoldTraining) -> None:
    """What is going to happen, where, and what to look at."""
    run, recipe, split = training.run, training.run.recipe, training.split
    device = f"{training.device} ({describe_devices().get(training.device, '')})"
    defaults = all_options(run.objective, {})
    own = [f"{n} {value}" for n, value in run.options.items() if value != defaults.get(n)]
    what = " with ".join(filter(None, (run.objective, ", ".join(own))))
    _log.info("%s on %s in %s", what, device.removesuffix(" ()"), recipe.precision)
    n_cases = len(split.training), len(split.validation)
    text = "%d cases to train on, %d to validate by; %d epochs of %d steps"
    _log.info(text, *n_cases, recipe.epochs, recipe.iterations)
    _log.info("results: %s (look at %s)", training.folder, PROGRESS_PNG)
    if run.n_devices > 1:
        text = "%d processes train together: %d steps an epoch at a learning rate of %.3g"
        _log.info(text, run.n_devices, recipe.iterations, recipe.learning_rate)


def _train_and_validate(training: FoldTraining, settings: TrainingSettings, raw: Path) -> None:
    """What every process of a training does."""
    if not _is_finished(training):
        _train(training)
    if settings.validates and not (training.folder / folders.SUMMARY_JSON).is_file():
        validate_fold(training, settings, raw / training.run.dataset)


def _train(training: FoldTraining) -> None:
    """What holds memory here has gone when the validation begins."""
    run, device, (objective, _) = training.run, training.process_device(), build_objective(training)
    predicted = predicted_gb(
        training.configuration, run.objective, run.options, run.recipe.precision
    )
    with memory_watched(predicted, device):
        new = None if training.resume else _new_fold(training)
        generator, batches = build_generator(training), patch_batches(training)
        fit(generator, objective, *batches, run.recipe, training.folder, device, new=new)


def _is_finished(training: FoldTraining) -> bool:
    return training.resume and (training.folder / folders.FINAL).is_file()


def train_fold_encoder(
    dataset: str | int,
    configuration: str,
    fold: str,
    roots: Roots,
    settings: TrainingSettings | None = None,
) -> Path:
    """Train the embedded encoder of one fold alone, as `train_fold` would, or find it there.

    Returns:
        The folder with encoder.pt and report.json.

    Raises:
        GdmnetError: as `train_fold`; an encoder that is not trained here, or is useless.
    """
    settings = settings or TrainingSettings()
    encoder = settings.encoder or EncoderSettings()
    if encoder.name != "self" or encoder.weights is not None:
        raise TrainingError(f"encoder {encoder.name} has its weights already: nothing to train")
    training = describe_training(dataset, configuration, fold, roots, settings)
    chosen_encoder(training, encoder)
    return training.encoder_folder


def _new_or_continued(training: FoldTraining, settings: TrainingSettings) -> FoldTraining:
    """The training as a new one, or as it goes on; nothing is overwritten unasked."""
    folder = training.folder
    if settings.overwrite or not (folder.is_dir() and any(folder.iterdir())):
        _require_one_plan(training, but=folder)
        return training
    finished = (folder / folders.FINAL).is_file()
    if not settings.resume:
        raise TrainingError(
            f"{folder} holds {'a finished' if finished else 'an unfinished'} training; add"
            " --continue to go on with it or --overwrite to throw it away"
        )
    if not finished and not (folder / folders.LATEST).is_file():
        raise TrainingError(
            f"{folder} has no {folders.LATEST} to go on from; begin anew with --overwrite"
        )
    _require_one_plan(training)
    if not (folder.parent / folders.PLAN_JSON).is_file():  # killed before it was there
        _keep_plan(training)
    run = continue_run(training, settings)
    require_devices(devices_here(run.n_devices), torch.device(training.device))
    return replace(training, run=run, pretrained=None, resume=True)


def _require_one_plan(training: FoldTraining, but: Path | None = None) -> None:
    """Refuse a model whose folds, one perhaps left out, were trained with another plan."""
    path = training.folder.parent / folders.PLAN_JSON
    begun = {p.parent for p in path.parent.glob("fold_*/checkpoint_*.pt")} - {but}
    if begun and path.is_file() and codec.load(Plan, path) != _plan_of(training):
        raise PlanError(
            f"{path} differs from the dataset's plan: trainings in that folder were made with"
            " another plan; move the folder away first"
        )


def _keep_plan(training: FoldTraining) -> None:
    """Put plan and fingerprint into the model's folder, so that the model can be mailed."""
    model = training.folder.parent
    codec.save(_plan_of(training), model / folders.PLAN_JSON)
    fingerprint = training.dataset / folders.FINGERPRINT_JSON
    if fingerprint.is_file():
        text = fingerprint.read_text(encoding="utf-8")
        codec.write_text(model / folders.FINGERPRINT_JSON, text)


def _plan_of(training: FoldTraining) -> Plan:
    return codec.load(Plan, training.dataset / folders.PLAN_JSON)


@contextlib.contextmanager
def _new_fold(training: FoldTraining) -> Iterator[Path]:
    """A folder to begin a training in; what it holds becomes the fold when the block is left."""
    aside = files.folder_aside(training.folder)
    try:
        codec.save(training.run, aside / folders.RUN_JSON)
        yield aside
        files.put_in_place(aside, training.folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    _keep_plan(training)
    update_table(training.folder.parent, training.configuration)  # without the old fold's cases


def _with_encoder(training: FoldTraining) -> FoldTraining:
    """The training with its encoder's checksum; the encoder is trained first if it is not there."""
    digest, run = build_objective(training, says_encoder=True)[1], training.run
    if training.resume and run.encoder_sha256 not in (None, digest):
        raise CheckpointError(
            f"{training.folder / folders.RUN_JSON}: the training began with another feature encoder"
            f" (sha256 {run.encoder_sha256}, now {digest}); put the old one back or train anew"
            " with --overwrite"
        )
    return replace(training, run=replace(run, encoder_sha256=digest))


def build_objective(
    training: FoldTraining, *, says_encoder: bool = False
) -> tuple[Objective, str | None]:
    """The objective with its encoder, of which it says the origin, and that one's checksum."""
    run, encoder, digest = training.run, None, None
    if run.encoder is not None:
        chosen = codec.decode(EncoderSettings, {"name": run.encoder, **run.encoder_options})
        encoder = chosen_encoder(training, chosen)
        digest = weights_sha256(encoder)  # without statistics, which every device rounds otherwise
        make_norms_constant(encoder, training, chosen)
        if says_encoder:
            log_origin(encoder)
    recipe = run.recipe
    context = Context(training.configuration, run.options, recipe.total_steps, recipe.seed, encoder)
    objective = OBJECTIVES[run.objective](context)
    if run.objective not in SAMPLED and objective.inputs != Inputs():
        raise ValueError("only an objective with a sampler may have inputs of its own")
    return objective, digest
