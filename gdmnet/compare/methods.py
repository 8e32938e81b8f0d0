"""Methods as they are compared: what each is, its predictions, scores and a judge's verdicts."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from gdmnet import codec, folders
from gdmnet.compare.cases import ComparisonCases
from gdmnet.compare.costs import CaseCosts
from gdmnet.compare.judge import Subjects, describe_judge, make_judge
from gdmnet.compare.record import MethodFacts
from gdmnet.compare.settings import JUDGE_JSON, JudgeSettings
from gdmnet.compare.verdict import JudgeVerdict, give_verdict
from gdmnet.metrics.conventions import EvaluationSettings
from gdmnet.metrics.evaluation import ImagePair, evaluate_pairs, summarise_cases
from gdmnet.metrics.summary import Summary
from gdmnet.plan import Normalisation, Run
from gdmnet.training import log

_log = logging.getLogger(__name__)


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
