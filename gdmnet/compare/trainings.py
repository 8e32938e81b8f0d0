"""The long work of a comparison: train and predict what is missing, keep what is there."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gdmnet import codec, folders
from gdmnet.compare.methods import (
    COSTS_JSON,
    CaseCosts,
    CaseGroup,
    ComparedMethod,
    ComparisonCases,
    facts_of,
    find_held_out,
    read_costs,
)
from gdmnet.compare.settings import (
    ComparisonSettings,
    Method,
    MethodSettings,
    make_methods,
    parse_steps,
    parse_variant,
)
from gdmnet.data.case import CaseFiles
from gdmnet.data.splits import split_for
from gdmnet.errors import DatasetError, OutputError
from gdmnet.files import file_sha256
from gdmnet.folders import Roots
from gdmnet.inference.inputs import output_name
from gdmnet.inference.predict import predict_folder
from gdmnet.inference.record import Predictions, record_name
from gdmnet.inference.translator import Translator, load_model
from gdmnet.models.card import PredictionSettings
from gdmnet.models.device import find_device
from gdmnet.networks.unet import CountCalls
from gdmnet.objectives.options import OPTIONS
from gdmnet.plan import Plan
from gdmnet.training import settings as training
from gdmnet.training.feature_encoder import default_iterations
from gdmnet.training.fold import train_fold
from gdmnet.training.settings import EncoderSettings, TrainingSettings

SETTINGS_JSON = "settings.json"
_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")  # Linux only
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ComparedTrainings:
    """The trainings and predictions of a comparison: what they share, and where they lie."""

    roots: Roots  # of the raw and prepared data
    home: Path  # of the trainings' own results
    plan: Plan
    settings: ComparisonSettings
    methods: tuple[Method, ...]
    cases: ComparisonCases
    device: str

    @property
    def variants(self) -> list[Method]:
        """What is trained, each once."""
        return list(dict.fromkeys(method.variant for method in self.methods))

    def results(self, method: Method) -> Path:
        """The results root of the trainings of a method's variant."""
        return self.home / "models" / method.variant.folder

    def model(self, method: Method) -> Path:
        """The folder of the model that predicts for a method."""
        root, name = self.results(method), self.settings.configuration
        return folders.model_folder(root, self.plan.dataset, method.objective, name)

    def predictions(self, method: Method) -> Path:
        """Folder of a method's predictions, summary and verdict."""
        return self.home / "predictions" / method.folder

    def untrained_folds(self, variant: Method) -> list[str]:
        """Folds that have no final checkpoint yet."""
        finished = folders.finished_folds(self.model(variant))
        return [fold for fold in self.settings.folds if fold not in finished]

    def kept_cases(self, method: Method) -> set[str]:
        """Cases whose predictions, with their costs, were made of these very weights and scans."""
        return set().union(*(self._kept_of_group(method, group) for group in self.cases.groups))

    def _kept_of_group(self, method: Method, group: CaseGroup) -> set[str]:
        home, model = self.predictions(method) / group.folder, self.model(method)
        costs, record = read_costs(home), home / record_name(0, 1)
        trained = {fold: folders.fold_folder(model, fold) / folders.FINAL for fold in group.folds}
        if not (record.is_file() and all(path.is_file() for path in trained.values())):
            return set()
        made = codec.load(Predictions, record)
        if made.model.checkpoints != {fold: file_sha256(path) for fold, path in trained.items()}:
            return set()
        known = {name: made.cases[name].inputs for name in set(costs) & set(made.cases)}
        return {
            case.identifier
            for case in group.cases
            if known.get(case.identifier) == {path.name: file_sha256(path) for path in case.sources}
            and (home / output_name(case, self.plan)).is_file()
        }


def plan_trainings(
    dataset: str,
    configuration: str,
    roots: Roots,
    home: Path,
    wanted: MethodSettings,
    given: Mapping[str, Any],
) -> ComparedTrainings:
    """What a comparison trains and predicts; nothing is written.

    `given` is what was asked for of `ComparisonSettings`; the rest is as the comparison began, or
    as by default.

    Raises:
        GdmnetError: an unknown configuration, fold, objective or option; a comparison that began
            with other settings; a raw file that is missing.
    """
    prepared = roots.preprocessed / dataset
    plan = codec.load(Plan, prepared / folders.PLAN_JSON)
    plan.configuration(configuration)
    variants = list(dict.fromkeys(map(parse_variant, wanted.objectives or OPTIONS)))
    methods = make_methods(variants, parse_steps(wanted.steps))
    device, splits = find_device(wanted.device), prepared / folders.SPLITS_JSON
    begun = _begun_settings({"dataset": dataset, "configuration": configuration, **given}, home)
    if begun is None:
        epochs, iterations = training.DEFAULT_LENGTH.get(plan.preset, training.DEFAULT_GPU_LENGTH)
        values = {"epochs": epochs, "iterations": iterations, **given}
        begun = ComparisonSettings(ComparisonSettings.SCHEMA, dataset, configuration, **values)
        # Chosen now, so that one encoder serves all variants.
        length = begun.encoder.iterations or default_iterations(
            values["epochs"] * values["iterations"],
            device,
            n_cases=min(len(split_for(fold, splits).training) for fold in begun.folds),
        )
        begun = replace(begun, encoder=replace(begun.encoder, iterations=length))
    cases = find_held_out(roots.raw / dataset, splits, begun.folds)
    return ComparedTrainings(roots, home, plan, begun, tuple(methods), cases, str(device))


