"""The start of a training: what it is, whether its folder is free, and its built parts."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gdmnet import codec, folders
from gdmnet.data.splits import Split
from gdmnet.data.store import StoredCase, is_stored, open_case
from gdmnet.errors import CheckpointError, DatasetError, PlanError, TrainingError
from gdmnet.networks.unet import build_generator
from gdmnet.objectives import NEED_ENCODER, OBJECTIVES
from gdmnet.objectives.base import Context, Objective
from gdmnet.plan import Configuration, Plan, Recipe, Run
from gdmnet.training import precision
from gdmnet.training.checkpoint import load_pretrained
from gdmnet.training.device import versions
from gdmnet.training.pretrain import default_iterations, pretrain_encoder

_log = logging.getLogger(__name__)

# A laptop trains the cpu preset in about an hour; a GPU run is of nnU-Net's order of length.
DEFAULT_LENGTH = {"cpu": (80, 50)}
DEFAULT_GPU_LENGTH = (400, 250)


@dataclasses.dataclass(frozen=True)
class Options:
    """What `run` may be told beside dataset, configuration and fold; None is the default's choice.

    `objective_options` are passed to the objective by name, for example {"drift_ratio": 0.3}.
    """

    objective: str = "gdm"
    epochs: int | None = None
    iterations: int | None = None
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    resume: bool = False
    overwrite: bool = False
    pretrained: Path | None = None
    encoder_iterations: int | None = None
    n_workers: int | None = None
    objective_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def find_configuration(plan: Plan, name: str) -> Configuration:
    """The configuration of that name, or a PlanError that lists the names."""
    if name not in plan.configurations:
        raise PlanError(
            f"{plan.dataset}: no configuration {name} in its plan (there:"
            f" {', '.join(plan.configurations)})"
        )
    return plan.configurations[name]


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
        seed=options.seed,
        precision=precision.choose_for(options.precision, device, configuration),
    )
    pretrained = None
    if options.pretrained is not None:
        if not options.pretrained.is_file():
            raise CheckpointError(f"--pretrained {options.pretrained}: file not found")
        pretrained = hashlib.sha256(options.pretrained.read_bytes()).hexdigest()
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
        encoder="self" if options.objective in NEED_ENCODER else None,
        encoder_sha256=None,
        pretrained_sha256=pretrained,
        device=device.type,
        n_threads=torch.get_num_threads(),
        n_workers=n_workers,
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
    asked = {
        "--epochs": (options.epochs, existing.recipe.epochs),
        "--iterations": (options.iterations, existing.recipe.iterations),
        "--seed": (options.seed or None, existing.recipe.seed),
        "the training cases": (described.training_cases, existing.training_cases),
        "the objective's options": (described.options or None, existing.options),
    }
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


def keep_plan(model: Path, plan: Plan) -> None:
    """Put the plan into the model's folder, so that the model can be mailed; never change it."""
    path = model / folders.PLAN_JSON
    begun = [*model.glob(f"fold_*/{folders.LATEST}"), *model.glob(f"fold_*/{folders.FINAL}")]
    if begun and path.is_file() and codec.load(Plan, path) != plan:
        raise PlanError(
            f"{path} differs from the dataset's plan: trainings in that folder were made with"
            " another plan; move the folder away first"
        )
    codec.save(plan, path)


def build_objective(
    described: Run,
    configuration: Configuration,
    training: list[StoredCase],
    encoder_home: Path,
    encoder_iterations: int | None,
) -> tuple[Objective, Run]:
    """The objective with its encoder, and the run with the encoder's checksum."""
    recipe = described.recipe
    encoder = None
    if described.encoder is not None:
        device = torch.device(described.device)
        encoder = pretrain_encoder(
            training,
            configuration,
            encoder_home,
            iterations=encoder_iterations or default_iterations(recipe.total_steps, device),
            seed=recipe.seed,
            device=device,
            precision=recipe.precision,
        )
        described = dataclasses.replace(described, encoder_sha256=_digest(encoder))
    context = Context(
        total_steps=recipe.total_steps,
        patch_size=configuration.patch_size,
        spacing=configuration.spacing,
        n_sources=len(configuration.sources),
        encoder=encoder,
        seed=recipe.seed,
        options=described.options,
    )
    return OBJECTIVES[described.objective](context), described


def make_generator(
    configuration: Configuration, objective: Objective, run: Run, pretrained: Path | None
) -> nn.Module:
    """The generator with its seeded first weights, or those of a checkpoint."""
    torch.manual_seed(run.recipe.seed)
    generator = build_generator(
        configuration.architecture,
        n_sources=len(configuration.sources),
        extra_channels=objective.inputs.extra_channels,
        residual_channel=configuration.residual_channel,
    )
    if pretrained is not None:
        load_pretrained(generator, pretrained)
    return generator


def _digest(module: nn.Module) -> str:
    """SHA-256 of a module's weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
