"""One line chart drawn with Pillow: title, axes with ticks, curves, legend."""

from __future__ import annotations

import math
from dataclasses import dataclass

from PIL import ImageDraw, ImageFont

Point = tuple[float, float]
Rectangle = tuple[float, float, float, float]

COLOURS = ("#1f6fb4", "#d9622b", "#2f9464", "#8a4fb0", "#c23b5a", "#7a6a3a")  # readable on white
_INK, _FAINT, _GRID = "#222222", "#6b6b6b", "#e3e3e3"
_N_TICKS = 5
EPOCH = "epoch"
_SMALLEST = 1e-12  # a logarithmic axis shows nothing below


@dataclass(frozen=True)
class Curve:
    """One curve: its name in the legend and its points, in order of x; nan breaks the line."""

    name: str
    points: list[Point]


@dataclass(frozen=True)
class Chart:
    """What a chart shows.

    Attributes:
        title: above it.
        curves: at most as many as there are colours.
        logarithmic: the y axis.
        marks: horizontal dashed lines, always inside the shown range.
        star: one point to point out.
        x_title: below the x axis; epochs are whole numbers, anything else may have fractions.
    """

    title: str
    curves: list[Curve]
    logarithmic: bool = False
    marks: tuple[float, ...] = ()
    star: Point | None = None
    x_title: str = EPOCH


@dataclass(frozen=True)
class Style:
    """Sizes in pixels of the picture being drawn."""

    title: ImageFont.FreeTypeFont
    text: ImageFont.FreeTypeFont
    unit: int


