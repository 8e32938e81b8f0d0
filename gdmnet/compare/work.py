"""The long work of gdm_compare: train and predict what is missing, keep what is there."""

from __future__ import annotations

import time
from dataclasses import replace

from gdmnet import codec, folders
from gdmnet.compare.bench import Bench
from gdmnet.compare.costs import predict_with_costs, read_costs
from gdmnet.compare.variant import Method, Variant
from gdmnet.inference.inputs import output_name
from gdmnet.inference.model import load_model
from gdmnet.models.card import PredictionSettings
from gdmnet.training.fold import train_fold, train_fold_encoder
from gdmnet.training.settings import EncoderSettings

ENCODERS_JSON = "encoders.json"


def train_encoders(bench: Bench) -> None:
    """The embedded encoder of every fold, once for all variants, with the seconds that it took."""
    settings = bench.settings
    if settings.encoder.name != EncoderSettings.name or settings.encoder.weights is not None:
        return
    seconds = encoder_seconds(bench)
    for fold in settings.folds:
        if fold in seconds:
            continue
        options = bench.options(Variant("gdm"), 1, 1)
        roots = replace(bench.roots, results=bench.encoder_root)
        begun = time.perf_counter()
        train_fold_encoder(bench.plan.dataset, settings.configuration, fold, roots, options)
        seconds[fold] = round(time.perf_counter() - begun, 1)
        codec.save(seconds, bench.home / ENCODERS_JSON)


def encoder_seconds(bench: Bench) -> dict[str, float]:
    """Fold -> seconds of its encoder's training."""
    path = bench.home / ENCODERS_JSON
    return codec.load(dict[str, float], path) if path.is_file() else {}


def train_variant(bench: Bench, variant: Variant, length: tuple[int, int]) -> None:
    """Train the folds of a variant that are not finished; go on where one was stopped."""
    options = bench.options(variant, *length)
    for fold in bench.settings.folds:
        if not bench.is_trained(variant, fold):
            roots, name = bench.roots_of(variant), bench.settings.configuration
            train_fold(bench.plan.dataset, name, fold, roots, options)


def is_predicted(bench: Bench, method: Method, scope: str) -> bool:
    """Whether every case has a prediction whose costs are known."""
    home = bench.predictions(method, scope)
    for group in bench.held_out.groups:
        costs = read_costs(home / group.folder)
        known = {} if costs is None else costs.cases
        for case in group.cases:
            path = home / group.folder / output_name(case, bench.plan)
            if case.identifier not in known or not path.is_file():
                return False
    return True


def predict(bench: Bench, method: Method, scope: str) -> None:
    """Translate every held-out case that is not there yet."""
    home = bench.predictions(method, scope)
    (home / folders.SUMMARY_JSON).unlink(missing_ok=True)
    for group in bench.groups(scope):
        translator = load_model(
            bench.model(method.variant),
            PredictionSettings(step_size=bench.settings.step_size, steps=method.steps),
            folds=group.folds,
            device=bench.device,
        )
        predict_with_costs(translator, group.cases, home / group.folder)
