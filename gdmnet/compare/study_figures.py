"""The charts of a comparison: fidelity, plausibility and time against each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from gdmnet.compare.contest import FIDELITY, PLAUSIBILITY
from gdmnet.compare.pareto import pareto_front
from gdmnet.compare.study import Figures, Scope, Study
from gdmnet.report.charts import Axis, Frame, dot, line, number
from gdmnet.report.figures import figure
from gdmnet.training.chart import COLOURS

_FIDELITY, _PLAUSIBILITY, _SECONDS = "MAE [{units}]", "implausibility", "seconds a volume"
_ROOM = 0.12  # of an axis beyond its outermost points
_LETTER = 7.0  # pixels of a letter of 12 pixels, about
_SHIFTS = (0, -13, 13, -26, 26, -39, 39)  # pixels up or down, where a name may go
_WIDE = 3.0  # largest over smallest: from here on an axis of seconds is logarithmic


_Box = tuple[float, float, float, float]  # left, top, right, bottom


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
    """Every name beside its dot, where it covers neither dots nor other names if that can be.

    Of a variant with several numbers of steps the first is named, the others only say how many.
    """
    at = {d.name: (frame.across(d.x), frame.down(d.y)) for d in dots}
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in at.values()]
    left, right = frame.across(frame.x.low), frame.across(frame.x.high)
    top, bottom = frame.down(frame.y.high), frame.down(frame.y.low)
    written: list[str] = []
    named: set[str] = set()
    for d in dots:
        x, y = at[d.name]
        variant, _, steps = d.name.rpartition(", ")
        name = steps.split()[0] if variant and variant in named else d.name
        named.add(variant)
        places = [_place(x, y + shift, name, side) for shift in _SHIFTS for side in (1, -1)]
        inside = [p for p in places if _holds((left, top, right, bottom), p)] or places
        box = next((p for p in inside if not any(_overlap(p, other) for other in taken)), inside[0])
        taken.append(box)
        written.append(f'<text x="{box[0]:.1f}" y="{box[3] - 3:.1f}">{escape(name)}</text>')
    return written


def _place(x: float, y: float, name: str, side: int) -> _Box:
    """The box of a name to the right (1) or the left (-1) of (x, y)."""
    width = _LETTER * len(name)
    left = x + 8 if side > 0 else x - 8 - width
    return left, y - 7, left + width, y + 7


def _holds(outer: _Box, inner: _Box) -> bool:
    return (
        outer[0] <= inner[0]
        and outer[1] <= inner[1]
        and inner[2] <= outer[2]
        and inner[3] <= outer[3]
    )


def _overlap(first: _Box, second: _Box) -> bool:
    return (
        first[0] < second[2]
        and second[0] < first[2]
        and first[1] < second[3]
        and second[1] < first[3]
    )
