"""What is compared: methods, their predictions, costs, scores and verdicts, and on which cases."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from statistics import fmean

from gdmnet import codec, folders
from gdmnet.compare.judge import Subjects, describe_judge, make_judge
from gdmnet.compare.record import MethodFacts
from gdmnet.compare.settings import JUDGE_JSON, JudgeSettings
from gdmnet.compare.verdict import JudgeVerdict, give_verdict
from gdmnet.data.case import CaseFiles
from gdmnet.data.case_files import images_by_case
from gdmnet.data.raw import Description, read_description, test_cases, training_cases
from gdmnet.data.splits import ALL, split_for
from gdmnet.errors import CheckpointError, DatasetError, PlanError
from gdmnet.metrics.conventions import EvaluationSettings
from gdmnet.metrics.evaluation import ImagePair, evaluate_pairs, summarise_cases
from gdmnet.metrics.summary import Summary
from gdmnet.models.folder import read_run
from gdmnet.plan import Normalisation, Plan
from gdmnet.training import log

VALIDATION = "validation"
COSTS_JSON = "costs.json"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CaseCosts:
    """What the prediction of one volume cost; costs.json holds those of a folder by case."""

    seconds: float  # from prepared source to written file
    calls: int  # of the network, for all windows and folds
    peak_mb: float | None  # 2^20 bytes of a GPU, else of the process; None if no one can tell
    parameters: int  # of one fold's network


@dataclass(frozen=True)
class ComparedMethod:
    """One method: what it is, its predictions, what they cost."""

    name: str
    facts: MethodFacts
    predictions: Mapping[str, Path]  # by case, on the source's grid
    costs: Mapping[str, CaseCosts] = field(default_factory=dict)  # by case, where they are measured
    folder: Path | None = None  # that keeps summary.json and judge.json


def find_models(
    results: Path,
    dataset: str,
    names: Collection[str] | None = None,
    folds: Collection[str] | None = None,
) -> tuple[list[ComparedMethod], list[str]]:
    """All models with validation predictions, and what was left out and why, a line each.

    `names` are folders of models or patterns such as "gdm__*", `folds` those whose validation
    counts; None is any.

    Raises:
        CheckpointError: there is none.
        PlanError: a plan.json or run.json is damaged.
    """
    found, notes = [], []
    for name, _, configuration, folder in folders.finished_models(results):
        if name != dataset or not any(fnmatchcase(folder.name, one) for one in names or ("*",)):
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
    """Case -> what its prediction in a folder cost; empty where nobody measured."""
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

    `all_folds`: gdm_predict would take just these by itself. `steps` are the sampler's, where it
    does not take its default.
    """
    homes = [folders.fold_folder(model, fold) for fold in folds]
    run = read_run(homes[0])
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
    """Every method's summary: as kept, or made anew where cases or settings are others."""
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

    The judge learns from the training set's targets; with `match`, predictions get the mean and the
    standard deviation of their targets first.
    """
    description = describe_judge(settings, len(cases.training))
    learnt = [case.target for case in cases.training.values() if case.target is not None]
    kept = {}
    for method in methods:
        path = None if method.folder is None else method.folder / JUDGE_JSON
        if path is not None and path.is_file() and not _changed_since(path, *learnt):
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
    if method.folder is None:
        return None
    path = method.folder / folders.SUMMARY_JSON
    images = (image for case in cases.files.values() for image in (case.target, case.mask))
    predictions = (method.predictions[name] for name in cases.files)
    if not path.is_file() or _changed_since(path, *filter(None, images), *predictions):
        return None
    kept = codec.load(Summary, path)
    wanted = settings.convention, settings.match_intensity, set(cases.files)
    is_same = (kept.convention, kept.match_intensity, set(kept.cases)) == wanted
    return kept if is_same else None


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
    target = plan.configurations[configuration].target
    is_all = used == [fold for fold in finished if fold.isdecimal()]
    facts = facts_of(folder, used, target, all_folds=is_all)
    return ComparedMethod(folder.name, facts, predictions), notes


def _unseen(folder: Path, fold: str) -> tuple[dict[str, Path], list[str]]:
    """The fold's predictions of cases it was not trained on, and what is wrong."""
    home = folders.fold_folder(folder, fold)
    if fold == ALL:
        return {}, ["fold all was validated on its training cases: left out"]
    run = read_run(home)
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


