"""Methods with their predictions to a comparison: scored, judged, tested against each other."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from statistics import fmean

from gdmnet import __version__, codec
from gdmnet.compare.methods import ComparedMethod, ComparisonCases, find_summaries, find_verdicts
from gdmnet.compare.page import comparison_page
from gdmnet.compare.record import (
    COMPARED,
    CRITERIA,
    Comparison,
    MethodFigures,
    add_criteria,
    find_best,
    find_winners,
    paired_metrics,
    pareto_front,
)
from gdmnet.compare.settings import ComparisonSettings, JudgeSettings, JudgingSettings
from gdmnet.compare.tables import as_text
from gdmnet.compare.verdict import JudgeVerdict
from gdmnet.metrics.statistics import SIGNIFICANT, Values, aggregate_cases
from gdmnet.metrics.summary import Summary

COMPARE_JSON, COMPARE_TXT, COMPARE_HTML = "compare.json", "compare.txt", "compare.html"


def compare(
    methods: Sequence[ComparedMethod],
    cases: ComparisonCases,
    judging: JudgingSettings,
    home: Path,
    *,
    settings: ComparisonSettings | None = None,
    notes: Sequence[str] = (),
    n_processes: int,
) -> Comparison:
    """Score and judge predictions, put the methods beside each other, and write all that to `home`.

    Settings are those of trainings that were made for it; notes say what was left out.

    Raises:
        GdmnetError: an image that cannot be read or scored, an output that cannot be written.
    """
    evaluation = judging.evaluation(in_hu=all(method.facts.in_hu for method in methods))
    seed = 0 if settings is None else settings.seed
    judge = JudgeSettings(iterations=judging.judge_iterations, seed=seed)
    match = evaluation.match_intensity is not None
    summaries = find_summaries(methods, cases, evaluation, n_processes=n_processes)
    verdicts = find_verdicts(methods, cases, judge, match=match)
    compared = _put_together(methods, cases, summaries, verdicts)
    compared = replace(compared, settings=settings, notes=(*notes, *_notes(compared)))
    page = comparison_page(compared, methods, cases, summaries, n_processes=n_processes)
    codec.save(compared, home / COMPARE_JSON, private=True)
    codec.write_text(home / COMPARE_TXT, as_text(compared) + "\n", private=True)
    codec.write_text(home / COMPARE_HTML, page, private=True)
    return compared


def _put_together(
    methods: Sequence[ComparedMethod],
    cases: ComparisonCases,
    summaries: Mapping[str, Summary],
    verdicts: Mapping[str, JudgeVerdict],
) -> Comparison:
    values = {
        method.name: {case: dict(summaries[method.name].cases[case]) for case in cases.files}
        for method in methods
    }
    in_hu = all(method.facts.in_hu for method in methods)
    add_criteria(values, in_hu=in_hu)
    figures = {m.name: _figures(m, values[m.name], verdicts[m.name]) for m in methods}
    gdm = (method.name for method in methods if method.facts.objective == "gdm")
    reference = next(gdm, methods[0].name)
    rivals = {name: rival for name, rival in values.items() if name != reference}
    own, now = summaries[reference], datetime.now().astimezone().isoformat(" ", "minutes")
    return Comparison(
        version=__version__,
        dataset=cases.dataset,
        cases_from=cases.origin,
        cases=tuple(cases.files),
        convention=own.convention,
        match_intensity=own.match_intensity,
        units="HU" if in_hu else "%",
        mask=own.mask,
        facts={method.name: method.facts for method in methods},
        figures=figures,
        reference=reference,
        against={name: paired_metrics(rival, values[reference]) for name, rival in rivals.items()},
        best={criterion: find_best(values, criterion) for criterion in CRITERIA},
        winners=find_winners(values, COMPARED),
        front=pareto_front(_coordinates(figures)),
        made={"command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]), "date": now},
    )


def _figures(
    method: ComparedMethod, cases: dict[str, Values], verdict: JudgeVerdict
) -> MethodFigures:
    costs = [method.costs[case] for case in cases if case in method.costs]
    peaks = [one.peak_mb for one in costs if one.peak_mb is not None]
    return MethodFigures(
        cases=cases,
        aggregate=aggregate_cases(cases),
        verdict=verdict,
        seconds=fmean(one.seconds for one in costs) if costs else None,
        calls=fmean(one.calls for one in costs) if costs else None,
        peak_mb=max(peaks, default=None),
        parameters=max((one.parameters for one in costs), default=None),
    )


def _coordinates(figures: Mapping[str, MethodFigures]) -> dict[str, tuple[float | None, ...]]:
    """Fidelity, implausibility and, where they are known, network calls of a case.

    Calls, not seconds: two methods of equal cost must not differ by the noise of a clock.
    """
    has_calls = all(one.calls is not None for one in figures.values())
    return {
        name: (
            *(one.aggregate[criterion]["mean"] for criterion in CRITERIA),
            *((one.calls,) if has_calls else ()),
        )
        for name, one in figures.items()
    }


def _notes(compared: Comparison) -> list[str]:
    """What the figures cannot show."""
    notes, n_cases = [], len(compared.cases)
    if compared.units == "%":
        notes.append("MAE in % of each reference's range (its percentiles 0.5 to 99.5)")
        if compared.match_intensity is None:
            notes.append(
                "the target has no unit: errors hold every difference of overall brightness and"
                " contrast; --match-intensity linear takes it out"
            )
    if compared.match_intensity is not None:
        notes.append(
            "errors are those after a linear fit to each target; sharpness, plausibility and"
            " Frechet have the target's mean and standard deviation instead, because a fit dulls"
            " what agrees less"
        )
    if len(compared.figures) == 1:
        return [*notes, "there is only one method: nothing to compare it with"]
    least = 2.0 ** (1 - n_cases)
    if least >= SIGNIFICANT:
        cases = f"with {n_cases} case{'s' * (n_cases > 1)} p cannot be below {least:g}"
        notes.append(f"{cases}: no difference can be significant")
    return [
        *notes,
        "differences come with the 95 % bootstrap interval of their mean and p of Wilcoxon's"
        " signed-rank test over the cases, not corrected for the number of comparisons",
        "one training a method: differences between seeds are not measured, and may be as large",
    ]
