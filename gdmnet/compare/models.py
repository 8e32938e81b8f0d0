"""The trained models of a dataset, and what each predicted for cases that it had not seen."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from gdmnet import codec, folders
from gdmnet.compare.methods import ComparedMethod, facts_of
from gdmnet.data.case_files import images_by_case
from gdmnet.data.splits import ALL
from gdmnet.errors import CheckpointError, PlanError
from gdmnet.plan import Plan, Run

VALIDATION = "validation"


def find_models(
    results: Path,
    dataset: str,
    names: Collection[str] | None = None,
    folds: Collection[str] | None = None,
) -> tuple[list[ComparedMethod], list[str]]:
    """All models with validation predictions, and what was left out and why, a line each.

    Args:
        results: the root of all models.
        dataset: its full name.
        names: only these model folders; patterns as "gdm__*" are allowed. None is any.
        folds: only their validation; None is any.

    Raises:
        CheckpointError: there is none.
        PlanError: a plan.json or run.json is damaged.
    """
    found, notes = [], []
    for name, _, configuration, folder in folders.finished_models(results):
        if name != dataset or not _is_chosen(folder.name, names):
            continue
        model, remarks = _find_model(configuration, folder, folds)
        notes += [f"{folder.name}: {text}" for text in remarks]
        if model is None:
            notes.append(f"{folder.name}: left out, no validation of unseen cases is there")
        else:
            found.append(model)
    if not found:
        because = f" ({'; '.join(notes)})" if notes else ""
        raise CheckpointError(
            f"{results / dataset}: no finished model with validation predictions fits{because};"
            " train a fold of the cross-validation with gdm_train, or ask for less"
        )
    return found, notes


def common_cases(methods: Sequence[ComparedMethod]) -> tuple[list[str], list[str]]:
    """The cases that every method predicted, and a line for each one that has more.

    Raises:
        CheckpointError: there is no such case.
    """
    sets = [set(method.predictions) for method in methods]
    common = sorted(set.intersection(*sets))
    if not common:
        there = "; ".join(f"{m.name} has folds {', '.join(m.facts.folds)}" for m in methods)
        raise CheckpointError(
            f"no case was predicted by all models, so that they cannot be compared: {there}; train"
            " the missing folds, or narrow the choice by -m"
        )
    notes = [
        f"{method.name}: {len(cases) - len(common)} of its {len(cases)} cases are left out, as"
        " another model lacks them"
        for method, cases in zip(methods, sets, strict=True)
        if len(cases) > len(common)
    ]
    return common, notes


def _find_model(
    configuration: str, folder: Path, wanted: Collection[str] | None
) -> tuple[ComparedMethod | None, list[str]]:
    notes: list[str] = []
    predictions: dict[str, Path] = {}
    used: list[str] = []
    finished = folders.finished_folds(folder)
    for fold in finished:
        if wanted is not None and fold not in wanted:
            continue
        images, remarks = _unseen(folder, fold)
        twice = sorted(set(images) & set(predictions))
        if twice:
            remarks.append(f"fold {fold} validates {', '.join(twice)} again; the first one counts")
        notes += remarks
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
    facts = facts_of(
        folder,
        used,
        plan.configurations[configuration].target,
        all_folds=used == [fold for fold in finished if fold.isdecimal()],
    )
    return ComparedMethod(folder.name, facts, predictions), notes


def _unseen(folder: Path, fold: str) -> tuple[dict[str, Path], list[str]]:
    """The fold's predictions of cases it was not trained on, and what is wrong."""
    home = folders.fold_folder(folder, fold)
    if fold == ALL:
        return {}, ["fold all was validated on its training cases: left out"]
    run = codec.load(Run, home / folders.RUN_JSON)
    if set(run.validation_cases) & set(run.training_cases):
        return {}, [f"fold {fold} was validated on its training cases: left out"]
    place = home / VALIDATION
    images = images_by_case(place) if place.is_dir() and any(place.iterdir()) else {}
    missing = sorted(set(run.validation_cases) - set(images))
    notes = []
    if missing:
        again = f"gdm_train {run.dataset} {run.configuration} {fold} --continue"
        notes = [f"fold {fold} lacks predictions of {', '.join(missing)}; finish it with {again}"]
    return {case: images[case] for case in run.validation_cases if case in images}, notes


def _is_chosen(name: str, patterns: Collection[str] | None) -> bool:
    return patterns is None or any(fnmatchcase(name, pattern) for pattern in patterns)
