"""A comparison as the report's page: tables, scatter charts, a panel a method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from gdmnet.charts import COLOURS, FAINT, Dot, draw_dots, set_logarithmic
from gdmnet.compare.methods import ComparedMethod, ComparisonCases
from gdmnet.compare.record import FIDELITY, PLAUSIBILITY, Comparison, pareto_front
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
from gdmnet.report.cases import ReportCase
from gdmnet.report.figures import figure
from gdmnet.report.page import pack_and_render
from gdmnet.report.provenance import Origin

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SECONDS = "seconds a volume"
_WIDE = 3.0  # largest over smallest: from here on an axis of seconds is logarithmic
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
    """The HTML file's text; panels are in the methods' order.

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
    origin = Origin(tuple(shared_facts(compared)), channel_names=cases.channel_names)
    what = shown, summaries, origin, compared.made
    how: dict[str, Any] = {"convention": compared.convention, "n_processes": n_processes}
    title = f"{compared.dataset}: methods compared"
    return pack_and_render(title, *what, methods=_methods(compared), **how)


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


def scatter_figures(compared: Comparison) -> list[str]:
    """Fidelity against plausibility, then seconds against either; lower left is better.

    Filled dots are on the Pareto front of fidelity, plausibility and network calls; the dashed
    line is the front of the chart's own two axes. Colours are those of objectives.
    """
    figures = compared.figures
    fidelity, plausibility = (
        {name: one.aggregate[criterion]["mean"] for name, one in figures.items()}
        for criterion in (FIDELITY, PLAUSIBILITY)
    )
    seconds = {name: one.seconds for name, one in figures.items()}
    mae, objectives = f"MAE [{compared.units}]", [f.objective for f in compared.facts.values()]
    colours = dict(zip(dict.fromkeys(objectives), COLOURS * len(objectives), strict=False))
    charts = []
    for title, (x, across), (y, up) in (
        ("Fidelity and plausibility", (mae, fidelity), ("implausibility", plausibility)),
        ("Time and fidelity", (_SECONDS, seconds), (mae, fidelity)),
        ("Time and plausibility", (_SECONDS, seconds), ("implausibility", plausibility)),
    ):
        dots = []
        for name, facts in compared.facts.items():
            own_x, own_y, filled = across[name], up[name], name in compared.front
            if own_x is not None and own_y is not None:
                dots.append(Dot(name, own_x, own_y, colours[facts.objective], filled=filled))
        if dots:
            charts.append(_scatter(title, x, y, dots))
    return charts


def _scatter(title: str, x: str, y: str, dots: Sequence[Dot]) -> str:
    front = pareto_front({dot.name: (dot.x, dot.y) for dot in dots})
    steps = sorted((dot.x, dot.y) for dot in dots if dot.name in front)
    corners = [(after[0], before[1]) for before, after in pairwise(steps)]
    stairs = sorted([*steps, *corners], key=lambda point: (point[0], -point[1]))

    def draw(axes: Axes) -> None:
        axes.plot(*zip(*stairs, strict=True), color=FAINT, linestyle="--", linewidth=1.2)
        if x == _SECONDS and min(dot.x for dot in dots) * _WIDE < max(dot.x for dot in dots):
            set_logarithmic(axes, "x")
        axes.set(xlabel=x, ylabel=y)
        draw_dots(axes, _named_once(dots))

    values = "; ".join(f"{escape(d.name)} {d.x:.4g}, {d.y:.4g}" for d in dots)
    return figure(title, draw, f"{escape(x)}, {escape(y)}: {values}.")


def _named_once(dots: Sequence[Dot]) -> list[Dot]:
    """Of a variant with several numbers of steps the first is named, others say how many."""
    named: set[str] = set()
    shown = []
    for dot in dots:
        variant, _, steps = dot.name.rpartition(", ")
        shown.append(replace(dot, name=steps.split()[0]) if variant in named - {""} else dot)
        named.add(variant)
    return shown
