"""The table of all cases: every metric, how bad each value is, and what all cases say together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from gdmnet.metrics.statistics import STATISTICS, Values, metric_names
from gdmnet.metrics.summary import Summary
from gdmnet.report.case import CasePage
from gdmnet.report.figures import number

_TITLES = {
    "mae": "MAE",
    "psnr": "PSNR [dB]",
    "ssim": "SSIM",
    "ms_ssim": "MS-SSIM",
    "ci95_low": "mean: 95 % from",
    "ci95_high": "mean: 95 % to",
}
_FIRST = ("mae", "bias", "psnr", "ssim", "ms_ssim", "sharpness", "dice", "hd95")
_FIRST_OF_SEVERAL = ("mae", "sharpness")  # a column a method
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


@dataclass(frozen=True)
class _Column:
    """One metric of one method.

    Attributes:
        metric: its name.
        title: above it, with the method where there are several.
        hint: says which values are good.
        is_first: whether it is shown before "all metrics" is pressed.
        cases: identifier -> value.
        aggregate: statistic -> value over the cases.
    """

    metric: str
    title: str
    hint: str
    is_first: bool
    cases: Mapping[str, float | None]
    aggregate: Values

    @property
    def worst(self) -> str:
        """At which end of the values the worst case stands, in the words of aria-sort."""
        if self.metric.startswith((*_BEST_AT_ONE, *_BEST_AT_ZERO)):
            return "other"
        return "ascending" if self.metric.startswith(_HIGHER_IS_BETTER) else "descending"

    @property
    def hidden(self) -> str:
        """The class of its cells."""
        return "" if self.is_first else ' class="more"'


def overview(
    pages: Sequence[CasePage], summaries: Mapping[str, Summary], n_warnings: Mapping[str, int]
) -> str:
    """The table, the worst case first; without summaries the predictions' values stand in it.

    Args:
        pages: the cases, in the order of their numbers in the page.
        summaries: method -> what gdm_evaluate says; empty where there are no targets.
        n_warnings: identifier -> how many there are.
    """
    columns = _scored(summaries) if summaries else _unscored(pages)
    numbers = sorted(range(len(pages)), key=lambda i: _worst_first(columns[0], pages[i]))
    heads = [
        '<th scope="col" class="text" data-worst="ascending"><button type="button">case</button>',
        '<th scope="col">picture',
        '<th scope="col" data-worst="descending"><button type="button">warnings</button>',
        *(_head(column, chosen=column is columns[0]) for column in columns),
    ]
    rows = (_row(i, pages[i], columns, n_warnings[pages[i].identifier]) for i in numbers)
    more = ' <button type="button" id="more" aria-pressed="false">all metrics</button>'
    first = next(iter(summaries.values()), None)
    return _TABLE.format(
        more="" if all(column.is_first for column in columns) else more,
        heads="".join(heads),
        rows="".join(rows),
        foot=_foot(columns),
        rules="" if first is None else _rules(first),
    )


def _scored(summaries: Mapping[str, Summary]) -> list[_Column]:
    """All metrics that any case has: for each the methods side by side, the first metrics first."""
    several = len(summaries) > 1
    first = _FIRST_OF_SEVERAL if several else _FIRST
    defined = {
        metric: None
        for summary in summaries.values()
        for metric in metric_names(summary.cases)
        if any(values.get(metric) is not None for values in summary.cases.values())
    }
    return [
        _Column(
            metric,
            f"{_title(metric)}: {method}" if several else _title(metric),
            _hint(metric, summary),
            metric in first,
            {name: values.get(metric) for name, values in summary.cases.items()},
            summary.aggregate.get(metric, {}),
        )
        for metric in sorted(defined, key=lambda metric: metric not in first)
        for method, summary in summaries.items()
    ]


def _unscored(pages: Sequence[CasePage]) -> list[_Column]:
    """Mean, minimum and maximum of every method's predictions."""
    several = len(pages[0].values) > 1
    return [
        _Column(
            name,
            f"{name}: {method}" if several else name,
            "of the prediction inside the mask",
            True,
            {page.identifier: page.values[method][i] for page in pages},
            {},
        )
        for i, name in enumerate(_WITHOUT_TARGETS)
        for method in pages[0].values
    ]


def _hint(metric: str, summary: Summary) -> str:
    hint = "lower is better"
    if metric.startswith(_HIGHER_IS_BETTER):
        hint = "higher is better"
    elif metric.startswith((*_BEST_AT_ONE, *_BEST_AT_ZERO)):
        hint = f"{1 if metric.startswith(_BEST_AT_ONE) else 0} is best"
    if metric in summary.ranges:
        hint += f"; data range: {summary.ranges[metric]}"
    return hint


def _worst_first(column: _Column, page: CasePage) -> tuple[bool, float]:
    bad = badness(column.metric, column.cases.get(page.identifier))
    return (True, 0.0) if bad is None else (False, -bad)


def _head(column: _Column, *, chosen: bool) -> str:
    order = f' data-order="worst" aria-sort="{column.worst}"' if chosen else ""
    return (
        f'<th scope="col"{column.hidden} data-worst="{column.worst}"{order}>'
        f'<button type="button" title="{escape(column.hint)}">{escape(column.title)}</button>'
    )


def _row(case_number: int, page: CasePage, columns: list[_Column], n_warnings: int) -> str:
    cells = []
    for column in columns:
        value = column.cases.get(page.identifier)
        bad = badness(column.metric, value)
        key = "" if bad is None else "Infinity" if math.isinf(bad) else repr(bad)
        cells.append(f'<td{column.hidden} data-bad="{key}" title="{value}">{number(value)}')
    warned = ' class="warned"' if n_warnings else ""
    return (
        f'<tr data-case="{case_number}"><th scope="row" class="text">'
        f'<button type="button" class="open">{escape(page.identifier)}</button>'
        f'<td>{page.thumbnail}<td{warned} data-bad="{n_warnings}">{n_warnings or "none"}'
        f"{''.join(cells)}</tr>"
    )


def _foot(columns: list[_Column]) -> str:
    rows = []
    for statistic in STATISTICS:
        if any(statistic in column.aggregate for column in columns):
            cells = (f"<td{c.hidden}>{number(c.aggregate.get(statistic))}" for c in columns)
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


def _title(name: str) -> str:
    return _TITLES.get(name, name.replace("_", " "))
