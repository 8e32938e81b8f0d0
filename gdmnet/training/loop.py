"""The one training loop: an objective ends at the generator's output, the loop begins there."""

from __future__ import annotations

import dataclasses
import math
import time
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from gdmnet.errors import TrainingError
from gdmnet.folders import BEST, FINAL, LATEST
from gdmnet.models import checkpoint, precision, seeds
from gdmnet.objectives.base import Batch, Objective
from gdmnet.objectives.sampling import Sampled
from gdmnet.plan import Recipe
from gdmnet.training import log
from gdmnet.training.batches import Batches, prefetched
from gdmnet.training.distributed import from_leader, gathered, this_process
from gdmnet.training.patch_validation import PatchQuality, validate_patches
from gdmnet.training.progress import PROGRESS_PNG, draw_progress
from gdmnet.training.schedule import learning_rate
from gdmnet.training.state import (
    MOST_IN_A_ROW,
    Training,
    restore_latest,
    save_latest,
    save_weights,
)
from gdmnet.training.step import GeneratorOptimizer, all_finite
from gdmnet.training.twin import RegressionTwin, twin_of

VALIDATION_STEPS = 4  # of a sampler at most: every epoch pays for them
DRAW_SECONDS = 10.0  # short epochs would be spent on drawing
_STEP, _NOISE = 3, 4  # streams of random numbers beside those of the batches


@dataclass(frozen=True)
class TrainingSummary:
    """What became of a training.

    Attributes:
        epochs: that the run has.
        first_epoch: where this call began (from 1); more than 1 after a resume.
        steps: of the whole run.
        skipped: steps whose numbers were not finite.
        best_epoch: by smoothed validation MAE; 0 for none.
        best_mae: smoothed, network units.
        mae: of the last epoch, network units; nan when no epoch was left to train.
        sharpness: of the last epoch.
    """

    epochs: int
    first_epoch: int
    steps: int
    skipped: int
    best_epoch: int
    best_mae: float
    mae: float
    sharpness: float


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
) -> TrainingSummary:
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
    training = _assemble(generator, objective, recipe, folder, device)
    with ExitStack() as beginning:
        if new is None:
            first = restore_latest(training)
        else:
            first = 0
            if training.process.is_leader:
                training.folder = beginning.enter_context(new)
        quality = PatchQuality()
        for epoch in range(first, recipe.epochs):
            started = time.perf_counter()
            means = _train_epoch(training, train_batches, epoch)
            quality = _validate(training, validation_batches)
            _finish_epoch(training, means, quality, epoch + 1, started)
            beginning.close()
            training.folder = folder
            _draw(training, epoch + 1)
    if training.process.is_leader:
        save_weights(training, recipe.epochs, FINAL)
    counts = training.counts
    return TrainingSummary(
        epochs=recipe.epochs,
        first_epoch=first + 1,
        steps=counts.step,
        skipped=counts.skipped,
        best_epoch=counts.best_epoch,
        best_mae=counts.best_mae,
        mae=quality.mae,
        sharpness=quality.sharpness,
    )


def _assemble(
    generator: nn.Module, objective: Objective, recipe: Recipe, folder: Path, device: torch.device
) -> Training:
    """The parts of a training, on their device."""
    generator.to(device).train()
    for module in objective.modules().values():
        module.to(device)
    return Training(
        generator,
        objective,
        GeneratorOptimizer(generator, recipe, device),
        recipe,
        folder,
        device,
        twin_of(objective),
        this_process(),
    )


def _train_epoch(training: Training, batches: Batches, epoch: int) -> dict[str, float]:
    """All steps of one epoch (from 0); the means of its metrics."""
    recipe, process = training.recipe, training.process
    means = log.Means()
    steps = range(recipe.iterations)
    title = f"epoch {epoch + 1}/{recipe.epochs}"
    hidden = None if process.is_leader else True
    with (
        closing(prefetched(batches, epoch, steps, batches.n_workers, process.rank)) as source,
        tqdm(source, title, len(steps), disable=hidden, leave=False) as bar,
    ):
        for step, batch in enumerate(bar):
            metrics, finite = _step(training, batch.to(training.device), epoch, step)
            if training.counts.count_step(finite=finite):
                raise TrainingError(_too_many(training.folder, epoch + 1, step + 1, metrics))
            if finite:
                means.add(metrics)
            name, value = next(iter(metrics.items()))
            bar.set_postfix_str(f"{name} {value:.3g}", refresh=False)
    return means.result()


