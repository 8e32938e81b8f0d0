"""The charts of a case, each with what it says in words, and the statistics that they show.

Volumes are (z, y, x) in file units (CT: HU); what counts is inside a mask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape, unescape
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from gdmnet.charts import COLOURS, FAINT, add_legend, as_svg, draw_density, set_logarithmic
from gdmnet.geometry import Shape, Spacing
from gdmnet.metrics.calibration import Calibration
from gdmnet.report.encode import reduce
from gdmnet.table import cell_text, decimals_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

N_BINS = 128
_SAMPLE = 500_000  # voxels from which percentiles are taken
CUBE_MM, APART_MM, N_WORST = 10.0, 30.0, 3
_FIGURE = '<figure class="chart"><h4>{title}</h4>{chart}<figcaption>{text}</figcaption></figure>'
_FEWEST = 1e-6  # share of the voxels: a histogram shows nothing below
_MARK: dict[str, Any] = {"color": COLOURS[1], "linestyle": "--", "linewidth": 1.5}


@dataclass(frozen=True)
class Band:
    """The voxels whose target lies in a range, and their errors; None where there are no voxels."""

    low: float | None  # of the target; None: no end
    high: float | None
    n: int  # voxels
    bias: float | None  # mean of prediction - target
    sd: float | None  # its standard deviation
    mae: float | None  # mean of its magnitude


@dataclass(frozen=True)
class Agreement:
    """A prediction against its target, in the whole mask and by bands of the target's value."""

    low: float  # ends of the mean of both
    high: float
    error_limit: float  # differences go from -error_limit to it
    # voxel counts (mean of both, prediction - target); what lies beyond counts at the ends
    differences: NDArray
    whole: Band
    bands: tuple[Band, ...]


@dataclass(frozen=True)
class Place:
    """A voxel (z, y, x) of the reduced grid and the mean absolute error in the cube around it."""

    at: Shape
    error: float


