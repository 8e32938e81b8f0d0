"""What gdm_compare finds: scores and verdicts, made where they are missing, and their facts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from gdmnet import codec, folders
from gdmnet.compare.bench import Bench
from gdmnet.compare.costs import Costs, read_costs
from gdmnet.compare.judge import Judge, make_judge
from gdmnet.compare.judge_file import load_judge, save_judge
from gdmnet.compare.study import Found, MethodFacts
from gdmnet.compare.subjects import SubjectFiles, Subjects
from gdmnet.compare.variant import Method
from gdmnet.compare.verdict import Verdict, give_verdict
from gdmnet.data.case import CaseFiles
from gdmnet.metrics.folders import Options as ScoreOptions
from gdmnet.metrics.folders import evaluate_pair
from gdmnet.metrics.pairs import Pair
from gdmnet.metrics.statistics import Values
from gdmnet.metrics.summary import Summary, summarise
from gdmnet.parallel import map_cases
from gdmnet.plan import Run
from gdmnet.training import log

JUDGE_PT, JUDGE_JSON = "judge.pt", "judge.json"
_log = logging.getLogger(__name__)


def find(
    bench: Bench, methods: Sequence[Method], scope: str, options: ScoreOptions
) -> dict[str, Found]:
    """All that is measured of some methods on the images of one scope."""
    summaries = score(bench, methods, scope, options)
    verdicts = judge(bench, methods, scope, match=options.match_intensity is not None)
    return {
        method.name: Found(
            summaries[method.name], costs_of(bench, method, scope), verdicts[method.name]
        )
        for method in methods
    }


def score(
    bench: Bench, methods: Sequence[Method], scope: str, options: ScoreOptions
) -> dict[str, Summary]:
    """Every method's summary: as kept, or made anew where cases or options are others."""
    summaries, missing = {}, []
    for method in methods:
        path = bench.predictions(method, scope) / folders.SUMMARY_JSON
        kept = codec.load(Summary, path) if path.is_file() else None
        if kept is not None and _is_as_asked(kept, bench, options):
            summaries[method.name] = kept
        else:
            missing += [
                (method, Pair(name, prediction, case.target, case.mask, None))
                for name, (case, prediction) in bench.predicted(method, scope).items()
                if case.target is not None
            ]
    results = map_cases(
        partial(_score, options),
        [pair for _, pair in missing],
        n_processes=options.n_processes,
        name=lambda pair: f"{pair.identifier} ({pair.prediction.parent})",
        title="scoring",
    )
    found: dict[Method, dict[str, tuple[Values, str]]] = {}
    for (method, pair), result in zip(missing, results, strict=True):
        found.setdefault(method, {})[pair.identifier] = result
    for method, cases in found.items():
        home = bench.predictions(method, scope)
        (home / JUDGE_JSON).unlink(missing_ok=True)
        rules = sorted({rule for _, rule in cases.values()})
        summary = summarise(
            {name: values for name, (values, _) in cases.items()},
            units="as in the references' files (CT: HU)",
            mask=", ".join(rules),
            convention=options.convention,
            match_intensity=options.match_intensity,
        )
        codec.save(summary, home / folders.SUMMARY_JSON)
        summaries[method.name] = summary
    return summaries


def find_judge(bench: Bench) -> Judge:
    """The judge of all methods: as kept, or trained on the real targets of the training set."""
    path = bench.home / JUDGE_PT
    if not path.is_file():
        settings = bench.settings
        _log.info("judge: %d steps on real images", settings.judge_iterations)
        reals = Subjects({name: _real(case) for name, case in bench.held_out.real.items()})
        made = make_judge(reals, iterations=settings.judge_iterations, seed=settings.seed)
        save_judge(made, path)
    return load_judge(path)


def judge(
    bench: Bench, methods: Sequence[Method], scope: str, *, match: bool
) -> dict[str, Verdict]:
    """Every method's verdict: as kept, or given now."""
    verdicts = {}
    for method in methods:
        path = bench.predictions(method, scope) / JUDGE_JSON
        if not path.is_file():
            cases = bench.predicted(method, scope)
            subjects = Subjects(
                {name: _real(case, prediction) for name, (case, prediction) in cases.items()}
            )
            others = Subjects(
                {n: _real(case) for n, case in bench.held_out.real.items() if n not in cases}
            )
            _log.info("judging %s", method.name)
            seed = bench.settings.seed
            verdict = give_verdict(find_judge(bench), subjects, others, match=match, seed=seed)
            codec.save(verdict, path)
        verdicts[method.name] = codec.load(Verdict, path)
    return verdicts


def costs_of(bench: Bench, method: Method, scope: str) -> Costs:
    """What the predictions of all groups cost."""
    home = bench.predictions(method, scope)
    all_costs = [read_costs(home / group.folder) for group in bench.held_out.groups]
    known = [costs for costs in all_costs if costs is not None]
    cases = {name: one for costs in known for name, one in costs.cases.items()}
    return replace(known[0], cases=cases)


def facts_of(bench: Bench, method: Method, costs: Costs) -> MethodFacts:
    """What a method is, from its run.json and its logs."""
    model = bench.model(method.variant)
    homes = [folders.fold_folder(model, fold) for fold in bench.settings.folds]
    logs = [log.read(home) for home in homes]
    run = codec.load(Run, homes[0] / folders.RUN_JSON)
    seconds = [sum(record["seconds"] for record in records) for records in logs]
    return MethodFacts(
        objective=method.variant.objective,
        options=method.variant.options,
        steps=costs.steps,
        model=str(model),
        training_steps=max(records[-1]["step"] for records in logs),
        training_seconds=sum(seconds) / len(seconds),
        encoder=run.encoder,
        parameters=costs.parameters,
        calls_a_window=costs.calls_a_window,
        folds=costs.folds,
        device=costs.device,
        precision=costs.precision,
    )


def _score(options: ScoreOptions, pair: Pair) -> tuple[Values, str]:
    scored = evaluate_pair(options, pair)
    return scored.values, scored.rule


def _is_as_asked(summary: Summary, bench: Bench, options: ScoreOptions) -> bool:
    cases = {case.identifier for case in bench.held_out.cases}
    return (
        set(summary.cases) == cases
        and summary.convention == options.convention
        and summary.match_intensity == options.match_intensity
    )


def _real(case: CaseFiles, prediction: Path | None = None) -> SubjectFiles:
    assert case.target is not None
    return SubjectFiles(case.target, prediction, case.mask)