def ticks(low: float, high: float, n_most: int = _N_TICKS) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) from low to high."""
    rough = (high - low) / n_most
    power = 10.0 ** math.floor(math.log10(rough))
    distance = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * (1 - 1e-9))
    first, last = math.ceil(low / distance - 1e-9), math.floor(high / distance + 1e-9)
    return [i * distance for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten from low to high, with 2 and 5 times them or evenly apart where few."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if high / low < 300 else (1,)
    apart = max(1, len(decades) // _N_TICKS)
    values = [m * 10.0**d for d in decades[::apart] for m in steps]
    shown = [value for value in values if low <= value <= high]
    return shown if len(shown) > 2 else ticks(low, high)


def value_range(chart: Chart) -> tuple[float, float]:
    """What the y axis spans: all points and marks and a little more."""
    values = [y for curve in chart.curves for _, y in curve.points if _is_shown(y, chart)]
    values += chart.marks
    if not values:
        values = [1.0]
    low, high = min(values), max(values)
    if chart.logarithmic:
        spare = max((high / low) ** 0.06, 1.05)
        return low / spare, high * spare
    spare = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return low - spare, high + spare


def _is_shown(y: float, chart: Chart) -> bool:
    return math.isfinite(y) and (not chart.logarithmic or y > _SMALLEST)


def draw_chart(canvas: ImageDraw.ImageDraw, chart: Chart, box: Rectangle, style: Style) -> None:
    """Draw a chart into a rectangle (left, top, right, bottom) of a picture."""
    unit = style.unit
    left, top, right, bottom = box
    start, end = left + 62 * unit, right - 14 * unit
    canvas.text((start, top + 6 * unit), chart.title, fill=_INK, font=style.title)
    legend_end = _draw_legend(canvas, chart, (start, top + 27 * unit, end), style)
    plot = (start, legend_end + 6 * unit, end, bottom - 40 * unit)
    axes = _Axes(chart, plot)
    _draw_grid(canvas, axes, style)
    for mark in chart.marks:
        _draw_dashes(canvas, (plot[0], plot[2]), axes.at((0.0, mark))[1], unit)
    for colour, curve in zip(COLOURS, chart.curves, strict=False):
        _draw_curve(canvas, axes, curve, colour, unit)
    if chart.star is not None:
        x, y = axes.at(chart.star)
        radius = 4 * unit
        circle = (x - radius, y - radius, x + radius, y + radius)
        canvas.ellipse(circle, outline=_INK, width=2 * unit)


class _Axes:
    """From values to pixels."""

    def __init__(self, chart: Chart, plot: Rectangle) -> None:
        self.chart, self.plot = chart, plot
        self.low, self.high = value_range(chart)
        last = max((x for curve in chart.curves for x, _ in curve.points), default=1.0)
        self.first, self.last = 0.0, max(1.0, last)

    def at(self, point: Point) -> Point:
        left, top, right, bottom = self.plot
        low, high, y = self.low, self.high, point[1]
        if self.chart.logarithmic:
            low, high, y = math.log(low), math.log(high), math.log(y)
        across = (point[0] - self.first) / (self.last - self.first)
        up = (y - low) / (high - low)
        return left + across * (right - left), bottom - up * (bottom - top)


def _draw_grid(canvas: ImageDraw.ImageDraw, axes: _Axes, style: Style) -> None:
    left, top, right, bottom = axes.plot
    unit = style.unit
    make_ticks = log_ticks if axes.chart.logarithmic else ticks
    for value in make_ticks(axes.low, axes.high):
        y = axes.at((0.0, value))[1]
        canvas.line((left, y, right, y), fill=_GRID, width=unit)
        label = f"{value:.4g}"
        canvas.text((left - 6 * unit, y), label, fill=_FAINT, font=style.text, anchor="rm")
    for value in ticks(axes.first, axes.last):
        if axes.chart.x_title == EPOCH and value != round(value):
            continue
        x = axes.at((value, axes.high))[0]
        canvas.line((x, bottom, x, bottom + 4 * unit), fill=_FAINT, width=unit)
        label = f"{value:.3g}"
        canvas.text((x, bottom + 7 * unit), label, fill=_FAINT, font=style.text, anchor="ma")
    middle = ((left + right) / 2, bottom + 22 * unit)
    canvas.text(middle, axes.chart.x_title, fill=_FAINT, font=style.text, anchor="ma")
    canvas.line((left, top, left, bottom, right, bottom), fill=_FAINT, width=unit)


def _draw_curve(
    canvas: ImageDraw.ImageDraw, axes: _Axes, curve: Curve, colour: str, unit: int
) -> None:
    run: list[Point] = []
    runs = [run]
    for x, y in curve.points:
        if _is_shown(y, axes.chart):
            run.append(axes.at((x, y)))
        else:
            run = []
            runs.append(run)
    for part in runs:
        if len(part) > 1:
            canvas.line(part, fill=colour, width=2 * unit, joint="curve")
    if len(curve.points) <= 30:  # a short training is seen epoch by epoch
        for x, y in (point for part in runs for point in part):
            canvas.ellipse((x - 2.5 * unit, y - 2.5 * unit, x + 2.5 * unit, y + 2.5 * unit), colour)


def _draw_dashes(
    canvas: ImageDraw.ImageDraw, span: tuple[float, float], y: float, unit: int
) -> None:
    x = span[0]
    while x < span[1]:
        canvas.line((x, y, min(x + 6 * unit, span[1]), y), fill=_FAINT, width=unit)
        x += 11 * unit


def _draw_legend(
    canvas: ImageDraw.ImageDraw, chart: Chart, place: tuple[float, float, float], style: Style
) -> float:
    """Names of several curves in lines above the plot, where they hide nothing.

    Args:
        canvas: of the picture.
        chart: whose curves are named.
        place: left, top and right edge.
        style: of the picture.

    Returns:
        The lower edge.
    """
    left, top, right = place
    unit, line = style.unit, 17 * style.unit
    if len(chart.curves) < 2:
        return top + line
    x, y = left, top + line / 2
    for colour, curve in zip(COLOURS, chart.curves, strict=False):
        width = style.text.getlength(curve.name) + 36 * unit
        if x > left and x + width > right:
            x, y = left, y + line
        canvas.line((x, y, x + 16 * unit, y), fill=colour, width=3 * unit)
        canvas.text((x + 21 * unit, y), curve.name, fill=_INK, font=style.text, anchor="lm")
        x += width
    return y + line / 2