def percentiles(volume: NDArray, mask: NDArray, shares: tuple[float, ...]) -> list[float]:
    """Percentiles inside the mask, from every n-th voxel of large ones."""
    inside = volume[mask != 0]
    return [float(v) for v in np.percentile(inside[:: 1 + inside.size // _SAMPLE], shares)]


def agreement(
    prediction: NDArray, target: NDArray, mask: NDArray, edges: tuple[float, ...]
) -> Agreement:
    """Counts and errors of one case.

    `edges` are the target values that part the bands, as HU part tissues: each belongs to the band
    above it, the last one to that below it.
    """
    low, high = _ends((prediction, target), mask)
    guess, truth = prediction[mask != 0], target[mask != 0]
    error = guess - truth
    limit = percentiles(np.abs(error), np.ones_like(error), (99.5,))[0] or 1.0
    differences, _, _ = np.histogram2d(
        np.clip((guess + truth) / 2, low, high),
        np.clip(error, -limit, limit),
        N_BINS,
        ((low, high), (-limit, limit)),
    )
    limits = (None, *edges, None)
    band = np.digitize(truth, (*edges[:-1], *np.nextafter(edges[-1:], np.inf)))
    bands = (_band(*ends, error[band == i]) for i, ends in enumerate(pairwise(limits)))
    return Agreement(low, high, limit, differences, _band(None, None, error), tuple(bands))


def worst_places(
    error: NDArray, mask: NDArray, factors: Shape, spacing: Spacing
) -> tuple[Place, ...]:
    """Where the mean of |error| over a cube of 1 cm is largest, at places 3 cm apart.

    Args:
        error: |prediction - target|, (z, y, x); outside the mask errors count as 0.
        mask: (z, y, x).
        factors: of the reduced grid on which places are given.
        spacing: mm (z, y, x) of the reduced grid.
    """
    sides = [max(1, round(CUBE_MM / s)) for s in spacing]
    means = uniform_filter(reduce(np.where(mask != 0, error, 0), factors), sides, mode="constant")
    grid = np.indices(means.shape, dtype=np.float32, sparse=True)
    found = []
    for _ in range(N_WORST):
        z, y, x = (int(i) for i in np.unravel_index(np.argmax(means), means.shape))
        if means[z, y, x] <= 0:
            break
        found.append(Place((z, y, x), float(means[z, y, x])))
        far = sum(((g - i) * s) ** 2 for g, i, s in zip(grid, (z, y, x), spacing, strict=True))
        means = np.where(far < APART_MM**2, 0, means)
    return tuple(found)


def _ends(volumes: Iterable[NDArray], mask: NDArray) -> tuple[float, float]:
    """What holds percentiles 0.1 to 99.9 of every volume; flat images have a histogram, too."""
    ends = [percentiles(volume, mask, (0.1, 99.9)) for volume in volumes]
    low, high = min(end[0] for end in ends), max(end[1] for end in ends)
    return low, high if high > low else low + 1


def _band(low: float | None, high: float | None, errors: NDArray) -> Band:
    if errors.size == 0:
        return Band(low, high, 0, None, None, None)
    errors = errors.astype(np.float64)
    found = errors.mean(), errors.std(), np.abs(errors).mean()
    return Band(low, high, errors.size, *map(float, found))


def figure(title: str, draw: Callable[[Axes], None], text: str) -> str:
    """A chart, drawn into empty matplotlib axes, with its title and what it says in words, as HTML.

    The text may be HTML, of which those who cannot see hear what stands before the first tag.
    """
    chart = as_svg(draw, title=title, text=unescape(text.split("<", maxsplit=1)[0]))
    return _FIGURE.format(title=escape(title), chart=chart, text=text)


def charts(figures: Sequence[str]) -> str:
    """Figures side by side."""
    return f'<div class="charts">{"".join(figures)}</div>'


def folded(title: str, html: str, *, is_open: bool = False) -> str:
    """HTML that can be folded away under a title."""
    state = " open" if is_open else ""
    return f"<details{state}><summary>{escape(title)}</summary>{html}</details>"


def html_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text, the titles first; the first cell of a row is its name."""
    titles, *others = ([*map(escape, row)] for row in rows)
    head = "".join(f"<th scope=col>{title}" for title in titles)
    body = "".join(f"<tr><th scope=row>{'<td>'.join(row)}</tr>" for row in others)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def histogram_figure(volumes: Mapping[str, NDArray], mask: NDArray, unit: str) -> str:
    """Histograms of volumes (z, y, x) over the same values, as shares of the voxels in the mask.

    They hold percentiles 0.1 to 99.9 of every volume; what lies beyond counts at the ends.
    """
    low, high = _ends(volumes.values(), mask)
    inside = {name: volume[mask != 0] for name, volume in volumes.items()}

    def draw(axes: Axes) -> None:
        lines = []
        for i, values in enumerate(inside.values()):
            within = np.clip(values, low, high, dtype=np.float64)  # bins of a nearly flat image
            counts, edges = np.histogram(within, N_BINS, (low, high))
            shown = np.where(counts > 0, counts / values.size, np.nan)
            centres = (edges[:-1] + edges[1:]) / 2
            lines += axes.plot(centres, shown, color=COLOURS[i % len(COLOURS)])
        set_logarithmic(axes, "y")
        axes.set_ylim(bottom=_FEWEST)
        axes.set(xlabel=_titled("value", unit), ylabel="share of voxels")
        add_legend(axes, lines, list(inside))

    medians = (f"{escape(n)} {_value(float(np.median(v)), unit)}" for n, v in inside.items())
    text = f"Voxels inside the mask, logarithmic. Medians: {', '.join(medians)}."
    return figure("Histogram" if len(volumes) == 1 else "Histograms", draw, text)


def calibration_figure(calibration: Calibration, unit: str) -> str:
    """Stated uncertainty against the error that was made."""
    highest = 1.05 * max(*calibration.stated, *calibration.made, 1e-12)

    def draw(axes: Axes) -> None:
        axes.plot([0, highest], [0, highest], color=FAINT, linestyle="--")
        axes.plot(calibration.stated, calibration.made, "o-", color=COLOURS[0])
        axes.set(
            xlabel=_titled("stated uncertainty (SD)", unit),
            ylabel=_titled("error made (RMSE)", unit),
            xlim=(0, highest),
            ylim=(0, highest),
        )

    factor = calibration.factor
    kind = "too small" if factor > 1.1 else "too large" if factor < 0.9 else "about right"
    text = (
        "Each dot is a tenth of the voxels, by uncertainty; dashed: perfect calibration. The"
        f" uncertainty is {kind} overall: multiplied by {factor:.4g} it would match. |error| is"
        f" within 1 SD for {100 * calibration.within_one:.0f} % of voxels (Gaussian: 68 %), within"
        f" 2 SD for {100 * calibration.within_two:.0f} % (95 %). Correlation with |error|:"
        f" {cell_text(calibration.correlation)}."
    )
    if calibration.silent > 0:
        text += f" {100 * calibration.silent:.0f} % of the mask has no second opinion: left out."
    return figure("Uncertainty against error", draw, text)


def coverage_figure(calibration: Calibration, coverage: float, unit: str) -> str:
    """The share of voxels within the half-width that was stated for `coverage` of them."""
    expected, found = 100 * coverage, 100 * calibration.within_one

    def draw(axes: Axes) -> None:
        axes.axhline(expected, color=FAINT, linestyle="--")
        shares = [100 * share for share in calibration.within]
        axes.plot(calibration.stated, shares, "o-", color=COLOURS[0])
        axes.set(xlabel=_titled("half-width", unit), ylabel="voxels within [%]", ylim=(0, 102))

    text = (
        f"Each dot is a tenth of the voxels, by the stated half-width. |error| is within it for"
        f" {found:.0f} % of all voxels; {expected:.0f} % are expected on average over cases."
    )
    return figure("Expected error against error", draw, text)


def bland_altman_figure(agreement: Agreement, unit: str) -> str:
    """Prediction - target against the mean of both, voxel by voxel (Bland & Altman 1986)."""
    limit, whole = agreement.error_limit, agreement.whole
    bias, sd = whole.bias or 0.0, whole.sd or 0.0
    lines = {"bias": bias, "-1.96 SD": bias - 1.96 * sd, "+1.96 SD": bias + 1.96 * sd}

    def draw(axes: Axes) -> None:
        box = (agreement.low, agreement.high, -limit, limit)
        draw_density(axes, agreement.differences.T, box)
        for name, value in lines.items():
            axes.axhline(value, **{**_MARK, "linestyle": "-" if name == "bias" else "--"})
            axes.annotate(
                f"{name} {value:.3g}",
                (1, value),
                (-4, 3 if value >= bias else -3),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                ha="right",
                va="bottom" if value >= bias else "top",
                fontsize=9,
            )
        axes.set(
            xlabel=_titled("mean of prediction and target", unit),
            ylabel=_titled("prediction - target", unit),
        )

    text = (
        f"Bland-Altman, voxel by voxel. Bias {_value(bias, unit)}, SD {_value(sd, unit)}, limits of"
        f" agreement {lines['-1.96 SD']:.4g} to {_value(lines['+1.96 SD'], unit)}. Neighbouring"
        " voxels are not independent: the limits describe voxels, not patients."
    )
    return figure("Bland-Altman", draw, text)


def bands_figure(agreement: Agreement, unit: str) -> str:
    """Bias and mean absolute error by the target's value."""
    bands = agreement.bands
    names = tuple(_range(band) for band in bands)

    def draw(axes: Axes) -> None:
        at = np.arange(len(bands))
        axes.bar(at, [band.bias or 0.0 for band in bands], width=0.6, color=COLOURS[0])
        axes.plot(at, [np.nan if b.mae is None else b.mae for b in bands], "o", color=COLOURS[1])
        axes.axhline(0, color=FAINT, linewidth=1)
        axes.set_xticks(at, names)
        axes.set(xlabel=_titled("target", unit), ylabel=_titled("error", unit))

    total = max(1, agreement.whole.n)
    every = (*bands, agreement.whole)
    decimals = decimals_of(value for band in every for value in (band.bias, band.sd, band.mae))
    rows = [[_titled("target", unit), "voxels", *(_titled(t, unit) for t in ("bias", "SD", "MAE"))]]
    for name, band in zip((*names, "all"), every, strict=True):
        cells = (cell_text(value, decimals) for value in (band.bias, band.sd, band.mae))
        rows.append([name, f"{100 * band.n / total:.1f} %", *cells])
    text = f"Bars: bias (mean error); dots: mean absolute error.{html_table(rows)}"
    return figure("Bias by tissue band" if unit == "HU" else "Bias by intensity", draw, text)


def _range(band: Band) -> str:
    if band.low is None:
        return f"below {band.high:.4g}"
    return f"above {band.low:.4g}" if band.high is None else f"{band.low:.4g} to {band.high:.4g}"


def _titled(title: str, unit: str) -> str:
    return f"{title} [{unit}]" if unit else title


def _value(value: float, unit: str) -> str:
    return f"{value:.4g} {unit}".strip()
