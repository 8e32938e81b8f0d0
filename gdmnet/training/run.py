"""What makes a training what it is: of a new one, and of one that goes on."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from gdmnet import codec, folders
from gdmnet.data.splits import Split
from gdmnet.errors import CheckpointError, SettingError, TrainingError
from gdmnet.files import file_sha256
from gdmnet.models import precision
from gdmnet.models.device import versions
from gdmnet.models.run import CONTINUED_JSON, Computation, read_run
from gdmnet.objectives.options import needs_encoder, read_objective_options
from gdmnet.plan import Configuration, Plan, Recipe, Run
from gdmnet.training import log
from gdmnet.training.settings import (
    DEFAULT_GPU_LENGTH,
    DEFAULT_LENGTH,
    DEFAULT_RATE,
    EncoderSettings,
    TrainingSettings,
)

_NOT_ASKED = ("schema", "version", "versions", "encoder_sha256", "realism")  # what came of it
_log = logging.getLogger(__name__)


def describe_run(
    plan: Plan,
    configuration: Configuration,
    fold: str,
    split: Split,
    settings: TrainingSettings,
    device: torch.device,
) -> Run:
    """What run.json says of a new training.

    Raises:
        TrainingError: a precision that the device or the configuration does not allow.
        CheckpointError: no such pretrained checkpoint.
    """
    epochs, iterations = DEFAULT_LENGTH.get(plan.preset, DEFAULT_GPU_LENGTH)
    rate = DEFAULT_RATE.get(plan.preset, Recipe.learning_rate)
    recipe = Recipe(
        epochs=settings.epochs or epochs,
        iterations=settings.iterations or iterations,
        learning_rate=settings.learning_rate or rate,
        seed=settings.seed or 0,
        precision=precision.choose_for(settings.precision, device, configuration),
    )
    pretrained = settings.pretrained
    if pretrained is not None and not pretrained.is_file():
        raise CheckpointError(f"--pretrained {pretrained}: file not found")
    n_workers = settings.n_workers
    if n_workers is None:
        n_workers = min(8, folders.n_default_processes()) if device.type == "cuda" else 0
    return Run(
        schema=Run.SCHEMA,
        version=versions()["gdmnet"],
        dataset=plan.dataset,
        configuration=configuration.name,
        fold=fold,
        training_cases=tuple(split.training),
        validation_cases=tuple(split.validation),
        objective=settings.objective,
        options=dict(settings.objective_options),
        recipe=recipe,
        **_encoder_fields(settings, settings.objective_options),
        encoder_sha256=None,
        pretrained_sha256=None if pretrained is None else file_sha256(pretrained),
        device=device.type,
        n_threads=torch.get_num_threads(),
        n_workers=n_workers,
        n_devices=settings.n_devices or 1,
        versions=versions(),
    )


def _encoder_fields(settings: TrainingSettings, options: Mapping[str, Any]) -> dict[str, Any]:
    """What a run says of its encoder: nothing where an objective with these options has none."""
    if not needs_encoder(settings.objective, options):
        return {"encoder": None, "encoder_options": {}}
    values = codec.encode(settings.encoder or EncoderSettings())
    return {"encoder": values.pop("name"), "encoder_options": values}


def continue_run(
    folder: Path,
    asked: Run,
    settings: TrainingSettings,
    configuration: Configuration,
    device: torch.device,
) -> Run:
    """The run with which a training goes on: as it began, but for how it computes.

    Args:
        folder: of the fold, with its run.json.
        asked: `describe_run` of now; what was not asked for is taken from run.json.
        settings: what was asked.
        configuration: of the plan.
        device: that computes from now on.

    Raises:
        TrainingError: something was asked for that differs from how the training began, or a
            precision that the device does not have.
        PlanError: run.json is damaged.
    """
    before = read_run(folder)
    now = _with_unasked(asked, before, settings)
    path = folder / folders.RUN_JSON
    was, are = _comparable(before, path), _comparable(now, path)
    changes = {
        name: f"{name} changed from {was[name]!s:.80} to {are[name]!s:.80}"
        for name in was
        if was[name] != are[name]
    }
    computation = {field.name for field in dataclasses.fields(Computation)}
    for name, text in changes.items():
        if name not in computation:
            raise TrainingError(
                f"{path}: {text}; a training is continued as it began (or started anew with"
                " --overwrite)"
            )
    if (folder / folders.FINAL).is_file():
        return before
    precision.choose_for(now.recipe.precision, device, configuration)
    for name, text in changes.items():
        if name != "n_workers":  # they only change how fast patches come
            text += "; what follows is no longer bit-equal to the unbroken run"
        _log.warning("warning: %s", text)
        log.append_note(folder, text)
    if changes:
        codec.save(Computation.of(now), folder / CONTINUED_JSON)
    return read_run(folder)


def _with_unasked(asked: Run, before: Run, settings: TrainingSettings) -> Run:
    """What was asked, with the values of before where nothing was."""
    unasked = {
        field.name: getattr(before.recipe, field.name)
        for field in dataclasses.fields(Recipe)
        if getattr(settings, field.name, None) in (None, "auto")
    }
    wanted = {
        "n_workers": settings.n_workers,
        "n_devices": settings.n_devices,
        "pretrained_sha256": settings.pretrained,
        "encoder": settings.encoder,
        "encoder_options": settings.encoder,
    }
    options = before.options | asked.options
    fields = _encoder_fields(settings, options) | {
        name: getattr(before, name) for name, value in wanted.items() if value is None
    }
    recipe = dataclasses.replace(asked.recipe, **unasked)
    return dataclasses.replace(asked, recipe=recipe, options=options, **fields)


def _comparable(run: Run, path: Path) -> dict[str, Any]:
    """Every field that may be asked for, those of the recipe and of the objective by name."""
    try:
        options = codec.encode(read_objective_options(run.objective, run.options))
    except SettingError as problem:
        raise TrainingError(f"{path}: {problem}; train anew with --overwrite") from None
    fields = codec.encode(run) | codec.encode(run.recipe)
    fields |= {f"option {name}": value for name, value in options.items()}
    return {n: v for n, v in fields.items() if n not in (*_NOT_ASKED, "recipe", "options")}
