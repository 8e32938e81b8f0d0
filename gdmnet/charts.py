"""Charts: drawn by matplotlib, as PNG pictures or as SVG inside pages.

matplotlib is imported when something is drawn: commands that draw nothing do not wait for it.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gdmnet.files import whole_file

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

Point = tuple[float, float]

COLOURS = ("#1f6fb4", "#d9622b", "#2f9464", "#8a4fb0", "#c23b5a", "#7a6a3a")  # readable on white
INK, FAINT = "#222222", "#6b6b6b"
EPOCH = "epoch"
_DENSITY = ("#d9e7f3", "#569ccd", "#102a60")  # few to many: dark on white
_SVG_INCHES, _PANEL_INCHES = (5.8, 4.2), (4.4, 3.0)  # 72 units of an SVG, 100 pixels of a PNG each
_TITLE_INCHES = 0.35  # above a picture
_SHEET_COLUMNS, _SHEET_INCHES = 6, 2.3  # of a contact sheet, and the width of its pictures
_FEW = 30  # a curve of so few points is seen point by point
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same widths everywhere
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.edgecolor": FAINT,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "axes.unicode_minus": False,  # as in the words below a chart
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": "#e3e3e3",
    "lines.linewidth": 1.8,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "text.parse_math": False,  # names of files and methods may hold dollars
    "svg.fonttype": "none",
}
_NOISE = (  # of matplotlib's SVG, where it stands inside a page
    (re.compile(r"<style.*?</style>", re.DOTALL), ""),
    (re.compile(r' id="(?![mp][0-9a-f]{10}")[^"]*"'), ""),  # but those of markers and clip paths
    (re.compile(r"font-family: 'DejaVu Sans'; "), ""),  # the page's
    (re.compile(r' transform="rotate\(-0 [^"]*"'), ""),
    (re.compile(r"\s*\n\s*"), " "),
    (re.compile(r"> <"), "><"),
)
_TAG, _LONG_NUMBER = re.compile(r"<[^>]*>"), re.compile(r"(\.\d\d\d)\d+")
_SHIFTS = (0, -13, 13, -26, 26, -39, 39)  # points up or down, where a dot's name may go


@dataclass(frozen=True)
class Curve:
    """One curve."""

    name: str  # in the legend
    points: list[Point]  # in order of x; nan breaks the line


@dataclass(frozen=True)
class Chart:
    """Curves over the same axis, in the order of the legend, under a title."""

    title: str
    curves: list[Curve]
    logarithmic: bool = False  # the y axis; values of 0 and less are then left out
    marks: tuple[float, ...] = ()  # y of horizontal dashed lines, always inside the shown range
    star: Point | None = None  # to point out
    x_title: str = EPOCH  # epochs are whole numbers, anything else may have fractions


@dataclass(frozen=True)
class Picture:
    """A plane in grey under its title."""

    title: str
    image: NDArray  # (y, x)
    low: float  # shown black
    high: float  # shown white
    aspect: float = 1.0  # height of a pixel / its width


@dataclass(frozen=True)
class Dot:
    """A named point of a scatter chart; hollow unless it is filled."""

    name: str
    x: float
    y: float
    colour: str = COLOURS[0]
    filled: bool = True


def as_svg(draw: Callable[[Axes], None], *, title: str, text: str) -> str:
    """A chart, drawn into empty axes, as an SVG element for a page; the same one is the same text.

    Title and text name the chart to those who cannot see it, and say what it shows.
    """
    from matplotlib.figure import Figure

    file = io.StringIO()
    with chart_style({"svg.hashsalt": f"{title} {text}"}):
        figure = Figure(_SVG_INCHES, layout="constrained")
        draw(figure.add_subplot())
        unsaid = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=unsaid)
    svg = file.getvalue()
    for pattern, instead in _NOISE:
        svg = pattern.sub(instead, svg)
    svg = _TAG.sub(lambda tag: _LONG_NUMBER.sub(r"\1", tag[0]), svg)
    width, height = (72 * inches for inches in _SVG_INCHES)
    words = f"<title>{escape(title)}</title><desc>{escape(text)}</desc>"
    head = f'<svg viewBox="0 0 {width:g} {height:g}" role="img">{words}'
    return head + svg[svg.index(">", svg.index("<svg")) + 1 :].strip()


def save_charts(
    charts: Sequence[Chart],
    path: Path,
    *,
    heading: str,
    n_columns: int,
    above: Sequence[Picture] = (),
) -> None:
    """Write charts in rows, and pictures side by side above them, under a heading as one PNG."""
    n_rows = max(1, math.ceil(len(charts) / n_columns))
    width, height = _PANEL_INCHES
    heights = [n_rows * height]
    if above:
        heights.insert(0, _picture_height(above, n_columns * width / len(above)))
    size = (n_columns * width, sum(heights) + 0.2 + 0.2 * len(heading.splitlines()))
    with _png(path, size, heading, fontsize=12) as figure:
        rows = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
        for i, picture in enumerate(above):
            draw_picture(rows[0].add_subplot(1, len(above), i + 1), picture)
        for i, chart in enumerate(charts):
            axes = rows[-1].add_subplot(n_rows, n_columns, i + 1)
            axes.set_title(chart.title, loc="left")
            draw_curves(axes, chart)


def save_pictures(pictures: Sequence[Picture], path: Path, *, heading: str) -> None:
    """Write pictures, at least one, in rows of six under a heading as one PNG."""
    n_columns = min(len(pictures), _SHEET_COLUMNS)
    n_rows = math.ceil(len(pictures) / n_columns)
    height = _picture_height(pictures, _SHEET_INCHES)
    size = (max(n_columns * _SHEET_INCHES, 6.0), n_rows * height + 0.4)
    with _png(path, size, heading, fontsize=10, style={"axes.titlesize": 8}) as figure:
        for i, picture in enumerate(pictures):
            draw_picture(figure.add_subplot(n_rows, n_columns, i + 1), picture)


@contextmanager
def _png(
    path: Path,
    size: tuple[float, float],
    heading: str,
    *,
    fontsize: int,
    style: Mapping[Any, Any] = MappingProxyType({}),
) -> Iterator[Figure]:
    """A figure with a heading, of a size in inches, that is written once the block has drawn it."""
    from matplotlib.figure import Figure

    with chart_style(style), whole_file(path) as aside:
        figure = Figure(size, dpi=100, layout="constrained")
        figure.suptitle(heading, x=0.01, ha="left", fontsize=fontsize)
        yield figure
        figure.savefig(aside, format="png", metadata={"Software": None})


@contextmanager
def chart_style(more: Mapping[Any, Any]) -> Iterator[None]:
    """Draw as all charts are drawn; `more` names and values of rcParams stand over those."""
    from matplotlib import rc_context

    with rc_context({**_STYLE, **more}):
        yield


def _picture_height(pictures: Sequence[Picture], width: float) -> float:
    """Inches that pictures of a width need with their titles."""
    shares = (len(p.image) * p.aspect / len(p.image[0]) for p in pictures)
    return width * min(max(shares), 2.0) + _TITLE_INCHES


def draw_picture(axes: Axes, picture: Picture) -> None:
    """A plane in grey with its title."""
    axes.set_title(picture.title, loc="left")
    axes.set_axis_off()
    axes.set_anchor("N")
    high = max(picture.high, picture.low + 1e-12)
    axes.imshow(picture.image, "gray", aspect=picture.aspect, vmin=picture.low, vmax=high)


def draw_curves(axes: Axes, chart: Chart) -> None:
    """Curves with their legend, marks and the star."""
    from matplotlib.ticker import MaxNLocator

    lines = []
    for i, curve in enumerate(chart.curves):
        x, y = np.array(curve.points, dtype=float).reshape(-1, 2).T
        y = np.where(np.isfinite(y) & ((y > 0) | (not chart.logarithmic)), y, np.nan)
        dots = "o" if len(x) <= _FEW else ""
        again, colour = divmod(i, len(COLOURS))
        dashes = ("-", "--", ":")[again % 3]
        lines += axes.plot(x, y, dashes, color=COLOURS[colour], marker=dots, markersize=3.5)
    for mark in chart.marks:
        axes.axhline(mark, color=FAINT, linestyle="--", linewidth=1)
    if chart.star is not None and math.isfinite(chart.star[1]):
        axes.plot(*chart.star, "o", color=INK, fillstyle="none", markersize=9, markeredgewidth=2)
    if chart.logarithmic:
        set_logarithmic(axes, "y")
    if chart.x_title == EPOCH:
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
    axes.set_xlabel(chart.x_title)
    if len(lines) > 1:
        add_legend(axes, lines, [curve.name for curve in chart.curves])


def draw_density(axes: Axes, counts: NDArray, box: tuple[float, float, float, float]) -> None:
    """Counts (y, x) as an image, dark where there are many, on a logarithmic scale.

    The axes get the box as their limits: left, right, bottom and top of the counts, which are whole
    numbers; where there are none the page shows.
    """
    from matplotlib.colors import LinearSegmentedColormap, LogNorm

    axes.imshow(
        np.ma.masked_equal(counts, 0),
        cmap=LinearSegmentedColormap.from_list("density", _DENSITY, N=64),
        norm=LogNorm(1, max(2, counts.max())),
        extent=box,
        origin="lower",
        aspect="auto",
        zorder=1,  # above the grid
        interpolation="none",  # an SVG then holds the counts' own pixels
    )


def draw_dots(axes: Axes, dots: Sequence[Dot]) -> None:
    """Dots with their names beside them, where they cover no dot, name or line if that can be.

    No axis spans less than 5 % of its values: small differences stay small.
    """
    lines = list(axes.lines)
    for dot in dots:
        face = dot.colour if dot.filled else "white"
        look: dict[str, Any] = {"color": dot.colour, "markerfacecolor": face}
        axes.plot(dot.x, dot.y, "o", markersize=7, markeredgewidth=2, **look)
    axes.margins(0.14)
    for axis, values in (("x", [dot.x for dot in dots]), ("y", [dot.y for dot in dots])):
        low, high = getattr(axes, f"get_{axis}lim")()
        spare = max(0.0, 0.05 * max(map(abs, values)) - (high - low)) / 2
        getattr(axes, f"set_{axis}lim")(low - spare, high + spare)
    _name_dots(axes, dots, lines)


def set_logarithmic(axes: Axes, axis: str) -> None:
    """Make the axis "x" or "y" logarithmic, with plain numbers; without positive values nothing."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    values = getattr(axes.dataLim, f"interval{axis}")
    low = getattr(axes.dataLim, f"minpos{axis}")
    if not (math.isfinite(low) and 0 < low <= values[1]):
        return
    getattr(axes, f"set_{axis}scale")("log", nonpositive="mask")
    which = getattr(axes, f"{axis}axis")
    which.set_major_locator(LogLocator(subs=(1, 2, 5) if values[1] / low < 300 else (1,)))
    which.set_minor_locator(NullLocator())
    which.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))