def what_is_left(trainings: ComparedTrainings) -> list[str]:
    """A line for every training and prediction that is missing."""
    settings = trainings.settings
    length = f"{settings.epochs} epochs of {settings.iterations} steps"
    lines = [
        f"train {variant.name}, fold {fold}: {length}"
        for variant in trainings.variants
        for fold in trainings.untrained_folds(variant)
    ]
    for method in trainings.methods:
        kept = trainings.kept_cases(method)
        if missing := [name for name in trainings.cases.files if name not in kept]:
            lines.append(f"predict {method.name}: {', '.join(missing)}")
    return lines or ["everything is trained and predicted already"]


def work_off(trainings: ComparedTrainings) -> list[ComparedMethod]:
    """Train and predict what is missing; go on where a training was stopped.

    Raises:
        GdmnetError: a training fails, or a case cannot be predicted.
    """
    codec.save(trainings.settings, trainings.home / SETTINGS_JSON)
    for variant in trainings.variants:
        roots = replace(trainings.roots, results=trainings.results(variant))
        for fold in trainings.untrained_folds(variant):
            _log.info("training %s, fold %s", variant.name, fold)
            dataset, name = trainings.plan.dataset, trainings.settings.configuration
            train_fold(dataset, name, fold, roots, _training_options(trainings, variant))
    for method in trainings.methods:
        kept = trainings.kept_cases(method)
        if not kept >= set(trainings.cases.files):
            _predict(trainings, method, kept)
    return [_compared(trainings, method) for method in trainings.methods]


def _begun_settings(given: Mapping[str, Any], home: Path) -> ComparisonSettings | None:
    """The settings that a comparison began with; None for a new one."""
    path = home / SETTINGS_JSON
    if not path.is_file():
        return None
    begun = codec.load(ComparisonSettings, path)
    for name, value in given.items():
        before = getattr(begun, name)
        if name == "encoder" and value.iterations is None:
            value = replace(value, iterations=before.iterations)
        if value != before:
            raise OutputError(
                f"{path}: {name.replace('_', ' ')} is {_in_words(before)} there, not"
                f" {_in_words(value)}: a comparison goes on as it began; give another folder by -o"
            )
    return begun


def _in_words(value: object) -> str:
    if isinstance(value, EncoderSettings):
        return f"{value.name} ({value.iterations} steps)"
    return " ".join(value) if isinstance(value, tuple) else str(value)


def _training_options(trainings: ComparedTrainings, variant: Method) -> TrainingSettings:
    names = ("epochs", "iterations", "learning_rate", "seed", "precision", "encoder")
    shared: dict[str, Any] = {name: getattr(trainings.settings, name) for name in names}
    return TrainingSettings(
        variant.objective,
        **shared,
        device=trainings.device,
        resume=True,
        objective_options=variant.options,
        encoder_root=trainings.home / "models" / "encoder",
        validates=bool(variant.options.get("realism_dial")),  # validation sets the dial
    )


def _predict(trainings: ComparedTrainings, method: Method, kept: set[str]) -> None:
    """Predict one case after the other; those that a killed run finished are kept."""
    _log.info("predicting %s", method.name)
    home = trainings.predictions(method)
    (home / folders.SUMMARY_JSON).unlink(missing_ok=True)
    for group in trainings.cases.groups:
        translator = load_model(
            trainings.model(method),
            PredictionSettings(step_size=trainings.settings.step_size, steps=method.steps),
            folds=group.folds,
            device=trainings.device,
        )
        output = home / group.folder
        if kept.isdisjoint(case.identifier for case in group.cases):
            shutil.rmtree(output, ignore_errors=True)  # of another model, or broken off
        costs = read_costs(output)
        for case in group.cases:
            if case.identifier not in kept:
                (output / output_name(case, translator.plan)).unlink(missing_ok=True)
                costs[case.identifier] = _predict_case(translator, case, output)
                codec.save(costs, output / COSTS_JSON, private=True)


def _predict_case(translator: Translator, case: CaseFiles, output: Path) -> CaseCosts:
    card, network = translator.card, translator.network
    assert isinstance(network, nn.Module)  # of torch, since no other engine was asked for
    device = torch.device(card.device)
    is_measurable = _forget_peak(device)
    with CountCalls(network) as calls:
        outcome = predict_folder(translator, [case], output)
    result = codec.load(Predictions, outcome.record).cases[case.identifier]
    if outcome.failed or result.seconds is None:
        raise DatasetError(
            f"{output}: case {case.identifier} could not be predicted: {result.error}"
        )
    peak = _peak_mb(device) if is_measurable else None
    n_parameters = sum(weight.numel() for weight in network.parameters())
    return CaseCosts(result.seconds, calls.count, peak, n_parameters // len(card.checkpoints))


def _forget_peak(device: torch.device) -> bool:
    """Begin to measure the peak anew; False where the system cannot."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        _CLEAR.write_text("5", encoding="ascii")  # proc(5): the peak becomes what is used now
    except OSError:
        return False
    return True


def _peak_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    lines = _STATUS.read_text(encoding="ascii").splitlines()
    (peak,) = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return round(int(peak) / 2**10, 1)


def _compared(trainings: ComparedTrainings, method: Method) -> ComparedMethod:
    home, settings, plan = trainings.predictions(method), trainings.settings, trainings.plan
    target = plan.configuration(settings.configuration).target
    facts = facts_of(trainings.model(method), settings.folds, target, steps=method.steps)
    predictions: dict[str, Path] = {}
    costs: dict[str, CaseCosts] = {}
    for group in trainings.cases.groups:
        folder = home / group.folder
        costs |= read_costs(folder)
        predictions |= {c.identifier: folder / output_name(c, plan) for c in group.cases}
    return ComparedMethod(method.name, facts, predictions, costs, home)
