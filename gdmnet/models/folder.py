"""A trained model's folder: all that predicting, exporting and listing need to know of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gdmnet import codec, folders
from gdmnet.errors import CheckpointError, PlanError
from gdmnet.metrics.summary import Summary
from gdmnet.models.run import read_run
from gdmnet.models.select import choose_folds
from gdmnet.plan import Configuration, Fingerprint, Plan, Run


@dataclass(frozen=True)
class ModelFolder:
    """What a model's folder says.

    Attributes:
        path: of the folder.
        plan: of the training set.
        runs: fold -> its training.
        fingerprint: of the training set; None for a model of before it travelled along.
    """

    path: Path
    plan: Plan
    runs: dict[str, Run]
    fingerprint: Fingerprint | None

    @property
    def configuration(self) -> Configuration:
        """That the model was trained in."""
        return self.plan.configurations[next(iter(self.runs.values())).configuration]

    def checkpoint(self, fold: str, kind: str) -> Path:
        """The file of a fold's weights; kind is "final" or "best"."""
        return folders.fold_folder(self.path, fold) / folders.CHECKPOINTS[kind]


def read_model(path: Path, folds: Sequence[str] | None = None) -> ModelFolder:
    """Read a model's folder.

    Args:
        path: of the folder.
        folds: "0", "1", ... or "all"; None takes all finished numeric ones.

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
    return ModelFolder(path, plan, runs, _read_fingerprint(path, plan))


def _read_fingerprint(path: Path, plan: Plan) -> Fingerprint | None:
    file = path / folders.FINGERPRINT_JSON
    if not file.is_file():
        return None
    fingerprint = codec.load(Fingerprint, file)
    if fingerprint.channel_names != plan.channel_names:
        raise PlanError(
            f"{file}: has the channels {', '.join(fingerprint.channel_names)}, but"
            f" {folders.PLAN_JSON} has {', '.join(plan.channel_names)}; copy the whole model"
            " folder again"
        )
    return fingerprint


def read_summaries(model: ModelFolder) -> dict[str, Summary]:
    """Fold -> its validation, of the folds that have one.

    Raises:
        PlanError: one is damaged or of another version.
    """
    paths = {fold: folders.fold_folder(model.path, fold) / folders.SUMMARY_JSON
             for fold in model.runs}  # fmt: skip
    return {fold: codec.load(Summary, path) for fold, path in paths.items() if path.is_file()}
