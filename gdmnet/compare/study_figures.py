"""The charts of a comparison: fidelity, plausibility and time against each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING

from gdmnet.charts import COLOURS, FAINT, Dot, draw_dots, set_logarithmic
from gdmnet.compare.contest import FIDELITY, PLAUSIBILITY
from gdmnet.compare.pareto import pareto_front
from gdmnet.compare.study import Figures, Scope, Study
from gdmnet.report.figures import figure, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FIDELITY, _PLAUSIBILITY, _SECONDS = "MAE [{units}]", "implausibility", "seconds a volume"
_WIDE = 3.0  # largest over smallest: from here on an axis of seconds is logarithmic


def scatter_figures(study: Study, scope: Scope) -> list[str]:
    """Fidelity against plausibility, then seconds against either; lower left is better.

    Filled dots are on the Pareto front of fidelity, plausibility and network calls; the dashed
    line is the front of the chart's own two axes.
    """
    fidelity = _FIDELITY.format(units=study.units)
    x_y = (
        ("Fidelity and plausibility", fidelity, _PLAUSIBILITY),
        ("Time and fidelity", _SECONDS, fidelity),
        ("Time and plausibility", _SECONDS, _PLAUSIBILITY),
    )
    values = {name: _values(figures, fidelity) for name, figures in scope.methods.items()}
    charts = []
    for title, x, y in x_y:
        dots = []
        for name, own in values.items():
            across, up = own[x], own[y]
            if across is not None and up is not None:
                colour = _colour(study, name)
                dots.append(Dot(name, across, up, colour, filled=name in scope.front))
        if dots:
            charts.append(_chart(title, x, y, dots))
    return charts


def _values(figures: Figures, fidelity: str) -> dict[str, float | None]:
    means = figures.aggregate
    return {
        fidelity: means[FIDELITY]["mean"],
        _PLAUSIBILITY: means[PLAUSIBILITY]["mean"],
        _SECONDS: figures.seconds,
    }


def _colour(study: Study, name: str) -> str:
    """One an objective, in the order in which they come up."""
    objectives = list(dict.fromkeys(facts.objective for facts in study.methods.values()))
    return COLOURS[objectives.index(study.methods[name].objective) % len(COLOURS)]


def _chart(title: str, x: str, y: str, dots: Sequence[Dot]) -> str:
    front = pareto_front({d.name: (d.x, d.y) for d in dots})
    steps = sorted((d.x, d.y) for d in dots if d.name in front)

    def draw(axes: Axes) -> None:
        axes.plot(*zip(*_stairs(steps), strict=True), color=FAINT, linestyle="--", linewidth=1.2)
        if x == _SECONDS and min(d.x for d in dots) * _WIDE < max(d.x for d in dots):
            set_logarithmic(axes, "x")
        axes.set(xlabel=x, ylabel=y)
        draw_dots(axes, _named_once(dots))

    values = "; ".join(f"{escape(d.name)} {number(d.x)}, {number(d.y)}" for d in dots)
    return figure(title, draw, f"{escape(x)}, {escape(y)}: {values}.")


def _stairs(front: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """From each point of the front across to the next one's x, then down to it."""
    corners = []
    for (x, y), (next_x, _) in pairwise(front):
        corners += [(x, y), (next_x, y)]
    return [*corners, *front[-1:]]


def _named_once(dots: Sequence[Dot]) -> list[Dot]:
    """Of a variant with several numbers of steps the first is named, others say how many."""
    named: set[str] = set()
    shown = []
    for dot in dots:
        variant, _, steps = dot.name.rpartition(", ")
        shown.append(replace(dot, name=steps.split()[0]) if variant in named - {""} else dot)
        named.add(variant)
    return shown
