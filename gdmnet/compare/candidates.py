"""The trained models of a dataset and what each predicted for cases that it had not seen."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gdmnet import codec, folders
from gdmnet.data.case_files import images_by_case
from gdmnet.data.splits import ALL
from gdmnet.errors import CheckpointError, PlanError
from gdmnet.plan import Plan, Run

VALIDATION = "validation"


@dataclass(frozen=True)
class Candidate:
    """One model with its cross-validation.

    Attributes:
        objective: that it was trained with.
        configuration: of the plan.
        folder: of the model.
        folds: those whose predictions are looked at.
        is_every_fold: True if these are all that gdm_predict would take by itself.
        predictions: case -> prediction by a fold that was not trained on it, on the source's grid.
        has_unit: True if the target is in HU, False if its scale is arbitrary.
        maps_ct: True if a source is in HU as well.
    """

    objective: str
    configuration: str
    folder: Path
    folds: tuple[str, ...]
    is_every_fold: bool
    predictions: Mapping[str, Path]
    has_unit: bool
    maps_ct: bool

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.folder.name


@dataclass(frozen=True)
class Wanted:
    """What narrows the choice; None is any."""

    objectives: Collection[str] | None = None
    configurations: Collection[str] | None = None
    folds: Collection[str] | None = None


def find_candidates(
    results: Path, dataset: str, wanted: Wanted
) -> tuple[list[Candidate], list[str]]:
    """All models with validation predictions, and what was left out and why, a line each.

    Raises:
        CheckpointError: there is none.
        PlanError: a plan.json or run.json is damaged.
    """
    found, notes = [], []
    for name, objective, configuration, folder in folders.finished_models(results):
        if (
            name != dataset
            or not _is_in(objective, wanted.objectives)
            or not _is_in(configuration, wanted.configurations)
        ):
            continue
        candidate, told = _candidate(objective, configuration, folder, wanted.folds)
        notes += [f"{folder.name}: {text}" for text in told]
        if candidate is None:
            notes.append(f"{folder.name}: left out, no validation of unseen cases is there")
        else:
            found.append(candidate)
    if not found:
        because = f" ({'; '.join(notes)})" if notes else ""
        raise CheckpointError(
            f"{results / dataset}: no finished model with validation predictions fits{because};"
            " train a fold of the cross-validation with gdm_train, or ask for less"
        )
    return found, notes


def common_cases(candidates: Sequence[Candidate]) -> tuple[list[str], list[str]]:
    """The cases that every candidate predicted, and a line for each one that has more.

    Raises:
        CheckpointError: there is no such case.
    """
    sets = [set(candidate.predictions) for candidate in candidates]
    common = sorted(set.intersection(*sets))
    if not common:
        there = "; ".join(
            f"{candidate.name} has folds {', '.join(candidate.folds)}" for candidate in candidates
        )
        raise CheckpointError(
            f"no case was predicted by all models, so that they cannot be compared: {there}; train"
            " the missing folds, or narrow the choice by -c and --objective"
        )
    notes = [
        f"{candidate.name}: {len(cases) - len(common)} of its {len(cases)} cases are left out, as"
        " another model lacks them"
        for candidate, cases in zip(candidates, sets, strict=True)
        if len(cases) > len(common)
    ]
    return common, notes


def _candidate(
    objective: str, configuration: str, folder: Path, wanted: Collection[str] | None
) -> tuple[Candidate | None, list[str]]:
    notes: list[str] = []
    predictions: dict[str, Path] = {}
    used = []
    finished = folders.finished_folds(folder)
    for fold in finished:
        if not _is_in(fold, wanted):
            continue
        images, told = _unseen(folder, fold)
        twice = sorted(set(images) & set(predictions))
        if twice:
            told.append(f"fold {fold} validates {', '.join(twice)} again; the first one counts")
        notes += told
        if images:
            used.append(fold)
            predictions = {**images, **predictions}
    if not predictions:
        return None, notes
    plan = codec.load(Plan, folder / folders.PLAN_JSON)
    if configuration not in plan.configurations:
        raise PlanError(
            f"{folder / folders.PLAN_JSON}: has no configuration {configuration}, which the folder"
            " is named after; copy the whole model folder again"
        )
    chosen = plan.configurations[configuration]
    return (
        Candidate(
            objective,
            configuration,
            folder,
            tuple(used),
            used == [fold for fold in finished if fold.isdecimal()],
            predictions,
            has_unit=chosen.target.scheme == "ct",
            maps_ct=any(source.scheme == "ct" for source in chosen.sources),
        ),
        notes,
    )


def _unseen(folder: Path, fold: str) -> tuple[dict[str, Path], list[str]]:
    """The fold's predictions of cases it was not trained on, and what is wrong."""
    home = folders.fold_folder(folder, fold)
    if fold == ALL:
        return {}, ["fold all was validated on its training cases: left out"]
    run = codec.load(Run, home / folders.RUN_JSON)
    seen = set(run.validation_cases) & set(run.training_cases)
    if seen:
        return {}, [f"fold {fold} was validated on its training cases: left out"]
    place = home / VALIDATION
    images = images_by_case(place) if place.is_dir() and any(place.iterdir()) else {}
    missing = sorted(set(run.validation_cases) - set(images))
    told = []
    if missing:
        again = f"gdm_train {run.dataset} {run.configuration} {fold} --continue"
        told = [f"fold {fold} lacks predictions of {', '.join(missing)}; finish it with {again}"]
    return {case: images[case] for case in run.validation_cases if case in images}, told


def _is_in(name: str, wanted: Collection[str] | None) -> bool:
    return wanted is None or name in wanted
