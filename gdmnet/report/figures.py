"""The charts of a case and of a training, each with what it says in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gdmnet.metrics.calibration import Calibration
from gdmnet.report.charts import (
    Axis,
    Frame,
    bars,
    density,
    draw,
    label,
    legend,
    line,
    number,
    points,
)
from gdmnet.report.statistics import Agreement, Band
from gdmnet.training.chart import COLOURS, Chart, Curve
from gdmnet.training.progress import PANELS, panel_chart

_FIGURE = '<figure class="chart"><h4>{title}</h4>{chart}<figcaption>{text}</figcaption></figure>'
_MOST_POINTS = 300  # of a training curve: more cannot be told apart
_FEWEST = 1e-6  # share of the voxels: a histogram shows nothing below


def agreement_figures(agreement: Agreement, unit: str) -> list[str]:
    """Joint histogram, Bland-Altman and bias by band."""
    return [_joint(agreement, unit), _bland_altman(agreement, unit), _bands(agreement, unit)]


def method_figures(method: str, figures: Sequence[str]) -> str:
    """One method's charts, folded away under its name."""
    return (
        f'<details class="method"><summary>{escape(method)} against the target</summary>'
        f'<div class="charts">{"".join(figures)}</div></details>'
    )


def histogram_figure(counts: dict[str, NDArray], ends: tuple[float, float], unit: str) -> str:
    """Histograms over the same values, as shares of the voxels in the mask."""
    low, high = ends
    shares = {name: values / max(1, values.sum()) for name, values in counts.items()}
    highest = max(float(share.max()) for share in shares.values())
    frame = Frame(
        Axis(_titled("value", unit), low, high),
        Axis("share of voxels", _FEWEST, 10 ** math.ceil(math.log10(highest)), logarithmic=True),
    )
    parts = []
    for colour, share in enumerate(shares.values()):
        centres = low + (np.arange(share.size) + 0.5) * (high - low) / share.size
        parts.append(
            line(
                frame,
                list(zip(centres.tolist(), share.tolist(), strict=True)),
                colour % len(COLOURS),
            )
        )
    middles = {
        name: low + (np.searchsorted(np.cumsum(share), 0.5) + 0.5) * (high - low) / share.size
        for name, share in shares.items()
    }
    told = ", ".join(f"{name} {_value(value, unit)}" for name, value in middles.items())
    text = f"Voxels inside the mask, logarithmic. Medians: {told}."
    parts.append(legend(list(shares)))
    return figure("Histogram" if len(counts) == 1 else "Histograms", frame, parts, text)


def calibration_figure(calibration: Calibration, unit: str) -> str:
    """Stated uncertainty against the error that was made."""
    highest = 1.05 * max(*calibration.stated, *calibration.made, 1e-12)
    frame = Frame(
        Axis(_titled("stated uncertainty (SD)", unit), 0, highest),
        Axis(_titled("error made (RMSE)", unit), 0, highest),
    )
    where = list(zip(calibration.stated, calibration.made, strict=True))
    parts = [
        line(frame, [(0, 0), (highest, highest)], 5, dashed=True),
        line(frame, where),
        points(frame, where),
    ]
    factor = calibration.factor
    kind = "too small" if factor > 1.1 else "too large" if factor < 0.9 else "about right"
    text = (
        "Each dot is a tenth of the voxels, by uncertainty; dashed: perfect calibration. The"
        f" uncertainty is {kind} overall: multiplied by {number(factor)} it would match. |error| is"
        f" within 1 SD for {100 * calibration.within_one:.0f} % of voxels (Gaussian: 68 %), within"
        f" 2 SD for {100 * calibration.within_two:.0f} % (95 %). Correlation with |error|:"
        f" {number(calibration.correlation)}."
    )
    if calibration.silent > 0:
        text += f" {100 * calibration.silent:.0f} % of the mask has no second opinion: left out."
    return figure("Uncertainty against error", frame, parts, text)


def training_figures(records: list[dict[str, Any]]) -> list[str]:
    """The monitored curves of one fold; panels without numbers are left out."""
    charts = [panel_chart(panel, records) for panel in PANELS]
    return [_training(chart) for chart in charts if chart.curves]


def _joint(agreement: Agreement, unit: str) -> str:
    low, high = agreement.low, agreement.high
    frame = Frame(
        Axis(_titled("target", unit), low, high), Axis(_titled("prediction", unit), low, high)
    )
    parts = [density(agreement.joint.T), line(frame, [(low, low), (high, high)], 1, dashed=True)]
    share = _correlation(agreement.joint)
    text = (
        "Every voxel of the mask, darker where there are more (logarithmic); dashed: prediction ="
        f" target. Correlation (Pearson, of the counts shown): {number(share)}."
    )
    return figure("Joint histogram", frame, parts, text)


