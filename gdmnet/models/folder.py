"""A trained model's folder: all that predicting, exporting and listing need to know of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, replace
from pathlib import Path
from typing import Any

from gdmnet import codec, folders
from gdmnet.errors import CheckpointError, PlanError, SettingError
from gdmnet.metrics.summary import Summary
from gdmnet.models.card import MOST_REALISM
from gdmnet.models.expected_error import EXPECTED_JSON, ExpectedError
from gdmnet.models.select import choose_folds
from gdmnet.objectives.options import all_options
from gdmnet.plan import Configuration, Fingerprint, Plan, Run, SpectralFinish
from gdmnet.settings import Settings, setting

# What may differ between folds that are averaged, and what must only be there in all or none.
_EACH_FOLDS_OWN = (
    *("schema", "version", "versions", "dataset", "fold", "training_cases", "validation_cases"),
    *("seed", "precision", "device", "n_threads", "n_workers", "n_devices", "encoder_sha256"),
    "detail_gain",
)
_THERE_OR_NOT = ("pretrained_sha256", "realism", "finish")
CONTINUED_JSON, DIAL_JSON, FINISH_JSON = "continued.json", "dial.json", "finish.json"


@dataclass(frozen=True)
class Computation(Settings):
    """What a continued training may do otherwise than it began: how it computes."""

    precision: str = setting("fp32", "of the arithmetic", choices=("fp32", "bf16", "fp16"))
    device: str = setting("cpu", "kind of device")
    n_threads: int = setting(1, "of the CPU", least=1)
    n_workers: int = setting(0, "processes that make patches", least=0)
    n_devices: int = setting(1, "that train together", least=1)

    @classmethod
    def of(cls, run: Run) -> Computation:
        """How a run computes."""
        return cls(run.recipe.precision, run.device, run.n_threads, run.n_workers, run.n_devices)


@dataclass(frozen=True)
class DialChoice(Settings):
    """The dial's setting T that a validation chose, and the share of the twin's MAE it may cost."""

    realism: float = setting(MISSING, "T", least=0, most=MOST_REALISM)
    fidelity_budget: float = setting(MISSING, "share of the twin's MAE", least=0)


def read_run(fold: Path) -> Run:
    """The training of a fold as it last was, from its folder's run.json.

    continued.json is there if it was continued otherwise than it began, dial.json if its validation
    chose a setting of the realism dial (older and exported models have that in run.json),
    finish.json if a spectral finish was fitted.

    Raises:
        PlanError: a file is missing, damaged or of another version.
    """
    run = codec.load(Run, fold / folders.RUN_JSON)
    with contextlib.suppress(SettingError):  # options of another version stay as they are
        run = replace(run, options=all_options(run.objective, run.options))
    if (fold / CONTINUED_JSON).is_file():
        now = asdict(codec.load(Computation, fold / CONTINUED_JSON))
        recipe = replace(run.recipe, precision=now.pop("precision"))
        run = replace(run, recipe=recipe, **now)
    if (fold / DIAL_JSON).is_file():
        run = replace(run, realism=codec.load(DialChoice, fold / DIAL_JSON).realism)
    if (fold / FINISH_JSON).is_file():
        run = replace(run, finish=codec.load(SpectralFinish, fold / FINISH_JSON))
    return run


@dataclass(frozen=True)
class ModelFolder:
    """What a model's folder says."""

    path: Path
    plan: Plan
    runs: dict[str, Run]  # by fold
    fingerprint: Fingerprint | None  # None for a model of before it travelled along
    expected: ExpectedError | None = None  # None where no fold's validation measured it

    @property
    def configuration(self) -> Configuration:
        """That the model was trained in."""
        return self.plan.configurations[next(iter(self.runs.values())).configuration]

    def checkpoint(self, fold: str, kind: str) -> Path:
        """The file of a fold's weights; kind is "final" or "best"."""
        return folders.fold_folder(self.path, fold) / folders.CHECKPOINTS[kind]


def read_model(path: Path, folds: Sequence[str] | None = None) -> ModelFolder:
    """Read a model's folder; no folds named are all finished numeric ones.

    Raises:
        CheckpointError: not a model folder, an unfinished fold, or a fold of another model.
        PlanError: a file is missing, damaged or of another version.
    """
    chosen = choose_folds(path, folds)
    plan = codec.load(Plan, path / folders.PLAN_JSON)
    runs = {}
    for fold in chosen:
        file = folders.fold_folder(path, fold) / folders.RUN_JSON
        runs[fold] = run = read_run(file.parent)
        named, is_named, _ = path.name.lstrip(".").partition("__")
        if is_named and named != run.objective:
            raise CheckpointError(
                f"{file}: trained with the objective {run.objective}, but lies in {path.name}; move"
                " the fold back to its own model folder"
            )
        if run.configuration not in plan.configurations:
            raise CheckpointError(
                f"{file}: trained with the configuration {run.configuration}, which the folder's"
                f" {folders.PLAN_JSON} lacks; copy the whole model folder again"
            )
    table = path / EXPECTED_JSON
    expected = codec.load(ExpectedError, table) if table.is_file() else None
    return ModelFolder(path, plan, runs, read_fingerprint(path, plan), expected)


