"""A comparison as the report's page, with a panel a method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from html import escape

from gdmnet.compare.cases import ComparisonCases
from gdmnet.compare.charts import scatter_figures
from gdmnet.compare.methods import ComparedMethod
from gdmnet.compare.record import Comparison
from gdmnet.compare.tables import (
    FRONT,
    WINNER,
    as_html,
    best_methods,
    methods_table,
    paired_table,
    shared_facts,
)
from gdmnet.metrics.summary import Summary
from gdmnet.parallel import map_cases
from gdmnet.report.cases import ReportCase
from gdmnet.report.page import ReportPage, render
from gdmnet.report.provenance import Origin
from gdmnet.report.view import case_page

_READING = (
    f"<p>Blue: {WINNER}. A dot after the name: {FRONT}. Implausibility is the distance from the"
    " real images in histogram, gradients, spectrum, edge width and sharpness, as a share of these"
    " methods' mean: 1 is average, 0.8 nearer by a fifth.</p>"
)
_TESTS = "<p>Paired over the cases: mean difference, its 95 % bootstrap interval, Wilcoxon's p.</p>"


def comparison_page(
    compared: Comparison,
    methods: Sequence[ComparedMethod],
    cases: ComparisonCases,
    summaries: Mapping[str, Summary],
    *,
    n_processes: int,
) -> str:
    """The HTML file's text.

    Args:
        compared: what was found.
        methods: with their predictions, in the order of the panels.
        cases: with sources and targets.
        summaries: of every method.
        n_processes: that pack the images.

    Raises:
        DatasetError: an image cannot be read.
    """
    shown = [
        ReportCase(
            name,
            {method.name: method.predictions[name] for method in methods},
            target=files.target,
            sources=files.sources,
            mask=files.mask,
        )
        for name, files in cases.files.items()
    ]
    pages = map_cases(
        partial(
            case_page,
            channel_names=cases.channel_names,
            summaries=dict(summaries),
            convention=compared.convention,
        ),
        shown,
        n_processes=n_processes,
        name=lambda case: case.identifier,
        title="packing",
    )
    return render(
        ReportPage(
            title=f"{compared.dataset}: methods compared",
            cases=tuple(pages),
            summaries=summaries,
            origin=Origin(tuple(shared_facts(compared))),
            made=(("gdmnet", compared.version), *compared.made.items()),
            methods=_methods(compared),
        )
    )


def _methods(compared: Comparison) -> str:
    notes = "".join(f"<li>{escape(note)}" for note in compared.notes)
    best = "".join(
        f"<li><b>{escape(first)}</b>: <code>{escape(command)}</code><br>"
        + "<br>".join(map(escape, rest))
        for first, command, *rest in best_methods(compared)
    )
    tests = ""
    if compared.against:
        table = as_html(paired_table(compared))
        tests = f"<h3>Against {escape(compared.reference)}</h3>{_TESTS}{table}"
    return (
        f'<div class="notice"><ul>{notes}</ul></div>{as_html(methods_table(compared))}{_READING}'
        f'<ul>{best}</ul><div class="charts">{"".join(scatter_figures(compared))}</div>{tests}'
    )