def _bland_altman(agreement: Agreement, unit: str) -> str:
    low, high, reach = agreement.low, agreement.high, agreement.reach
    frame = Frame(
        Axis(_titled("mean of prediction and target", unit), low, high),
        Axis(_titled("prediction - target", unit), -reach, reach),
    )
    whole = agreement.whole
    bias, sd = whole.bias or 0.0, whole.sd or 0.0
    parts = [density(agreement.differences.T)]
    for value, name in (
        (bias, "bias"),
        (bias - 1.96 * sd, "-1.96 SD"),
        (bias + 1.96 * sd, "+1.96 SD"),
    ):
        parts.append(line(frame, [(low, value), (high, value)], 1, dashed=name != "bias"))
        parts.append(label(frame, high, value, f"{name} {value:.3g}", above=value >= bias))
    text = (
        f"Bland-Altman, voxel by voxel. Bias {_value(bias, unit)}, SD"
        f" {_value(sd, unit)}, limits of agreement {number(bias - 1.96 * sd)} to"
        f" {_value(bias + 1.96 * sd, unit)}. Neighbouring voxels are not independent: the"
        " limits describe voxels, not patients."
    )
    return figure("Bland-Altman", frame, parts, text)


def _bands(agreement: Agreement, unit: str) -> str:
    bands = agreement.bands
    names = tuple(_range(band) for band in bands)
    values = [v for band in bands for v in (band.bias, band.mae) if v is not None]
    low, high = min(0.0, *values), max(0.0, *values)
    room = 0.1 * (high - low) or 1.0
    frame = Frame(
        Axis(_titled("target", unit), -0.6, len(bands) - 0.4, names=names),
        Axis(_titled("error", unit), low - room if low < 0 else 0.0, high + room),
    )
    parts = [
        bars(frame, [band.bias for band in bands]),
        points(frame, [(i, b.mae) for i, b in enumerate(bands) if b.mae is not None], 1),
        line(frame, [(-0.6, 0), (len(bands) - 0.4, 0)], 5),
    ]
    total = max(1, agreement.whole.n)
    rows = "".join(
        f"<tr><th scope=row>{name}<td>{100 * band.n / total:.3g} %<td>{number(band.bias)}"
        f"<td>{number(band.sd)}<td>{number(band.mae)}"
        for name, band in zip((*names, "all"), (*bands, agreement.whole), strict=True)
    )
    text = (
        "Bars: bias (mean error); dots: mean absolute error.<table><thead><tr>"
        f"<th scope=col>{escape(_titled('target', unit))}<th scope=col>voxels<th scope=col>bias"
        f"<th scope=col>SD<th scope=col>MAE</thead><tbody>{rows}</tbody></table>"
    )
    return figure(
        "Bias by tissue band" if unit == "HU" else "Bias by intensity", frame, parts, text
    )


def _training(chart: Chart) -> str:
    curves = [_thinned(curve) for curve in chart.curves]
    values = [y for curve in curves for _, y in curve.points if math.isfinite(y)]
    values += list(chart.marks)
    if chart.logarithmic:
        values = [value for value in values if value > 0] or [1.0]
        low, high = min(values) / 1.2, max(values) * 1.2
    else:
        room = 0.05 * (max(values) - min(values)) or 0.05 * abs(values[0]) or 1.0
        low, high = min(values) - room, max(values) + room
    epochs = [x for curve in curves for x, _ in curve.points]
    frame = Frame(
        Axis("epoch", min(epochs), max(max(epochs), min(epochs) + 1)),
        Axis("", low, high, logarithmic=chart.logarithmic),
    )
    parts = [line(frame, curve.points, i) for i, curve in enumerate(curves)]
    parts += [
        line(frame, [(frame.x.low, m), (frame.x.high, m)], 5, dashed=True) for m in chart.marks
    ]
    if chart.star is not None and math.isfinite(chart.star[1]):
        parts.append(points(frame, [chart.star], 1))
    parts.append(legend([curve.name for curve in curves]))
    last = ", ".join(f"{curve.name} {number(_last(curve))}" for curve in curves)
    return figure(chart.title, frame, parts, f"At the end: {escape(last)}.")


def _thinned(curve: Curve) -> Curve:
    every = 1 + (len(curve.points) - 1) // _MOST_POINTS
    kept = curve.points[::every]
    return Curve(curve.name, kept if kept[-1] == curve.points[-1] else [*kept, curve.points[-1]])


def _last(curve: Curve) -> float | None:
    finite = [y for _, y in curve.points if math.isfinite(y)]
    return finite[-1] if finite else None


def figure(title: str, frame: Frame, parts: Sequence[str], text: str) -> str:
    """A chart with its title and what it says in words; the words may be HTML."""
    plain = text.split("<", maxsplit=1)[0]
    chart = draw(frame, parts, title=title, text=plain)
    return _FIGURE.format(title=escape(title), chart=chart, text=text)


def _correlation(joint: NDArray) -> float | None:
    n = max(1, joint.sum())
    at = np.arange(len(joint))
    rows, columns = joint.sum(axis=1) / n, joint.sum(axis=0) / n
    mean_row, mean_column = rows @ at, columns @ at
    together = at @ joint @ at / n - mean_row * mean_column
    spread = (rows @ (at - mean_row) ** 2) * (columns @ (at - mean_column) ** 2)
    return float(together / np.sqrt(spread)) if spread > 0 else None


def _range(band: Band) -> str:
    if band.low is None:
        return f"below {band.high:.4g}"
    return f"above {band.low:.4g}" if band.high is None else f"{band.low:.4g} to {band.high:.4g}"


def _titled(title: str, unit: str) -> str:
    return f"{title} [{unit}]" if unit else title


def _value(value: float | None, unit: str) -> str:
    return f"{number(value)} {unit}".strip()
