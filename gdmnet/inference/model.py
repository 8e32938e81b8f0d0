"""A trained model's folder to a `Translator`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import torch
from torch import nn

from gdmnet.errors import CheckpointError, PlanError
from gdmnet.files import file_sha256
from gdmnet.folders import PLAN_JSON
from gdmnet.inference.finish import mean_finish
from gdmnet.inference.sampling import choose_sampler
from gdmnet.inference.translator import Ensemble, Translator
from gdmnet.models import checkpoint
from gdmnet.models.card import ModelCard, PredictionSettings
from gdmnet.models.checkpoint import between
from gdmnet.models.device import find_device
from gdmnet.models.folder import ModelFolder, read_model, require_alike
from gdmnet.models.precision import cpu_has_bf16
from gdmnet.objectives.base import Inputs
from gdmnet.objectives.build import OBJECTIVES, generator_of
from gdmnet.plan import Run, SpectralFinish


def load_model(
    folder: str | Path,
    settings: PredictionSettings | None = None,
    *,
    folds: Sequence[str | int] | None = None,
    device: str = "auto",
) -> Translator:
    """Load a trained model: the EMA weights of its folds, combined at their outputs.

    Args:
        folder: of the model, for example gdmnet_results/Dataset501_MR2CT/gdm__3d_fullres; it holds
            all that is needed and may have been copied from elsewhere.
        settings: how to predict; None is the default of each.
        folds: for example [0, 1] or ["all"]; None takes all finished numeric folds.
        device: "auto", "cpu", "cuda", "cuda:1".

    Raises:
        CheckpointError: not a model folder, an unfinished fold, a damaged checkpoint, weights that
            are not finite, folds that were trained differently, a realism is asked of a model
            without a twin, or steps of an objective without a sampler.
        DeviceError: no such device.
        PlanError: the folder was written by another version of gdmnet.
    """
    settings = settings or PredictionSettings()
    model = read_model(Path(folder), None if folds is None else [str(fold) for fold in folds])
    place = find_device(device)
    runs = list(model.runs.values())
    if not settings.mixed_folds:
        require_alike(model.runs)
    _require_known(runs[0].objective, model.path)
    sampler = choose_sampler(runs, model.configuration, settings)
    digests, members, realism = {}, [], {}
    for fold, run in model.runs.items():
        path = model.checkpoint(fold, settings.checkpoint)
        dialled = run.realism if settings.realism is None else settings.realism
        if dialled is not None:
            realism[fold] = dialled
        generator = _build(model, Inputs() if sampler is None else sampler.objective.inputs)
        members.append(_with_weights(generator, path, 1.0 if dialled is None else dialled))
        digests[fold] = file_sha256(path)
    finish = _finish_of(runs, settings)
    if sampler is not None:
        how = sampler.sampling
        settings = replace(settings, steps=how.steps, sampler=how.sampler, seed=sampler.seed)
    card = ModelCard(
        folder=str(folder),
        objective=runs[0].objective,
        configuration=model.configuration.name,
        checkpoints=digests,
        device=str(place),
        precision=_usable(runs[0].recipe.precision, place),
        settings=settings,
        realism=realism,
        network_calls=1 if sampler is None else sampler.network_calls,
        finish=0.0 if finish is None else finish.strength,
    )
    expected = model.expected
    fits = expected is not None and expected.fits(set(model.runs), settings)
    network = Ensemble(members).eval().requires_grad_(False).to(place)
    return Translator(
        model.plan,
        model.configuration,
        card,
        network,
        model.fingerprint,
        sampler=sampler,
        finish=finish,
        expected=expected if fits else None,
        detail_gain=fmean(run.detail_gain for run in runs),
    )


def _require_known(objective: str, path: Path) -> None:
    if objective not in OBJECTIVES:
        raise CheckpointError(
            f"{path}: trained with the objective {objective}, which this gdmnet does not know"
            f" (it knows {', '.join(OBJECTIVES)}); use the version that trained it"
        )


def _finish_of(runs: Sequence[Run], settings: PredictionSettings) -> SpectralFinish | None:
    """The folds' filter; None where one has none, or other weights than it was fitted with."""
    found = [
        run.finish
        for run in runs
        if run.finish is not None and settings.realism in (None, run.realism)
    ]
    wanted = settings.finish and settings.checkpoint == "final" and len(found) == len(runs)
    return mean_finish(found) if wanted else None


def _build(model: ModelFolder, inputs: Inputs) -> nn.Module:
    try:
        return generator_of(model.configuration, inputs)
    except (ValueError, TypeError, RuntimeError, OverflowError, MemoryError) as problem:
        reason = str(problem).split("\n")[0]
        raise PlanError(
            f"{model.path / PLAN_JSON}: no network can be built of {model.configuration.name}"
            f" ({reason:.200}); copy the whole model folder again"
        ) from None


def _with_weights(generator: nn.Module, path: Path, realism: float) -> nn.Module:
    state = checkpoint.load(path)
    for name in ("ema", "twin"):
        checkpoint.require_finite(state.get(name, {}), generator.state_dict(), path)
    if realism != 1.0 and "twin" not in state:
        raise CheckpointError(
            f"{path}: has no regression twin, so its realism cannot be dialled to {realism:g};"
            " train with --realism-dial, or leave --realism out"
        )
    try:
        generator.load_state_dict(between(state.get("twin", {}), state["ema"], realism))
    except (RuntimeError, TypeError, KeyError, AttributeError):
        raise CheckpointError(
            f"{path}: its weights do not fit the network of {PLAN_JSON}; the two are from"
            " different trainings, copy the whole model folder again"
        ) from None
    return generator


def _usable(precision: str, device: torch.device) -> str:
    """The training's precision where the device computes in it, else fp32."""
    if device.type == "cuda":
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return precision if precision != "bf16" or has_bf16 else "fp32"
    return precision if precision == "bf16" and cpu_has_bf16() else "fp32"