def add_legend(axes: Axes, lines: Sequence[Artist], names: Sequence[str]) -> None:
    """Names above the plot, where they hide nothing."""
    # matplotlib leaves names out that begin with an underscore
    shown = [name.lstrip("_") or " " for name in names]
    axes.legend(lines, shown, loc="best", handlelength=1.4, labelspacing=0.25)


def _name_dots(axes: Axes, dots: Sequence[Dot], lines: Sequence[Line2D]) -> None:
    from matplotlib.transforms import Bbox

    figure: Any = axes.get_figure()
    figure.draw_without_rendering()  # lays out: now it is known which pixel is where
    taken = [
        Bbox.from_bounds(x - 8, y - 8, 16, 16)
        for x, y in axes.transData.transform([(dot.x, dot.y) for dot in dots])
    ]
    paths = [line.get_path().transformed(line.get_transform()) for line in lines]
    for dot in dots:
        name = axes.annotate(
            dot.name, (dot.x, dot.y), (0, 0), textcoords="offset points", va="center", fontsize=9
        )
        places = []  # what is in the way there: the end of the axes, then others, then lines
        for shift, side in product(_SHIFTS, ("left", "right")):
            name.xyann = (9 if side == "left" else -9, shift)
            name.set(horizontalalignment=side)
            box = name.get_window_extent()
            outside = box.x0 < axes.bbox.x0 or axes.bbox.x1 < box.x1
            crossed = sum(path.intersects_bbox(box, filled=False) for path in paths)
            obstacles = outside, box.count_overlaps(taken), crossed
            places.append((obstacles, name.xyann, side, box))
        _, name.xyann, side, box = min(places, key=lambda place: place[0])
        name.set(horizontalalignment=side)
        taken.append(box)