def _step(training: Training, batch: Batch, epoch: int, step: int) -> tuple[dict[str, float], bool]:
    """One step of the generator, and of its twin; metrics, and whether all was finite."""
    recipe, device, number = training.recipe, training.device, training.counts.step
    rng = torch.Generator(device=device)
    seeds.reseed(rng, recipe.seed, epoch, step, training.process.rank, _STEP)
    beside: dict[str, float] = {}
    if training.twin is not None and number >= training.twin.start:
        beside["twin_fidelity"] = _step_twin(training, training.twin, batch, rng)
    with precision.autocast(recipe.precision, device):
        descent = training.objective.descend(training.optimizer.trained, batch, rng)
    metrics = dict(descent.metrics) | beside
    if descent.cotangent is None:
        metrics.setdefault("loss", float(descent.tensor.detach()))
    metrics["gradient_norm"], finite = training.optimizer.step(descent, number)
    return metrics, finite


def _step_twin(
    training: Training, twin: RegressionTwin, batch: Batch, rng: torch.Generator
) -> float:
    """The twin's own step, on the same patches; its fidelity."""
    optimizer = twin.optimizer or twin.begin(training.optimizer)
    with precision.autocast(training.recipe.precision, training.device):
        descent = twin.objective.descend(optimizer.trained, batch, rng)
    optimizer.step(descent, training.counts.step)
    return descent.metrics["fidelity"]


def _validate(training: Training, batches: Batches) -> PatchQuality:
    """The averaged weights on fixed patches, judged by rank 0 for all."""
    quality = _judge(training, batches) if training.process.is_leader else PatchQuality()
    return PatchQuality(*from_leader(list(dataclasses.astuple(quality)), training.device))


def _judge(training: Training, batches: Batches) -> PatchQuality:
    network, device = training.optimizer.average.network, training.device
    n_noise = training.objective.inputs.extra_channels
    rng = torch.Generator()

    def predict(batch: Batch, number: int) -> Tensor:
        noise = None
        if n_noise:
            seeds.reseed(rng, training.recipe.seed, number, 0, _NOISE)
            shape = (batch.source.shape[0], n_noise, *batch.source.shape[2:])
            noise = torch.randn(shape, generator=rng).to(device)
        with torch.no_grad(), precision.autocast(training.recipe.precision, device):
            return _translate(training.objective, network, batch.to(device), noise)

    spacing = batches.configuration.spacing
    return validate_patches(predict, batches, training.recipe.validation_patches, spacing)


def _translate(
    objective: Objective, network: nn.Module, batch: Batch, noise: Tensor | None
) -> Tensor:
    """Patches as at prediction, but with few steps of a sampler."""
    if not isinstance(objective, Sampled):
        return objective.translate(network, batch.source, noise)
    steps = min(VALIDATION_STEPS, objective.sampling.steps)
    few = dataclasses.replace(objective.sampling, steps=steps)
    return objective.translate(network, batch.source, noise, mask=batch.mask, sampling=few)


def _finish_epoch(
    training: Training, means: dict[str, float], quality: PatchQuality, epoch: int, started: float
) -> None:
    """Judge, log, save: the log first, so that a resume can only find too much in it."""
    folder, counts, recipe = training.folder, training.counts, training.recipe
    if not all_finite(training.generator):
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
        "seconds": time.perf_counter() - started,
    }
    own = checkpoint.on_cpu(checkpoint.capture(training.rank_parts()))
    ranks = gathered(own)  # each has patches of its own
    if not training.process.is_leader:
        return
    log.append(folder, record)
    if is_best:
        save_weights(training, epoch, BEST)
    save_latest(training, epoch, ranks)


def _draw(training: Training, epoch: int) -> None:
    """Draw the curves of the log, not more often than one can look."""
    path = training.folder / PROGRESS_PNG
    due = epoch == training.recipe.epochs or _age(path) > DRAW_SECONDS
    if training.process.is_leader and due:
        draw_progress(log.read(training.folder), path)


def _age(path: Path) -> float:
    return time.time() - path.stat().st_mtime if path.is_file() else math.inf


def _too_many(folder: Path, epoch: int, step: int, metrics: dict[str, float]) -> str:
    numbers = ", ".join(f"{name} {value:.3g}" for name, value in metrics.items())
    return (
        f"epoch {epoch}, step {step}: {MOST_IN_A_ROW} steps in a row were not finite ({numbers});"
        f" {_what_is_left(folder)}; look for odd values in the data, or use --precision fp32"
    )


def _what_is_left(folder: Path) -> str:
    if (folder / LATEST).is_file():
        return f"the last good checkpoint is {folder / LATEST}"
    return "no checkpoint was written yet"