@dataclass(frozen=True)
class CaseGroup:
    """Cases that the same folds translate."""

    folder: str  # of their predictions, below a method's
    folds: tuple[str, ...]
    cases: tuple[CaseFiles, ...]


@dataclass(frozen=True)
class ComparisonCases:
    """All cases to judge on, with targets; no case is in two groups."""

    dataset: str
    origin: str  # where they come from, in words
    groups: Sequence[CaseGroup]
    training: dict[str, CaseFiles]  # the training set's, with a target, for the judge; at least one
    channel_names: tuple[str, ...]  # of the sources

    @property
    def files(self) -> dict[str, CaseFiles]:
        """Identifier -> files of all cases, group by group."""
        return {case.identifier: case for group in self.groups for case in group.cases}


def find_held_out(raw: Path, splits: Path, folds: Sequence[str]) -> ComparisonCases:
    """The test cases of a dataset if they have targets, else the validation cases of its folds.

    Test cases are translated by all folds together, a validation case by the one fold that was
    not trained on it. `splits` is the splits_final.json of the trainings.

    Raises:
        DatasetError: a raw file is missing or unknown, or every case is trained on.
    """
    training, description = _read_training(raw)
    found, complaints = test_cases(raw, description)
    if complaints:
        more = len(complaints) - 1
        rest = f" (and {more} more; gdm_check lists all)" if more else ""
        raise DatasetError(f"{raw}: {complaints[0]}{rest}")
    tests = tuple(case for case in found if case.target is not None)
    if tests:
        groups, origin = [CaseGroup("", tuple(folds), tests)], "test cases"
        return ComparisonCases(raw.name, origin, groups, training, description.channel_names)
    groups = []
    for fold in folds:
        split = split_for(fold, splits)
        if split.validates_on_training:
            raise DatasetError(
                f"{raw}: has no test cases with targets (imagesTs, targetsTs), and fold {fold}"
                " trains on every case; choose another fold, or add test cases"
            )
        cases = _with_targets(training, split.validation, raw)
        groups.append(CaseGroup(f"fold_{fold}", (fold,), cases))
    origin = f"validation cases of fold{'s' * (len(groups) > 1)} {', '.join(folds)}"
    return ComparisonCases(raw.name, origin, groups, training, description.channel_names)


def find_validated(raw: Path, identifiers: Sequence[str]) -> ComparisonCases:
    """Training cases that models were validated on.

    Raises:
        DatasetError: a raw file or a target is missing.
    """
    training, description = _read_training(raw)
    groups = [CaseGroup("", (), _with_targets(training, identifiers, raw))]
    origin = "cases that no model was trained on"
    return ComparisonCases(raw.name, origin, groups, training, description.channel_names)


def _read_training(raw: Path) -> tuple[dict[str, CaseFiles], Description]:
    if not raw.is_dir():
        raise DatasetError(
            f"{raw}: no such folder; its images and targets are needed, name the place by --raw"
        )
    description = read_description(raw)
    cases, _ = training_cases(raw, description)  # what is missing matters where it is needed
    found = {case.identifier: case for case in cases if case.target is not None}
    if not found:
        raise DatasetError(f"{raw}: no training case has its target, from which the judge learns")
    return found, description


def _with_targets(
    known: dict[str, CaseFiles], identifiers: Sequence[str], raw: Path
) -> tuple[CaseFiles, ...]:
    missing = [name for name in identifiers if name not in known]
    if missing:
        raise DatasetError(f"{raw}: no target of {', '.join(missing)}; put the files back")
    return tuple(known[name] for name in identifiers)


def _changed_since(made: Path, *images: Path) -> bool:
    """Whether an image was written, or put in its place, after what was made of it."""
    times = (path.stat() for path in images)
    return any(max(s.st_mtime_ns, s.st_ctime_ns) > made.stat().st_mtime_ns for s in times)
