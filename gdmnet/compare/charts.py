"""The charts of a comparison: fidelity, plausibility and time against each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from html import escape
from typing import TYPE_CHECKING

from gdmnet.charts import COLOURS, FAINT, Dot, draw_dots, set_logarithmic
from gdmnet.compare.record import FIDELITY, PLAUSIBILITY, Comparison
from gdmnet.compare.statistics import pareto_front
from gdmnet.report.figures import figure, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SECONDS = "seconds a volume"
_WIDE = 3.0  # largest over smallest: from here on an axis of seconds is logarithmic


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

    def draw(axes: Axes) -> None:
        axes.step(*zip(*steps, strict=True), FAINT, where="post", linestyle="--", linewidth=1.2)
        if x == _SECONDS and min(dot.x for dot in dots) * _WIDE < max(dot.x for dot in dots):
            set_logarithmic(axes, "x")
        axes.set(xlabel=x, ylabel=y)
        draw_dots(axes, _named_once(dots))

    values = "; ".join(f"{escape(d.name)} {number(d.x)}, {number(d.y)}" for d in dots)
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
