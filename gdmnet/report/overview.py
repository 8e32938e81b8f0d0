"""The table of all cases: every metric, how bad each value is, and what all cases say together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from gdmnet.metrics.statistics import STATISTICS, Values, metric_names
from gdmnet.metrics.summary import Summary
from gdmnet.metrics.titles import best_value, penalty, title_of
from gdmnet.report.figures import number
from gdmnet.report.view import CasePage

_STATISTICS = {"ci95_low": "mean: 95 % from", "ci95_high": "mean: 95 % to"}
_FIRST = ("mae", "bias", "psnr", "ssim", "ms_ssim", "sharpness", "dice", "hd95")
_FIRST_OF_SEVERAL = ("mae", "sharpness")  # a column a method
_WORST_ON_TOP = {"lower is better": "descending", "higher is better": "ascending"}
_TABLE = """<p>Press a title to sort by it, the worst on top; press a case to see it.{more}</p>
<div class="scroll"><table id="cases"><thead><tr>{heads}</tr></thead>
<tbody>{rows}</tbody><tfoot>{foot}</tfoot></table></div>{rules}"""


@dataclass(frozen=True)
class _Column:
    """One metric of one method.

    Attributes:
        metric: its name.
        title: above it, with the method where there are several.
        hint: says which values are good.
        css: the class of its cells, as an attribute: columns behind "all metrics" have one.
        cases: identifier -> value.
        aggregate: statistic -> value over the cases.
    """

    metric: str
    title: str
    hint: str
    css: str
    cases: Mapping[str, float | None]
    aggregate: Values

    def penalty(self, page: CasePage) -> float | None:
        """How bad the value of a case is; None where it has none."""
        return penalty(self.metric, self.cases.get(page.identifier))


def overview(
    pages: Sequence[CasePage], summaries: Mapping[str, Summary], n_warnings: Mapping[str, int]
) -> str:
    """The table, the worst case first; without summaries names and warnings alone stand in it.

    Args:
        pages: the cases, in the order of their numbers in the page.
        summaries: method -> what gdm_evaluate says; empty where there are no targets.
        n_warnings: identifier -> how many there are.
    """
    columns = _columns(summaries)
    bad = [columns[0].penalty(page) if columns else None for page in pages]
    ranks = [math.inf if one is None else -one for one in bad]
    heads = [
        '<th scope="col" class="text" data-worst="ascending"><button type="button">case</button>',
        '<th scope="col" data-worst="descending"><button type="button">warnings</button>',
        *(_head(column, chosen=column is columns[0]) for column in columns),
    ]
    more = ' <button type="button" id="more" aria-pressed="false">all metrics</button>'
    return _TABLE.format(
        more=more if any(column.css for column in columns) else "",
        heads="".join(heads),
        rows="".join(
            _row(i, pages[i], columns, n_warnings[pages[i].identifier])
            for i in sorted(range(len(pages)), key=ranks.__getitem__)
        ),
        foot=_foot(columns),
        rules="".join(_rules(summary) for summary in list(summaries.values())[:1]),
    )


def _columns(summaries: Mapping[str, Summary]) -> list[_Column]:
    """All metrics that any case has: for each the methods side by side, the first metrics first."""
    first = _FIRST if len(summaries) == 1 else _FIRST_OF_SEVERAL
    defined = {
        metric: None
        for summary in summaries.values()
        for metric in metric_names(summary.cases)
        if any(values.get(metric) is not None for values in summary.cases.values())
    }
    return [
        _Column(
            metric,
            title_of(metric, summary.unit) + (f": {method}" if len(summaries) > 1 else ""),
            best_value(metric)
            + (f"; data range: {summary.ranges[metric]}" if metric in summary.ranges else ""),
            "" if metric in first else ' class="more"',
            {name: values.get(metric) for name, values in summary.cases.items()},
            summary.aggregate.get(metric, {}),
        )
        for metric in sorted(defined, key=lambda metric: metric not in first)
        for method, summary in summaries.items()
    ]


def _head(column: _Column, *, chosen: bool) -> str:
    worst = _WORST_ON_TOP.get(best_value(column.metric), "other")
    order = f' data-order="worst" aria-sort="{worst}"' if chosen else ""
    return (
        f'<th scope="col"{column.css} data-worst="{worst}"{order}>'
        f'<button type="button" title="{escape(column.hint)}">{escape(column.title)}</button>'
    )


def _row(case_number: int, page: CasePage, columns: list[_Column], n_warnings: int) -> str:
    cells = []
    for column in columns:
        value, bad = column.cases.get(page.identifier), column.penalty(page)
        key = "" if bad is None else "Infinity" if math.isinf(bad) else repr(bad)
        cells.append(f'<td{column.css} data-bad="{key}" title="{value}">{number(value)}')
    warned = ' class="warned"' if n_warnings else ""
    return (
        f'<tr data-case="{case_number}"><th scope="row" class="text">'
        f'<button type="button" class="open">{escape(page.identifier)}</button>'
        f'<td{warned} data-bad="{n_warnings}">{n_warnings or "none"}'
        f"{''.join(cells)}</tr>"
    )


def _foot(columns: list[_Column]) -> str:
    rows = []
    for statistic in STATISTICS:
        if any(statistic in column.aggregate for column in columns):
            cells = (f"<td{c.css}>{number(c.aggregate.get(statistic))}" for c in columns)
            title = _STATISTICS.get(statistic, statistic)
            rows.append(f'<tr><th scope="row" colspan="2">{title}{"".join(cells)}</tr>')
    return "".join(rows)


def _rules(summary: Summary) -> str:
    match = summary.match_intensity
    matched = f" Intensities are matched first ({escape(match)})." if match else ""
    note = f" {escape(summary.note)}." if summary.note else ""
    return (
        f"<p>As gdm_evaluate scores them: convention {escape(summary.convention)}, data range"
        f" {escape(str(summary.data_range))}, mask: {escape(summary.mask)}.{matched}{note}</p>"
    )
