"""Methods as they are compared: what each is, its predictions, costs, scores and verdicts."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from statistics import fmean

from gdmnet import codec, folders
from gdmnet.compare.cases import ComparisonCases
from gdmnet.compare.judge import Subjects, describe_judge, make_judge
from gdmnet.compare.record import MethodFacts
from gdmnet.compare.settings import JUDGE_JSON, JudgeSettings
from gdmnet.compare.verdict import JudgeVerdict, give_verdict
from gdmnet.data.case_files import images_by_case
from gdmnet.data.splits import ALL
from gdmnet.errors import CheckpointError, PlanError
from gdmnet.metrics.conventions import EvaluationSettings
from gdmnet.metrics.evaluation import ImagePair, evaluate_pairs, summarise_cases
from gdmnet.metrics.summary import Summary
from gdmnet.plan import Normalisation, Plan, Run
from gdmnet.training import log

VALIDATION = "validation"
COSTS_JSON = "costs.json"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CaseCosts:
    """One volume; costs.json holds those of a folder by case.

    Attributes:
        seconds: from prepared source to written file.
        calls: of the network, all windows and folds.
        peak_mb: of the device's memory on a GPU, else of the whole process, in 2^20 bytes; None
            where the system does not say.
        parameters: of one fold's network.
    """

    seconds: float
    calls: int
    peak_mb: float | None
    parameters: int


@dataclass(frozen=True)
class ComparedMethod:
    """One method.

    Attributes:
        name: for tables.
        facts: what it is.
        predictions: case -> file, on the source's grid.
        costs: case -> what the prediction cost; empty where nobody measured.
        folder: that keeps its summary.json and judge.json; None keeps nothing.
    """

    name: str
    facts: MethodFacts
    predictions: Mapping[str, Path]
    costs: Mapping[str, CaseCosts] = field(default_factory=dict)
    folder: Path | None = None


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


def read_costs(folder: Path) -> dict[str, CaseCosts]:
    """Case -> what its prediction in a folder cost.

    Raises:
        PlanError: costs.json is damaged.
    """
    path = folder / COSTS_JSON
    return codec.load(dict[str, CaseCosts], path) if path.is_file() else {}


def facts_of(
    model: Path,
    folds: Sequence[str],
    target: Normalisation,
    *,
    all_folds: bool = True,
    steps: int | None = None,
) -> MethodFacts:
    """What run.json and the logs of a model's folds tell.

    Args:
        model: its folder.
        folds: that are looked at.
        target: of the model's configuration.
        all_folds: whether gdm_predict would take just these by itself.
        steps: of the sampler, where it does not take its default.
    """
    homes = [folders.fold_folder(model, fold) for fold in folds]
    run = codec.load(Run, homes[0] / folders.RUN_JSON)
    logs = [records for records in map(log.read, homes) if records]
    words = ["gdm_predict", "-i", "IN", "-o", "OUT", "-m", str(model)]
    words += [] if all_folds else ["-f", *folds]
    words += [] if steps is None else ["--steps", str(steps)]
    seconds = [sum(record["seconds"] for record in records) for records in logs]
    return MethodFacts(
        objective=run.objective,
        configuration=run.configuration,
        options=run.options,
        model=str(model),
        folds=tuple(folds),
        in_hu=target.scheme == "ct",
        command=shlex.join(words),
        encoder=run.encoder,
        device=run.device,
        precision=run.recipe.precision,
        training_steps=max((records[-1]["step"] for records in logs), default=None),
        training_seconds=fmean(seconds) if seconds else None,
    )


def find_summaries(
    methods: Sequence[ComparedMethod],
    cases: ComparisonCases,
    settings: EvaluationSettings,
    *,
    n_processes: int,
) -> dict[str, Summary]:
    """Every method's summary: as kept, or made anew where cases or settings are others.

    Raises:
        DatasetError: an image cannot be read or scored.
    """
    kept = {method.name: _kept_summary(method, cases, settings) for method in methods}
    missing = [method for method in methods if kept[method.name] is None]
    pairs = [
        ImagePair(name, method.predictions[name], case.target, case.mask)
        for method in missing
        for name, case in cases.files.items()
        if case.target is not None
    ]
    scored = iter(evaluate_pairs(pairs, settings, n_processes=n_processes))
    for method in missing:
        summary = summarise_cases({name: next(scored) for name in cases.files}, settings)
        kept[method.name] = summary
        if method.folder is not None:
            (method.folder / JUDGE_JSON).unlink(missing_ok=True)  # of other predictions
            codec.save(summary, method.folder / folders.SUMMARY_JSON, private=True)
    return {name: summary for name, summary in kept.items() if summary is not None}


def find_verdicts(
    methods: Sequence[ComparedMethod],
    cases: ComparisonCases,
    settings: JudgeSettings,
    *,
    match: bool,
) -> dict[str, JudgeVerdict]:
    """Every method's verdict: all as kept, or all given now, so that one judge gives them.

    Args:
        methods: to judge.
        cases: with targets; the judge learns from the training set's targets.
        settings: of the judge.
        match: whether predictions get mean and standard deviation of their targets first.

    Raises:
        DatasetError: an image cannot be read.
        TrainingError: no judge comes of the real images.
    """
    description = describe_judge(settings, len(cases.training))
    kept = {}
    for method in methods:
        path = None if method.folder is None else method.folder / JUDGE_JSON
        if path is not None and path.is_file():
            verdict = codec.load(JudgeVerdict, path)
            if (verdict.judge, verdict.matched) == (description, match):
                kept[method.name] = verdict
    if len(kept) == len(methods):
        return kept
    _log.info("judge: %s", description)
    judge = make_judge(Subjects(list(cases.training.values())), settings)
    files = cases.files
    others = Subjects([case for name, case in cases.training.items() if name not in files])
    for method in methods:
        _log.info("judging %s", method.name)
        subjects = Subjects(list(files.values()), method.predictions)
        verdict = give_verdict(judge, subjects, others, match=match, seed=settings.seed)
        kept[method.name] = verdict
        if method.folder is not None:
            codec.save(verdict, method.folder / JUDGE_JSON, private=True)
    return {method.name: kept[method.name] for method in methods}


def _kept_summary(
    method: ComparedMethod, cases: ComparisonCases, settings: EvaluationSettings
) -> Summary | None:
    if method.folder is None or not (method.folder / folders.SUMMARY_JSON).is_file():
        return None
    kept = codec.load(Summary, method.folder / folders.SUMMARY_JSON)
    rules = kept.convention, kept.match_intensity
    is_same = rules == (settings.convention, settings.match_intensity)
    return kept if is_same and set(kept.cases) == set(cases.files) else None


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