def require_alike(runs: Mapping[str, Run]) -> None:
    """Refuse folds that were trained differently: their mean is no model that was validated.

    Cases, seeds, devices and precisions may differ.

    Raises:
        CheckpointError: what differs is named with its value in every fold.
    """
    how = {fold: named_settings(run) for fold, run in runs.items()}
    for name in dict.fromkeys(name for values in how.values() for name in values):
        values = {fold: str(_compared(name, found.get(name))) for fold, found in how.items()}
        if len(set(values.values())) > 1:
            each = ", ".join(f"{value:.40} in fold {fold}" for fold, value in values.items())
            raise CheckpointError(
                f"the folds were trained differently: {name} is {each}; choose folds by -f, or"
                " average them all the same with gdm_predict --mixed-folds"
            )


def named_settings(run: Run) -> dict[str, Any]:
    """All that a run says by name, the recipe's and the objective's own settings included."""
    fields = codec.encode(run) | codec.encode(run.recipe)
    fields |= {f"option {name}": value for name, value in run.options.items()}
    return {name: value for name, value in fields.items() if name not in ("recipe", "options")}


def _compared(name: str, value: Any) -> Any:  # noqa: ANN401 (settings are JSON values)
    if name in _EACH_FOLDS_OWN:
        return None
    return value is not None if name in _THERE_OR_NOT else value


def read_fingerprint(path: Path, plan: Plan) -> Fingerprint | None:
    """The fingerprint beside a plan, of a model or of a dataset; None where there is none.

    Raises:
        PlanError: it is damaged, or of other channels than the plan.
    """
    file = path / folders.FINGERPRINT_JSON
    if not file.is_file():
        return None
    fingerprint = codec.load(Fingerprint, file)
    if fingerprint.channel_names != plan.channel_names:
        raise PlanError(
            f"{file}: has the channels {', '.join(fingerprint.channel_names)}, but"
            f" {folders.PLAN_JSON} has {', '.join(plan.channel_names)}; plan anew with"
            " gdm_plan_and_preprocess --replan, or copy the whole model folder again"
        )
    return fingerprint


def read_summaries(model: ModelFolder) -> dict[str, Summary]:
    """Fold -> its validation, of the folds that have one; a PlanError if one is damaged."""
    paths = {fold: folders.fold_folder(model.path, fold) / folders.SUMMARY_JSON
             for fold in model.runs}  # fmt: skip
    return {fold: codec.load(Summary, path) for fold, path in paths.items() if path.is_file()}


def anonymised(
    model: ModelFolder, summaries: Mapping[str, Summary]
) -> tuple[ModelFolder, dict[str, Summary]]:
    """The same with cases called case_001, case_002, ..., in the order of their names."""
    described = () if model.fingerprint is None else model.fingerprint.cases
    names = {case.identifier for case in described}
    for run in model.runs.values():
        names.update(run.training_cases, run.validation_cases)
    for summary in summaries.values():
        names.update(summary.cases)
    alias = {name: f"case_{number:03d}" for number, name in enumerate(sorted(names), 1)}

    def renamed(cases: Iterable[str]) -> tuple[str, ...]:
        return tuple(alias[name] for name in cases)

    runs = {
        fold: replace(
            run,
            training_cases=renamed(run.training_cases),
            validation_cases=renamed(run.validation_cases),
            encoder=_without_folders(run.encoder),
            encoder_options={k: _without_folders(v) for k, v in run.encoder_options.items()},
        )
        for fold, run in model.runs.items()
    }
    cases = tuple(replace(c, identifier=alias[c.identifier], digests={}) for c in described)
    fingerprint = model.fingerprint and replace(model.fingerprint, cases=cases)
    return replace(model, runs=runs, fingerprint=fingerprint), {
        fold: replace(summary, cases={alias[n]: v for n, v in summary.cases.items()}, failed={})
        for fold, summary in summaries.items()
    }


def _without_folders(value: Any) -> Any:  # noqa: ANN401 (options are JSON values)
    """An encoder's file is called by its own name: "nnunet:/home/me/model" is "nnunet:model"."""
    if not isinstance(value, str):
        return value
    kind, colon, path = value.rpartition(":")
    return f"{kind}{colon}{Path(path).name}"
