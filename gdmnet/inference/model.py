"""A trained model's folder to a `Translator`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from gdmnet.inference.engine import OnnxEnsemble, load_exported
from gdmnet.inference.finish import mean_finish
from gdmnet.inference.translator import Translator
from gdmnet.models.card import ModelCard, PredictionSettings
from gdmnet.models.folder import read_model, require_alike
from gdmnet.plan import Run, SpectralFinish

if TYPE_CHECKING:
    from gdmnet.inference.ensemble import Ensemble


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
    runs = list(model.runs.values())
    if not settings.mixed_folds:
        require_alike(model.runs)
    dialled = {
        fold: run.realism if settings.realism is None else settings.realism
        for fold, run in model.runs.items()
    }
    finish = _finish_of(runs, settings)
    card = ModelCard(
        folder=str(folder),
        objective=runs[0].objective,
        configuration=model.configuration.name,
        checkpoints={},
        device="cpu",
        precision="fp32",
        settings=settings,
        realism={fold: value for fold, value in dialled.items() if value is not None},
        finish=0.0 if finish is None else finish.strength,
    )
    network: Ensemble | OnnxEnsemble
    if settings.engine == "torch":
        # here, because the other engines work where there is no torch
        from gdmnet.inference.ensemble import load_ensemble

        network, card = load_ensemble(model, card, device)
    else:
        network, card = load_exported(model, card, device)
    expected = model.expected
    fits = expected is not None and expected.fits(set(model.runs), settings)
    return Translator(
        model.plan,
        model.configuration,
        card,
        network,
        model.fingerprint,
        finish=finish,
        expected=expected if fits else None,
        detail_gain=fmean(run.detail_gain for run in runs),
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
