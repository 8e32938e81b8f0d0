"""Charts as inline SVG: axes, and what stands between them."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gdmnet.training.chart import COLOURS, Point, ticks

_WIDTH, _HEIGHT = 420, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 14, 12, 46
_DENSITY = ((255, 255, 255), (86, 156, 205), (16, 42, 96))  # none, few, many: dark on white


@dataclass(frozen=True)
class Axis:
    """One axis: its title and its ends; `names` replace numbers at 0, 1, 2, ..."""

    title: str
    low: float
    high: float
    logarithmic: bool = False
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Frame:
    """The two axes of a chart, and where a value lies on the picture."""

    x: Axis
    y: Axis

    def across(self, value: float) -> float:
        """Pixels from the left."""
        return _LEFT + _share(self.x, value) * (_WIDTH - _LEFT - _RIGHT)

    def down(self, value: float) -> float:
        """Pixels from the top."""
        return _HEIGHT - _BOTTOM - _share(self.y, value) * (_HEIGHT - _TOP - _BOTTOM)


def draw(frame: Frame, parts: Sequence[str], *, title: str, text: str) -> str:
    """The chart as an SVG element.

    Args:
        frame: the axes.
        parts: what `line`, `bars`, `points` and `density` gave.
        title: names the chart to those who cannot see it.
        text: says to them what it shows.
    """
    left, right = _LEFT, _WIDTH - _RIGHT
    top, bottom = _TOP, _HEIGHT - _BOTTOM
    grid = []
    for value, name in _ticks(frame.x):
        at = frame.across(value)
        grid.append(f'<path class="grid" d="M{at:.1f} {top}V{bottom}"/>')
        grid.append(f'<text x="{at:.1f}" y="{bottom + 15}" text-anchor="middle">{name}</text>')
    for value, name in _ticks(frame.y):
        at = frame.down(value)
        grid.append(f'<path class="grid" d="M{left} {at:.1f}H{right}"/>')
        grid.append(f'<text x="{left - 5}" y="{at + 4:.1f}" text-anchor="end">{name}</text>')
    middle = (top + bottom) / 2
    return "".join(
        [
            f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">',
            f"<title>{escape(title)}</title><desc>{escape(text)}</desc>",
            *grid,
            *parts,
            f'<rect class="frame" x="{left}" y="{top}" width="{right - left}"'
            f' height="{bottom - top}"/>',
            f'<text x="{(left + right) / 2}" y="{_HEIGHT - 8}" text-anchor="middle">'
            f"{escape(frame.x.title)}</text>",
            f'<text transform="translate(12 {middle}) rotate(-90)" text-anchor="middle">'
            f"{escape(frame.y.title)}</text></svg>",
        ]
    )


def line(frame: Frame, points: Sequence[Point], colour: int = 0, *, dashed: bool = False) -> str:
    """A curve through points (x, y); one that is not finite breaks it."""
    path, begin = [], True
    for x, y in points:
        if math.isfinite(y) and (y > 0 or not frame.y.logarithmic):
            path.append(f"{'M' if begin else 'L'}{frame.across(x):.1f} {frame.down(y):.1f}")
            begin = False
        else:
            begin = True
    dash = ' stroke-dasharray="5 3"' if dashed else ""
    return f'<path class="line" stroke="{COLOURS[colour]}"{dash} d="{"".join(path)}"/>'


def points(frame: Frame, where: Sequence[Point], colour: int = 0) -> str:
    """Dots at (x, y)."""
    return "".join(dot(frame, point, colour) for point in where)


def dot(frame: Frame, where: Point, colour: int = 0, *, hollow: bool = False) -> str:
    """One dot at (x, y)."""
    x, y = where
    outside = COLOURS[colour]
    kind = f'fill="#fff" stroke="{outside}" stroke-width="2"' if hollow else f'fill="{outside}"'
    return f'<circle cx="{frame.across(x):.1f}" cy="{frame.down(y):.1f}" r="4" {kind}/>'


def bars(frame: Frame, heights: Sequence[float | None], colour: int = 0) -> str:
    """Bars from 0 at x = 0, 1, 2, ...; None leaves a gap."""
    drawn = []
    half = (frame.across(1) - frame.across(0)) * 0.3
    for x, height in enumerate(heights):
        if height is not None:
            top, bottom = sorted((frame.down(height), frame.down(0)))
            drawn.append(
                f'<rect x="{frame.across(x) - half:.1f}" y="{top:.1f}" width="{2 * half:.1f}"'
                f' height="{bottom - top:.1f}" fill="{COLOURS[colour]}"/>'
            )
    return "".join(drawn)


def label(frame: Frame, x: float, y: float, text: str, *, above: bool = True) -> str:
    """Words beside a point, ending at it."""
    at = frame.down(y) + (-4 if above else 13)
    return f'<text x="{frame.across(x) - 4:.1f}" y="{at:.1f}" text-anchor="end">{text}</text>'


def legend(names: Sequence[str]) -> str:
    """Names in the colours' order, in the upper right corner."""
    rows = []
    for i, name in enumerate(names):
        y = _TOP + 14 + 15 * i
        right = _WIDTH - _RIGHT - 6
        rows.append(
            f'<path class="line" stroke="{COLOURS[i]}" d="M{right - 18} {y - 4}H{right}"/>'
            f'<text x="{right - 23}" y="{y}" text-anchor="end">{escape(name)}</text>'
        )
    return "".join(rows)


def density(counts: NDArray) -> str:
    """Counts (y, x) over the whole frame, on a logarithmic scale; y goes up."""
    share = np.log1p(counts[::-1]) / max(1e-12, float(np.log1p(counts.max())))
    # anything at all is told apart from nothing
    share = np.where(counts[::-1] > 0, 0.12 + 0.88 * share, 0)
    stops = np.array(_DENSITY, dtype=np.float64)
    at = np.linspace(0, 1, len(stops))
    colours = np.stack([np.interp(share, at, stops[:, i]) for i in range(3)], axis=-1)
    file = io.BytesIO()
    picture = Image.fromarray(np.round(colours).astype(np.uint8))
    picture.quantize(64, dither=Image.Dither.NONE).save(file, format="PNG", optimize=True)
    text = base64.b64encode(file.getvalue()).decode("ascii")
    return (
        f'<image x="{_LEFT}" y="{_TOP}" width="{_WIDTH - _LEFT - _RIGHT}"'
        f' height="{_HEIGHT - _TOP - _BOTTOM}" preserveAspectRatio="none"'
        f' href="data:image/png;base64,{text}"/>'
    )


def number(value: float | None) -> str:
    """Four digits, as `gdm_evaluate` prints them."""
    return "-" if value is None else f"{value:.4g}"


def _share(axis: Axis, value: float) -> float:
    low, high = axis.low, axis.high
    if axis.logarithmic:
        low, high, value = math.log10(low), math.log10(high), math.log10(value)
    return min(1.0, max(0.0, (value - low) / max(high - low, 1e-12)))


def _ticks(axis: Axis) -> list[tuple[float, str]]:
    if axis.names:
        return [(float(i), escape(name)) for i, name in enumerate(axis.names)]
    if axis.logarithmic:
        powers = range(
            math.ceil(math.log10(axis.low) - 1e-9), math.floor(math.log10(axis.high)) + 1
        )
        return [(10.0**p, f"{10.0**p:g}") for p in powers[:: 1 + len(powers) // 6]]
    return [(value, f"{value:.6g}") for value in ticks(axis.low, axis.high)]
