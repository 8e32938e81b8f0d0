"""The one training loop: an objective ends at the generator's output, the loop begins there."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing
from itertools import islice, product
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gdmnet.errors import TrainingError
from gdmnet.folders import BEST, FINAL, LATEST
from gdmnet.models import checkpoint, precision, seeds
from gdmnet.objectives.base import Batch, Metrics, Objective
from gdmnet.objectives.fidelity import all_finite
from gdmnet.parallel import progress_bar
from gdmnet.plan import Recipe
from gdmnet.training import log
from gdmnet.training.batches import Batches, prefetched
from gdmnet.training.distributed import gathered, made_by_leader
from gdmnet.training.patch_validation import PatchQuality, translate_plane, validate_patches
from gdmnet.training.progress import INTERNALS_PNG, PROGRESS_PNG, draw_internals, draw_progress
from gdmnet.training.state import (
    MOST_IN_A_ROW,
    Training,
    latest_state,
    restore_latest,
    weights_state,
)
from gdmnet.training.step import learning_rate

DRAW_SECONDS = 60.0  # short epochs would be spent on drawing
_TIMED = (3, 10)  # steps between which the first estimate of a training's length is measured
_log = logging.getLogger(__name__)
_STEP = 3  # a stream of random numbers beside those of the batches


def fit(
    generator: nn.Module,
    objective: Objective,
    train_batches: Batches,
    validation_batches: Batches,
    recipe: Recipe,
    folder: Path,
    device: torch.device,
    *,
    new: AbstractContextManager[Path] | None,
) -> None:
    """Train a generator and leave checkpoints, log.jsonl, log.txt and progress.png in a folder.

    Args:
        generator: (b, c, z, y, x) to (b, 1, z, y, x); moved to the device and trained in place.
        objective: what a step descends; its modules are moved, its state is saved.
        train_batches: augmented patches of the training cases.
        validation_batches: plain patches of the validation cases; those of epoch 0 are used.
        recipe: how long and how.
        folder: of the fold.
        device: that computes.
        new: gives another folder to begin in, and makes it `folder` when it is left, with the first
            checkpoint; None goes on from the folder's checkpoint_latest, to the bit.

    Raises:
        TrainingError: ten steps in a row or the weights were not finite; the last good
            checkpoint stays.
        CheckpointError: the checkpoint to resume from is damaged or another training's.
        OutputError: the folder cannot be written.
    """
    training = Training(generator, objective, recipe, folder, device)
    with ExitStack() as beginning, ExitStack() as held:
        first = restore_latest(training) if new is None else 0
        if new is not None and training.rank == 0:
            training.folder = beginning.enter_context(new)
        writer = held.enter_context(ThreadPoolExecutor(1))
        written = writer.submit(_nothing)
        batches = held.enter_context(closing(_all_batches(training, train_batches, first)))
        for epoch in range(first, recipe.epochs):
            started = time.perf_counter()
            means = _train_epoch(training, batches, epoch, estimate=epoch == first)
            quality = _validate(training, validation_batches)
            written.result()
            save = _finish_epoch(training, means, quality, epoch + 1, started, beginning)
            written = writer.submit(save)
            if epoch == first:
                written.result()
                training.folder = folder
            _draw(training, epoch + 1, validation_batches)
        written.result()
    if training.rank == 0:
        checkpoint.save(folder / FINAL, weights_state(training, recipe.epochs))


def _nothing() -> None:
    """What ranks other than 0 write of an epoch, and all before the first."""


def _all_batches(training: Training, batches: Batches, first: int) -> Generator[Batch, None, None]:
    """The batches of all steps from an epoch on; workers begin the next one while this ends."""
    recipe, on_gpu = training.recipe, training.device.type == "cuda"
    places = list(product(range(first, recipe.epochs), range(recipe.iterations)))
    return prefetched(batches, places, batches.n_workers, training.rank, pinned=on_gpu)


def _train_epoch(
    training: Training, batches: Iterator[Batch], epoch: int, *, estimate: bool
) -> dict[str, float]:
    """All steps of one epoch (from 0), with the next batches; the means of its metrics.

    With `estimate`, the end of the training is foretold after its first steps.
    """
    recipe, leads, epoch_metrics = training.recipe, training.rank == 0, log.StepMetrics()
    title, n_steps = f"epoch {epoch + 1}/{recipe.epochs}", recipe.iterations
    own = islice(batches, n_steps)
    with progress_bar(own, title, total=n_steps, shown=leads) as bar:
        for step, batch in enumerate(bar):
            metrics, finite = _step(training, batch.to(training.device), epoch, step)
            if training.counts.count_step(finite=finite):
                raise TrainingError(_too_many(training.folder, epoch + 1, step + 1, metrics))
            if finite and epoch_metrics.add(metrics):
                name, value = next(iter(epoch_metrics.records[-1].items()))
                bar.set_postfix_str(f"{name} {value:.3g}", refresh=False)
            if step + 1 == _TIMED[0]:
                begun = time.perf_counter()
            if step + 1 == _TIMED[1] and estimate and leads:
                seconds = (time.perf_counter() - begun) / (_TIMED[1] - _TIMED[0])
                left = recipe.total_steps - training.counts.step
                _log_end(recipe, epoch, seconds * left, training.device)
    return log.means(epoch_metrics.read())


def _log_end(recipe: Recipe, epoch: int, seconds: float, device: torch.device) -> None:
    """Foretell the end of a training from the seconds that its first steps promise."""
    _log.info(
        "%s of %d steps, about %s on this %s, done about %s",
        f"epochs {epoch + 1} to {recipe.epochs}" if epoch else f"{recipe.epochs} epochs",
        recipe.iterations,
        log.duration(seconds),
        {"cuda": "GPU"}.get(device.type, device.type.upper()),
        log.clock_after(seconds),
    )


def _step(training: Training, batch: Batch, epoch: int, step: int) -> tuple[Metrics, bool]:
    """One step of the generator, and of its twin; metrics, and whether all was finite."""
    recipe, device, twin = training.recipe, training.device, training.twin
    number = training.counts.step
    rng = torch.Generator(device=device)
    seeds.reseed(rng, recipe.seed, epoch, step, training.rank, _STEP)
    twin_metrics: Metrics = {}
    twin_finite = True
    if twin is not None and number >= twin.start:
        optimizer = twin.optimizer or twin.begin(training.optimizer)
        with precision.autocast(recipe.precision, device):
            descent = twin.objective.descend(optimizer.trained, batch, rng)
        _, twin_finite = optimizer.step(descent, number)
        twin_metrics["twin_fidelity"] = descent.metrics["fidelity"]
    with precision.autocast(recipe.precision, device):
        descent = training.objective.descend(training.optimizer.trained, batch, rng)
    metrics = dict(descent.metrics) | twin_metrics
    if descent.cotangent is None:
        metrics.setdefault("loss", descent.tensor.detach())
    metrics["gradient_norm"], finite = training.optimizer.step(descent, number)
    return metrics, finite and twin_finite


def _validate(training: Training, batches: Batches) -> PatchQuality:
    """The averaged weights on fixed patches, judged by rank 0 for all."""
    return made_by_leader(lambda: validate_patches(training, batches), patient=False)


def _finish_epoch(
    training: Training,
    means: dict[str, float],
    quality: PatchQuality,
    epoch: int,
    started: float,
    beginning: ExitStack,
) -> Callable[[], None]:
    """Judge and log: the log first, so that a resume can only find too much in it.

    Returns:
        Saves the epoch, ends the beginning, and tells of the epoch once it is on the disk and
        cannot be lost. It writes copies, so that the training need not wait for it.
    """
    folder, counts, recipe = training.folder, training.counts, training.recipe
    if not all_finite(*training.generator.parameters()):
        raise TrainingError(f"epoch {epoch}: weights are no longer finite; {_what_is_left(folder)}")
    is_best = counts.is_best(quality.mae, epoch)
    metrics = dataclasses.asdict(quality)
    training.objective.on_validation({n: v for n, v in metrics.items() if math.isfinite(v)})
    record: dict[str, Any] = {
        "epoch": epoch,
        "epochs": recipe.epochs,
        "step": counts.step,
        "learning_rate": learning_rate(counts.step - 1, recipe),
        **means,
        "skipped": counts.skipped,
        "validation_mae_smoothed": counts.smoothed_mae,
        **{f"validation_{name}": value for name, value in metrics.items()},
        "best": is_best,
        **training.peak_memory.measured(),
        "seconds": time.perf_counter() - started,
    }
    ranks = gathered(checkpoint.copied(checkpoint.capture(training.rank_parts())))
    if training.rank > 0:
        return _nothing
    line = log.append(folder, record)
    states = {BEST: weights_state(training, epoch)} if is_best else {}
    states[LATEST] = latest_state(training, epoch, ranks)

    def write() -> None:
        for name, state in states.items():
            checkpoint.save(folder / name, state)
        beginning.close()
        _log.info("%s", line)

    return write


def _draw(training: Training, epoch: int, validation: Batches) -> None:
    """Draw a validation case and the log's curves, not more often than one can look."""
    path = training.folder / PROGRESS_PNG
    fresh = path.is_file() and time.time() - path.stat().st_mtime <= DRAW_SECONDS
    if training.rank == 0 and (epoch == training.recipe.epochs or not fresh):
        records = log.read(training.folder)
        draw_progress(records, path, *translate_plane(training, validation))
        draw_internals(records, path.with_name(INTERNALS_PNG))


def _too_many(folder: Path, epoch: int, step: int, metrics: Metrics) -> str:
    numbers = ", ".join(f"{name} {value:.3g}" for name, value in metrics.items())
    return (
        f"epoch {epoch}, step {step}: {MOST_IN_A_ROW} steps in a row were not finite ({numbers});"
        f" {_what_is_left(folder)}; look for odd values in the data, or use --precision fp32"
    )


def _what_is_left(folder: Path) -> str:
    if (folder / LATEST).is_file():
        return f"the last good checkpoint is {folder / LATEST}"
    return "no checkpoint was written yet"
