"""The charts of a comparison: fidelity, plausibility and time against each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from gdmnet.report.charts import Axis, Frame, dot, line, number
from gdmnet.report.contest import FIDELITY, PLAUSIBILITY
from gdmnet.report.figures import figure
from gdmnet.report.pareto import pareto_front
from gdmnet.report.study import Figures, Scope, Study
from gdmnet.training.chart import COLOURS

_FIDELITY, _PLAUSIBILITY, _SECONDS = "MAE [{units}]", "implausibility", "seconds a volume"
_ROOM = 0.12  # of an axis beyond its outermost points
_LINE = 14  # pixels from a name to the next
_WIDE = 3.0  # largest over smallest: from here on an axis of seconds is logarithmic


@dataclass(frozen=True)
class _Dot:
    name: str
    x: float
    y: float
    colour: int
    is_best: bool


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
                dots.append(_Dot(name, across, up, colour, name in scope.front))
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


def _colour(study: Study, name: str) -> int:
    """One an objective, in the order in which they come up."""
    objectives = list(dict.fromkeys(facts.objective for facts in study.methods.values()))
    return objectives.index(study.methods[name].objective) % len(COLOURS)


def _chart(title: str, x: str, y: str, dots: Sequence[_Dot]) -> str:
    frame = Frame(_axis(x, [d.x for d in dots]), _axis(y, [d.y for d in dots]))
    front = pareto_front({d.name: (d.x, d.y) for d in dots})
    steps = sorted((d.x, d.y) for d in dots if d.name in front)
    parts = [line(frame, _stairs(steps), 5, dashed=True)]
    parts += [dot(frame, (d.x, d.y), d.colour, hollow=not d.is_best) for d in dots]
    parts += _names(frame, dots)
    told = "; ".join(f"{escape(d.name)} {number(d.x)}, {number(d.y)}" for d in dots)
    text = f"{escape(x)}, {escape(y)}: {told}."
    return figure(title, frame, parts, text)


def _axis(title: str, values: Sequence[float]) -> Axis:
    low, high = min(values), max(values)
    if title == _SECONDS and low > 0 and high / low > _WIDE:
        ends = 10.0 ** math.floor(math.log10(low / 1.1)), 10.0 ** math.ceil(math.log10(high * 1.1))
        return Axis(title, *ends, logarithmic=True)
    room = _ROOM * (high - low) or 0.05 * abs(high) or 1.0
    return Axis(title, low - room, high + room)


def _stairs(front: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """From each point of the front across to the next one's x, then down to it."""
    corners = []
    for (x, y), (next_x, _) in pairwise(front):
        corners += [(x, y), (next_x, y)]
    return [*corners, *front[-1:]]


def _names(frame: Frame, dots: Sequence[_Dot]) -> list[str]:
    """Every name beside its dot, on the side with more room, none upon another."""
    placed: list[tuple[bool, float, float]] = []
    written = []
    middle = (frame.across(frame.x.low) + frame.across(frame.x.high)) / 2
    for d in sorted(dots, key=lambda d: frame.down(d.y)):
        across, down = frame.across(d.x), frame.down(d.y)
        on_the_right = across <= middle
        taken = [y for side, x, y in placed if side == on_the_right and abs(x - across) < middle]
        at = max([down + 4, *(y + _LINE for y in taken if y + _LINE > down + 4 - _LINE)])
        placed.append((on_the_right, across, at))
        anchor, shift = ("start", 8) if on_the_right else ("end", -8)
        written.append(
            f'<text x="{across + shift:.1f}" y="{at:.1f}" text-anchor="{anchor}">'
            f"{escape(d.name)}</text>"
        )
    return written
