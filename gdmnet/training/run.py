"""What makes a training what it is: of a new one, and of one that goes on."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gdmnet import codec, folders
from gdmnet.data.splits import Split, split_for
from gdmnet.data.store import StoredCase, open_case
from gdmnet.errors import CheckpointError, DatasetError, SettingError, TrainingError
from gdmnet.files import file_sha256
from gdmnet.folders import Roots
from gdmnet.models import precision
from gdmnet.models.checkpoint import load_pretrained
from gdmnet.models.device import find_device, versions
from gdmnet.models.folder import (
    CONTINUED_JSON,
    Computation,
    named_settings,
    read_fingerprint,
    read_run,
)
from gdmnet.objectives.base import Context, Inputs
from gdmnet.objectives.build import SAMPLED, generator_of
from gdmnet.objectives.options import needs_encoder, new_options, read_objective_options
from gdmnet.plan import Configuration, Fingerprint, Plan, Recipe, Run
from gdmnet.preprocessing import preparation_sha256
from gdmnet.training import log
from gdmnet.training.batches import Batches
from gdmnet.training.distributed import devices_here, own_device, require_devices
from gdmnet.training.settings import (
    DEFAULT_GPU_LENGTH,
    DEFAULT_LENGTH,
    DEFAULT_RATE,
    EncoderSettings,
    TrainingSettings,
)

# what came of it
_NOT_ASKED = ("schema", "version", "versions", "encoder_sha256", "detail_gain", "realism")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FoldTraining:
    """The training of one fold, in terms that can be sent to a process."""

    run: Run  # of run.json; the encoder's checksum is missing until the encoder is there
    configuration: Configuration
    split: Split
    dataset: Path  # folder of the prepared dataset, with its plan, fingerprint and cases
    folder: Path  # of the fold, in the model's folder
    encoder_folder: Path  # where the embedded encoder is kept
    device: str  # cpu, cuda, cuda:1
    pretrained: Path | None  # a checkpoint to start from
    resume: bool = False  # go on from the latest checkpoint

    def cases(self) -> tuple[list[StoredCase], list[StoredCase]]:
        """The prepared training and validation cases.

        Raises:
            DatasetError: one is missing, damaged, or made of other files or by another plan.
        """
        fingerprint, decided_by = self.fingerprint(), preparation_sha256(self.configuration)
        known = {} if fingerprint is None else {c.identifier: c.digests for c in fingerprint.cases}

        def opened(identifier: str) -> StoredCase:
            case = open_case(self.dataset / self.configuration.name, identifier)
            is_same = case.record.digests == known.get(identifier, case.record.digests)
            if not is_same or case.record.decided_by not in ("", decided_by):
                what = "by another plan" if is_same else "from other raw files than the plan's"
                raise DatasetError(
                    f"case {identifier}: {self.configuration.name} was prepared {what}; run"
                    " gdm_plan_and_preprocess again"
                )
            return case

        split = self.split
        return [opened(case) for case in split.training], [opened(c) for c in split.validation]

    def fingerprint(self) -> Fingerprint | None:
        """What was measured on the dataset, if it is there."""
        path = self.dataset / folders.FINGERPRINT_JSON
        return codec.load(Fingerprint, path) if path.is_file() else None

    def process_device(self) -> torch.device:
        """The device of this process among those that train together."""
        return own_device(torch.device(self.device))


def describe_training(
    dataset: str | int, configuration: str, fold: str, roots: Roots, settings: TrainingSettings
) -> FoldTraining:
    """The training that is asked for, as if its folder were empty; nothing is written.

    Raises:
        GdmnetError: an unknown dataset, configuration, fold or device, a precision that is not to
            be had there, or no such pretrained checkpoint.
    """
    name = folders.resolve_dataset(dataset, roots.preprocessed, raw=roots.raw)
    home = roots.preprocessed / name
    plan = codec.load(Plan, home / folders.PLAN_JSON)
    read_fingerprint(home, plan)  # refuses one of other channels
    chosen = plan.configuration(configuration)
    split = split_for(str(fold), home / folders.SPLITS_JSON)
    device = find_device(settings.device)
    run = _new_run(plan, chosen, str(fold), split, settings, device)
    require_devices(devices_here(run.n_devices), device)
    model = folders.model_folder(roots.results, name, settings.objective, configuration)
    encoders = settings.encoder_root or roots.results
    return FoldTraining(
        run=run,
        configuration=chosen,
        split=split,
        dataset=home,
        folder=folders.fold_folder(model, str(fold)),
        encoder_folder=folders.encoder_folder(encoders, name, configuration, str(fold)),
        device=str(device),
        pretrained=settings.pretrained,
    )


def patch_batches(training: FoldTraining) -> tuple[Batches, Batches]:
    """Augmented patches of the training cases and plain ones of the validation cases."""
    run, configuration = training.run, training.configuration
    cases, validation = training.cases()
    seed = run.recipe.seed
    return (
        Batches(cases, configuration, seed=seed, augment=True, n_workers=run.n_workers),
        Batches(validation, configuration, seed=seed, augment=False),
    )


def detail_gain(cases: Sequence[StoredCase]) -> float:
    """The least-squares gain  a = sum s t / sum s s  of the sources' lost detail, 0 to 1.

    s and t are what a prepared case's source and target show beyond the plan's spacing: noise and
    streaks have nothing of the target in them and stay out, what both share comes back.
    """
    shared, own = (sum(case.record.detail[i] for case in cases) for i in (0, 1))
    return min(1.0, max(0.0, shared / own)) if own > 0 else 0.0


def build_generator(training: FoldTraining) -> nn.Module:
    """The generator with its seeded first weights, or those of a checkpoint.

    Raises:
        CheckpointError: the pretrained checkpoint does not fit.
    """
    run, inputs = training.run, Inputs()  # only an objective with a sampler has others
    if run.objective in SAMPLED:
        inputs = SAMPLED[run.objective](Context(training.configuration, run.options)).inputs
    torch.manual_seed(run.recipe.seed)
    generator = generator_of(training.configuration, inputs)
    if training.pretrained is not None:
        load_pretrained(generator, training.pretrained)
    return generator


def _new_run(
    plan: Plan,
    configuration: Configuration,
    fold: str,
    split: Split,
    settings: TrainingSettings,
    device: torch.device,
) -> Run:
    """What run.json says of a new training."""
    epochs, iterations = DEFAULT_LENGTH.get(plan.preset, DEFAULT_GPU_LENGTH)
    rate = DEFAULT_RATE.get(plan.preset, Recipe.learning_rate)
    n_devices = settings.n_devices or 1  # as many samples in all, in larger batches
    recipe = Recipe(
        epochs=settings.epochs or epochs,
        iterations=settings.iterations or ceil(iterations / n_devices),
        learning_rate=settings.learning_rate or rate * sqrt(n_devices),
        seed=settings.seed or 0,
        precision=precision.choose_for(settings.precision, device, configuration),
    )
    has_unit = configuration.target.scheme == "ct"
    options = new_options(settings.objective, settings.objective_options, has_unit=has_unit)
    pretrained = settings.pretrained
    if pretrained is not None and not pretrained.is_file():
        raise CheckpointError(f"--pretrained {pretrained}: file not found")
    n_workers = settings.n_workers
    if n_workers is None:
        n_cores = folders.n_default_processes() // devices_here(n_devices)
        n_workers = max(1, min(8, n_cores)) if device.type == "cuda" else 0
    return Run(
        schema=Run.SCHEMA,
        version=versions()["gdmnet"],
        dataset=plan.dataset,
        configuration=configuration.name,
        fold=fold,
        training_cases=tuple(split.training),
        validation_cases=tuple(split.validation),
        objective=settings.objective,
        options=options,
        recipe=recipe,
        **_encoder_fields(settings, options),
        encoder_sha256=None,
        pretrained_sha256=None if pretrained is None else file_sha256(pretrained),
        device=device.type,
        n_threads=torch.get_num_threads(),
        n_workers=n_workers,
        n_devices=n_devices,
        versions=versions(),
    )


def _encoder_fields(settings: TrainingSettings, options: Mapping[str, Any]) -> dict[str, Any]:
    """What a run says of its encoder: nothing where an objective with these options has none."""
    if not needs_encoder(settings.objective, options):
        return {"encoder": None, "encoder_options": {}}
    values = codec.encode(settings.encoder or EncoderSettings())
    return {"encoder": values.pop("name"), "encoder_options": values}


def continue_run(training: FoldTraining, settings: TrainingSettings) -> Run:
    """The run with which a training goes on: as it began, but for how it computes.

    Where the settings do not ask for anything in the run of now, run.json decides.

    Raises:
        TrainingError: something was asked for that differs from how the training began, or a
            precision that the device does not have.
        PlanError: run.json is damaged.
    """
    folder = training.folder
    before = read_run(folder)
    now = _with_unasked(training.run, before, settings)
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
    device = torch.device(training.device)
    precision.choose_for(now.recipe.precision, device, training.configuration)
    for name, text in changes.items():
        if name != "n_workers":  # they only change how fast patches come
            text += "; what follows is no longer bit-equal to the unbroken run"
            _log.warning("warning: %s", text)
            log.append_line(folder / log.LOG_TXT, text)
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
    options = before.options | dict(settings.objective_options)
    fields = _encoder_fields(settings, options) | {
        name: getattr(before, name) for name, value in wanted.items() if value is None
    }
    recipe = dataclasses.replace(asked.recipe, **unasked)
    return dataclasses.replace(asked, recipe=recipe, options=options, **fields)


def _comparable(run: Run, path: Path) -> dict[str, Any]:
    """Every field that may be asked for, those of the recipe and of the objective by name."""
    try:
        read_objective_options(run.objective, run.options)
    except SettingError as problem:
        raise TrainingError(f"{path}: {problem}; train anew with --overwrite") from None
    return {n: v for n, v in named_settings(run).items() if n not in _NOT_ASKED}
