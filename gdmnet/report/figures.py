"""The charts of a case, each with what it says in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape, unescape
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gdmnet.charts import COLOURS, FAINT, add_legend, as_svg, draw_density, set_logarithmic
from gdmnet.metrics.calibration import Calibration
from gdmnet.report.statistics import Agreement, Band
from gdmnet.table import cell_text, decimals_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FIGURE = '<figure class="chart"><h4>{title}</h4>{chart}<figcaption>{text}</figcaption></figure>'
_FEWEST = 1e-6  # share of the voxels: a histogram shows nothing below
_MARK: dict[str, Any] = {"color": COLOURS[1], "linestyle": "--", "linewidth": 1.5}


def figure(title: str, draw: Callable[[Axes], None], text: str) -> str:
    """A chart with its title and what it says in words, as HTML.

    Args:
        title: above it.
        draw: draws into empty matplotlib axes.
        text: below it; may be HTML, of which those who cannot see hear what stands before the
            first tag.
    """
    chart = as_svg(draw, title=title, text=unescape(text.split("<", maxsplit=1)[0]))
    return _FIGURE.format(title=escape(title), chart=chart, text=text)


def number(value: float | None) -> str:
    """Four digits, as `gdm_evaluate` prints them."""
    return "-" if value is None else f"{value:.4g}"


def agreement_figures(agreement: Agreement, unit: str) -> list[str]:
    """Bland-Altman and bias by band."""
    return [_bland_altman(agreement, unit), _bands(agreement, unit)]


def charts(figures: Sequence[str]) -> str:
    """Figures side by side."""
    return f'<div class="charts">{"".join(figures)}</div>'


def folded(title: str, html: str, *, is_open: bool = False) -> str:
    """HTML that can be folded away under a title."""
    state = " open" if is_open else ""
    return f"<details{state}><summary>{escape(title)}</summary>{html}</details>"


def histogram_figure(counts: dict[str, NDArray], ends: tuple[float, float], unit: str) -> str:
    """Histograms over the same values, as shares of the voxels in the mask."""
    low, high = ends
    shares = {name: values / max(1, values.sum()) for name, values in counts.items()}
    n_bins = len(next(iter(shares.values())))
    centres = low + (np.arange(n_bins) + 0.5) * (high - low) / n_bins

    def draw(axes: Axes) -> None:
        lines = []
        for i, share in enumerate(shares.values()):
            shown = np.where(share > 0, share, np.nan)
            lines += axes.plot(centres, shown, color=COLOURS[i % len(COLOURS)])
        set_logarithmic(axes, "y")
        axes.set_ylim(bottom=_FEWEST)
        axes.set(xlabel=_titled("value", unit), ylabel="share of voxels")
        add_legend(axes, lines, list(shares))

    medians = {
        name: float(centres[min(int(np.searchsorted(np.cumsum(share), 0.5)), len(centres) - 1)])
        for name, share in shares.items()
    }
    said = ", ".join(f"{escape(name)} {_value(value, unit)}" for name, value in medians.items())
    text = f"Voxels inside the mask, logarithmic. Medians: {said}."
    return figure("Histogram" if len(counts) == 1 else "Histograms", draw, text)


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
        f" uncertainty is {kind} overall: multiplied by {number(factor)} it would match. |error| is"
        f" within 1 SD for {100 * calibration.within_one:.0f} % of voxels (Gaussian: 68 %), within"
        f" 2 SD for {100 * calibration.within_two:.0f} % (95 %). Correlation with |error|:"
        f" {number(calibration.correlation)}."
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


def _bland_altman(agreement: Agreement, unit: str) -> str:
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
        f" agreement {number(lines['-1.96 SD'])} to {_value(lines['+1.96 SD'], unit)}. Neighbouring"
        " voxels are not independent: the limits describe voxels, not patients."
    )
    return figure("Bland-Altman", draw, text)


def _bands(agreement: Agreement, unit: str) -> str:
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
    rows = "".join(
        f"<tr><th scope=row>{name}<td>{100 * band.n / total:.1f} %<td>"
        + "<td>".join(cell_text(value, decimals) for value in (band.bias, band.sd, band.mae))
        for name, band in zip((*names, "all"), every, strict=True)
    )
    text = (
        "Bars: bias (mean error); dots: mean absolute error.<table><thead><tr>"
        f"<th scope=col>{escape(_titled('target', unit))}<th scope=col>voxels"
        + "".join(f"<th scope=col>{escape(_titled(t, unit))}" for t in ("bias", "SD", "MAE"))
        + f"</thead><tbody>{rows}</tbody></table>"
    )
    return figure("Bias by tissue band" if unit == "HU" else "Bias by intensity", draw, text)


def _range(band: Band) -> str:
    if band.low is None:
        return f"below {band.high:.4g}"
    return f"above {band.low:.4g}" if band.high is None else f"{band.low:.4g} to {band.high:.4g}"


def _titled(title: str, unit: str) -> str:
    return f"{title} [{unit}]" if unit else title


def _value(value: float | None, unit: str) -> str:
    return f"{number(value)} {unit}".strip()
