"""A trained model's folder to a `Translator`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gdmnet import codec, folders
from gdmnet.errors import CheckpointError, PlanError
from gdmnet.inference.sampling import Sampler, choose_sampler
from gdmnet.inference.sliding import ENSEMBLES
from gdmnet.inference.translator import Ensemble, ModelCard, Translator
from gdmnet.models import checkpoint as checkpoint_file
from gdmnet.models.device import find_device
from gdmnet.models.precision import cpu_has_bf16
from gdmnet.models.run import read_run
from gdmnet.models.select import choose_folds
from gdmnet.models.weights import MOST_REALISM, between
from gdmnet.objectives.base import Inputs
from gdmnet.objectives.build import OBJECTIVES, generator_of
from gdmnet.plan import Fingerprint, Plan, Run

CHECKPOINTS = {"final": folders.FINAL, "best": folders.BEST}


def load_model(  # noqa: PLR0913 (how to use a model is all keywords)
    folder: str | Path,
    *,
    folds: Sequence[str | int] | None = None,
    device: str = "auto",
    checkpoint: str = "final",
    step_size: float = 0.5,
    tta: bool = False,
    ensemble: str = "mean",
    realism: float | None = None,
    steps: int | None = None,
    sampler: str | None = None,
    seed: int | None = None,
) -> Translator:
    """Load a trained model: the EMA weights of its folds, combined at their outputs.

    Args:
        folder: of the model, for example gdmnet_results/Dataset501_MR2CT/gdm__3d_fullres; it holds
            all that is needed and may have been copied from elsewhere.
        folds: for example [0, 1] or ["all"]; None takes all finished numeric folds.
        device: "auto", "cpu", "cuda", "cuda:1".
        checkpoint: "final" or "best".
        step_size: of the sliding window as a share of the patch, in (0, 1].
        tta: average over mirrored copies; eight times slower.
        ensemble: "mean" or "median" of the folds.
        realism: T of the realism dial, from 0 (the regression twin) over 1 (as trained) to 1.5;
            None takes what each fold's validation chose.
        steps: of an objective that calls its network several times; None takes its default.
        sampler: likewise, one of the objective's samplers.
        seed: likewise, of the noise; None is 0. The same case and seed give the same noise.

    Raises:
        CheckpointError: not a model folder, an unfinished fold, a damaged checkpoint, a realism
            is asked of a model without a twin, or steps of an objective without a sampler.
        DeviceError: no such device.
        PlanError: the folder was written by another version of gdmnet.
    """
    if checkpoint not in CHECKPOINTS or not 0 < step_size <= 1:
        raise ValueError(f"checkpoint {checkpoint!r} or step size {step_size} is not possible")
    if ensemble not in ENSEMBLES:
        raise ValueError(f"unknown ensemble {ensemble!r}; known: {', '.join(ENSEMBLES)}")
    if realism is not None and not 0 <= realism <= MOST_REALISM:
        raise ValueError(f"realism {realism} does not lie between 0 and {MOST_REALISM}")
    folder = Path(folder)
    chosen = choose_folds(folder, None if folds is None else [str(fold) for fold in folds])
    place = find_device(device)
    plan = codec.load(Plan, folder / folders.PLAN_JSON)
    runs = [_read_run(folder, fold, plan) for fold in chosen]
    configuration = plan.configurations[runs[0].configuration]
    chosen_sampler = choose_sampler(runs, configuration, steps=steps, sampler=sampler, seed=seed)
    inputs = Inputs() if chosen_sampler is None else chosen_sampler.objective.inputs
    digests, members, dials = {}, [], {}
    for fold, run in zip(chosen, runs, strict=True):
        path = folders.fold_folder(folder, fold) / CHECKPOINTS[checkpoint]
        setting = run.realism if realism is None else realism
        if setting is not None:
            dials[fold] = setting
        generator = generator_of(configuration, inputs)
        members.append(_read_weights(path, generator, 1.0 if setting is None else setting))
        digests[fold] = file_sha256(path)
    card = ModelCard(
        folder=str(folder),
        objective=runs[0].objective,
        configuration=configuration.name,
        checkpoints=digests,
        checkpoint=checkpoint,
        step_size=step_size,
        tta=tta,
        device=str(place),
        precision=_usable(runs[0].recipe.precision, place),
        ensemble=ensemble,
        realism=dials,
        **_sampling_facts(chosen_sampler),
    )
    network = Ensemble(members).eval().requires_grad_(False).to(place)
    fingerprint = _read_fingerprint(folder, plan)
    return Translator(plan, configuration, card, network, fingerprint, sampler=chosen_sampler)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _sampling_facts(sampler: Sampler | None) -> dict[str, Any]:
    """What a model card says of a sampler."""
    if sampler is None:
        return {}
    return {
        "steps": sampler.sampling.steps,
        "sampler": sampler.sampling.sampler,
        "network_calls": sampler.network_calls,
        "seed": sampler.seed,
    }


def _read_run(folder: Path, fold: str, plan: Plan) -> Run:
    path = folders.fold_folder(folder, fold) / folders.RUN_JSON
    run = read_run(path.parent)
    named, _, _ = folder.name.partition("__")
    if run.objective not in OBJECTIVES:
        raise CheckpointError(
            f"{path}: trained with the objective {run.objective}, which this gdmnet does not know"
            f" (it knows {', '.join(OBJECTIVES)}); use the version that trained it"
        )
    if "__" in folder.name and named != run.objective:
        raise CheckpointError(
            f"{path}: trained with the objective {run.objective}, but lies in {folder.name}; move"
            " the fold back to its own model folder"
        )
    if run.configuration not in plan.configurations:
        raise CheckpointError(
            f"{path}: trained with the configuration {run.configuration}, which the folder's"
            f" {folders.PLAN_JSON} lacks; copy the whole model folder again"
        )
    return run


def _read_fingerprint(folder: Path, plan: Plan) -> Fingerprint | None:
    path = folder / folders.FINGERPRINT_JSON
    if not path.is_file():  # a model of before it travelled along
        return None
    fingerprint = codec.load(Fingerprint, path)
    if fingerprint.channel_names != plan.channel_names:
        raise PlanError(
            f"{path}: has the channels {', '.join(fingerprint.channel_names)}, but"
            f" {folders.PLAN_JSON} has {', '.join(plan.channel_names)}; copy the whole model"
            " folder again"
        )
    return fingerprint


def _read_weights(path: Path, generator: nn.Module, realism: float) -> nn.Module:
    state = checkpoint_file.load(path)
    if realism != 1.0 and "twin" not in state:
        raise CheckpointError(
            f"{path}: has no regression twin, so its realism cannot be dialled to {realism:g};"
            " train with --realism-dial, or leave --realism out"
        )
    try:
        generator.load_state_dict(between(state.get("twin", {}), state["ema"], realism))
    except (RuntimeError, TypeError):
        raise CheckpointError(
            f"{path}: its weights do not fit the network of {folders.PLAN_JSON}; the two are from"
            " different trainings, copy the whole model folder again"
        ) from None
    return generator


def _usable(precision: str, device: torch.device) -> str:
    """The training's precision where the device computes in it, else fp32."""
    if device.type == "cuda":
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return precision if precision != "bf16" or has_bf16 else "fp32"
    return precision if precision == "bf16" and cpu_has_bf16() else "fp32"
