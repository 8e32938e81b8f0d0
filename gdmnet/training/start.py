"""The start of a training: what it is, and whether its folder is free."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from gdmnet import codec, folders
from gdmnet.data.splits import Split
from gdmnet.data.store import StoredCase, is_stored, open_case
from gdmnet.errors import CheckpointError, DatasetError, PlanError, TrainingError
from gdmnet.models import precision
from gdmnet.models.device import versions
from gdmnet.objectives.options import needs_encoder
from gdmnet.plan import Configuration, Plan, Recipe, Run
from gdmnet.training.feature_encoder import EncoderChoice

_log = logging.getLogger(__name__)

# A laptop trains the cpu preset in about an hour; a GPU run is of nnU-Net's order of length.
DEFAULT_LENGTH = {"cpu": (80, 50)}
DEFAULT_GPU_LENGTH = (400, 250)
# Real T1 to T2, 600 steps of the cpu preset, held-out MAE: .107 at 1e-3, .100 at 3e-3. The larger
# networks of the other presets keep the customary rate; nobody has measured more on them.
DEFAULT_RATE = {"cpu": 3e-3}


@dataclasses.dataclass(frozen=True)
class Options:
    """What `run` may be told beside dataset, configuration and fold; None is the default's choice.

    `objective_options` are passed to the objective by name, for example {"drift_ratio": 0.3}.
    `encoder` is the frozen feature encoder of the objectives that need one. `fidelity_budget` is
    the share of MAE that the realism dial's default setting may cost. `encoder_root` is the results
    root that keeps the embedded encoder, by default that of the model. Without `validates` the
    training ends with its last step: no validation of whole volumes.
    """

    objective: str = "gdm"
    epochs: int | None = None
    iterations: int | None = None
    learning_rate: float | None = None
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    resume: bool = False
    overwrite: bool = False
    pretrained: Path | None = None
    encoder: EncoderChoice = dataclasses.field(default_factory=EncoderChoice)
    n_devices: int = 1
    fidelity_budget: float = 0.01
    n_workers: int | None = None
    objective_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    encoder_root: Path | None = None
    validates: bool = True


def describe(
    plan: Plan,
    configuration: Configuration,
    fold: str,
    split: Split,
    options: Options,
    device: torch.device,
) -> Run:
    """All that makes this training what it is, for run.json."""
    epochs, iterations = DEFAULT_LENGTH.get(plan.preset, DEFAULT_GPU_LENGTH)
    recipe = Recipe(
        epochs=options.epochs or epochs,
        iterations=options.iterations or iterations,
        learning_rate=options.learning_rate or DEFAULT_RATE.get(plan.preset, Recipe.learning_rate),
        seed=options.seed,
        precision=precision.choose_for(options.precision, device, configuration),
    )
    pretrained = None
    if options.pretrained is not None:
        if not options.pretrained.is_file():
            raise CheckpointError(f"--pretrained {options.pretrained}: file not found")
        pretrained = hashlib.sha256(options.pretrained.read_bytes()).hexdigest()
    encoder = options.encoder
    with_encoder = needs_encoder(options.objective, options.objective_options)
    chosen = codec.encode(encoder)
    del chosen["name"]
    n_workers = options.n_workers
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
        objective=options.objective,
        options=dict(options.objective_options),
        recipe=recipe,
        encoder=encoder.name if with_encoder else None,
        encoder_options=chosen if with_encoder else {},
        encoder_sha256=None,
        pretrained_sha256=pretrained,
        device=device.type,
        n_threads=torch.get_num_threads(),
        n_workers=n_workers,
        n_devices=options.n_devices,
        versions=versions(),
    )


def claim(folder: Path, described: Run, options: Options) -> tuple[Run, bool]:
    """The run to train and whether it is the folder's own; nothing is overwritten unasked."""
    path = folder / folders.RUN_JSON
    if not path.is_file():
        return described, False
    if options.overwrite:
        shutil.rmtree(folder)
        return described, False
    if not options.resume:
        state = "finished" if (folder / folders.FINAL).is_file() else "unfinished"
        raise TrainingError(
            f"{folder} holds a {state} training; add --continue to go on with it or --overwrite to"
            " throw it away"
        )
    existing = codec.load(Run, path)
    _refuse_changes(existing, described, options, path)
    for what in ("n_threads", "n_workers", "device"):
        before, now = getattr(existing, what), getattr(described, what)
        if before != now:
            _log.warning(
                "warning: %s is %s, the training began with %s; what follows is no longer bit-equal"
                " to the unbroken run",
                what,
                now,
                before,
            )
    return existing, True


def _refuse_changes(existing: Run, described: Run, options: Options, path: Path) -> None:
    asked: dict[str, tuple[Any, Any]] = {
        "--epochs": (options.epochs, existing.recipe.epochs),
        "--iterations": (options.iterations, existing.recipe.iterations),
        "--learning-rate": (options.learning_rate, existing.recipe.learning_rate),
        "--seed": (options.seed or None, existing.recipe.seed),
        "the training cases": (described.training_cases, existing.training_cases),
        "the objective's options": (described.options or None, existing.options),
        "--num-gpus": (described.n_devices, existing.n_devices),
    }
    if options.encoder != EncoderChoice():
        asked["--encoder"] = (
            (described.encoder, described.encoder_options),
            (existing.encoder, existing.encoder_options),
        )
    for what, (now, before) in asked.items():
        if now is not None and now != before:
            raise TrainingError(
                f"{path}: {what} changed from {before} to {now}; a training is continued as it"
                " began (or started anew with --overwrite)"
            )


def open_cases(folder: Path, split: Split) -> tuple[list[StoredCase], list[StoredCase]]:
    """The stored training and validation cases of a split."""
    missing = [c for c in (*split.training, *split.validation) if not is_stored(folder, c)]
    if missing:
        raise DatasetError(
            f"{folder}: case {missing[0]} is not prepared; run gdm_plan_and_preprocess again"
        )
    training = [open_case(folder, case) for case in split.training]
    return training, [open_case(folder, case) for case in split.validation]


def keep_plan(model: Path, plan: Plan, fingerprint: Path) -> None:
    """Put the plan into the model's folder, so that the model can be mailed; never change it.

    The fingerprint, if it is there, goes along: inputs are compared with it at prediction.
    """
    path = model / folders.PLAN_JSON
    begun = [*model.glob(f"fold_*/{folders.LATEST}"), *model.glob(f"fold_*/{folders.FINAL}")]
    if begun and path.is_file() and codec.load(Plan, path) != plan:
        raise PlanError(
            f"{path} differs from the dataset's plan: trainings in that folder were made with"
            " another plan; move the folder away first"
        )
    codec.save(plan, path)
    if fingerprint.is_file():
        codec.write_text(model / folders.FINGERPRINT_JSON, fingerprint.read_text(encoding="utf-8"))
