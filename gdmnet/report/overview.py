"""The table of all cases: every metric, how bad each value is, and what all cases say together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from gdmnet.metrics.statistics import STATISTICS, Values, metric_names
from gdmnet.metrics.summary import Summary
from gdmnet.report.case import CasePage
from gdmnet.report.charts import number

_TITLES = {
    "mae": "MAE",
    "psnr": "PSNR [dB]",
    "ssim": "SSIM",
    "ms_ssim": "MS-SSIM",
    "ci95_low": "mean: 95 % from",
    "ci95_high": "mean: 95 % to",
}
_FIRST = ("mae", "bias", "psnr", "ssim", "ms_ssim", "sharpness", "dice", "hd95")
_WITHOUT_TARGETS = ("mean", "minimum", "maximum")  # of the prediction
_HIGHER_IS_BETTER = ("psnr", "ssim", "ms_ssim", "dice")
_BEST_AT_ONE = ("sharpness", "edge_width", "gain")
_BEST_AT_ZERO = ("bias", "offset")
_TABLE = """<p>Press a title to sort by it, the worst on top; press a case to see it.{more}</p>
<div class="scroll"><table id="cases"><thead><tr>{heads}</tr></thead>
<tbody>{rows}</tbody><tfoot>{foot}</tfoot></table></div>{rules}"""


def badness(metric: str, value: float | None) -> float | None:
    """How bad a value is: higher is worse; None where the metric is not defined."""
    if value is None:
        return None
    if metric.startswith(_HIGHER_IS_BETTER):
        return -value
    if metric.startswith(_BEST_AT_ONE):
        return abs(math.log(value)) if value > 0 else math.inf
    return abs(value) if metric.startswith(_BEST_AT_ZERO) else value


def overview(
    pages: Sequence[CasePage], summary: Summary | None, n_warnings: Mapping[str, int]
) -> str:
    """The table, the worst case first; without a summary the predictions' values stand in it.

    Args:
        pages: the cases, in the order of their numbers in the page.
        summary: of gdm_evaluate, or None where there are no targets.
        n_warnings: identifier -> how many there are.
    """
    if summary is None:
        cases: dict[str, Values] = {
            page.identifier: dict(zip(_WITHOUT_TARGETS, page.values, strict=True)) for page in pages
        }
    else:
        cases = summary.cases
    metrics = [m for m in metric_names(cases) if any(v.get(m) is not None for v in cases.values())]
    metrics.sort(key=lambda m: summary is not None and m not in _FIRST)
    numbers = sorted(
        range(len(pages)), key=lambda i: _worst_first(metrics[0], cases[pages[i].identifier])
    )
    heads = [
        '<th scope="col" class="text" data-worst="ascending"><button type="button">case</button>',
        '<th scope="col">picture',
        '<th scope="col" data-worst="descending"><button type="button">warnings</button>',
        *(_head(metric, summary, chosen=metric == metrics[0]) for metric in metrics),
    ]
    rows = (
        _row(i, pages[i], cases[pages[i].identifier], metrics, n_warnings[pages[i].identifier])
        for i in numbers
    )
    more = ' <button type="button" id="more" aria-pressed="false">all metrics</button>'
    return _TABLE.format(
        more=more if summary is not None and set(metrics) - set(_FIRST) else "",
        heads="".join(heads),
        rows="".join(rows),
        foot="" if summary is None else _foot(metrics, summary),
        rules="" if summary is None else _rules(summary),
    )


def _worst_first(metric: str, values: Values) -> tuple[bool, float]:
    bad = badness(metric, values.get(metric))
    return (True, 0.0) if bad is None else (False, -bad)


def _head(metric: str, summary: Summary | None, *, chosen: bool) -> str:
    worst, told = "descending", "lower is better"
    if metric.startswith(_HIGHER_IS_BETTER):
        worst, told = "ascending", "higher is better"
    elif metric.startswith((*_BEST_AT_ONE, *_BEST_AT_ZERO)):
        worst, told = "other", f"{1 if metric.startswith(_BEST_AT_ONE) else 0} is best"
    if summary is None:
        told = "of the prediction inside the mask"
    elif metric in summary.ranges:
        told += f"; data range: {summary.ranges[metric]}"
    order = f' data-order="worst" aria-sort="{worst}"' if chosen else ""
    return (
        f'<th scope="col"{_class(metric, summary)} data-worst="{worst}"{order}>'
        f'<button type="button" title="{escape(told)}">{escape(_title(metric))}</button>'
    )


def _row(number_: int, page: CasePage, values: Values, metrics: list[str], n_warnings: int) -> str:
    cells = []
    for metric in metrics:
        value = values.get(metric)
        bad = badness(metric, value)
        told = "" if bad is None else "Infinity" if math.isinf(bad) else repr(bad)
        hidden = ' class="more"' if metric not in (*_FIRST, *_WITHOUT_TARGETS) else ""
        cells.append(f'<td{hidden} data-bad="{told}" title="{value}">{number(value)}')
    warned = ' class="warned"' if n_warnings else ""
    return (
        f'<tr data-case="{number_}"><th scope="row" class="text">'
        f'<button type="button" class="open">{escape(page.identifier)}</button>'
        f'<td>{page.thumbnail}<td{warned} data-bad="{n_warnings}">{n_warnings or "none"}'
        f"{''.join(cells)}</tr>"
    )


def _foot(metrics: list[str], summary: Summary) -> str:
    there = [s for s in STATISTICS if any(s in values for values in summary.aggregate.values())]
    rows = []
    for statistic in there:
        cells = (
            f"<td{_class(metric, summary)}>"
            + number(summary.aggregate.get(metric, {}).get(statistic))
            for metric in metrics
        )
        rows.append(
            f'<tr><th scope="row" colspan="3">{escape(_title(statistic))}{"".join(cells)}</tr>'
        )
    return "".join(rows)


def _rules(summary: Summary) -> str:
    ranges = "".join(
        f'<tr><th scope="row">{escape(_title(metric))}<td>{escape(told)}</tr>'
        for metric, told in summary.ranges.items()
    )
    matched = (
        f" Intensities are matched first ({escape(summary.match_intensity)})."
        if summary.match_intensity
        else ""
    )
    note = f" {escape(summary.note)}." if summary.note else ""
    return (
        f"<p>As gdm_evaluate scores them: convention {escape(summary.convention)}, data range"
        f" {escape(str(summary.data_range))}, mask: {escape(summary.mask)}.{matched}{note}</p>"
        f'<details><summary>Data ranges</summary><table class="rows">{ranges}</table></details>'
    )


def _class(metric: str, summary: Summary | None) -> str:
    return ' class="more"' if summary is not None and metric not in _FIRST else ""


def _title(name: str) -> str:
    return _TITLES.get(name, name.replace("_", " "))
