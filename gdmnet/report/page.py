"""The report: one HTML file that holds everything and needs nothing else, not even a network."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from importlib import resources
from string import Template

from gdmnet import __version__
from gdmnet.metrics.statistics import STATISTICS, Values, metric_names
from gdmnet.metrics.summary import Summary
from gdmnet.metrics.titles import best_value, penalty, title_of
from gdmnet.parallel import map_cases
from gdmnet.report.cases import ReportCase
from gdmnet.report.depths import depth_tables, is_of_section
from gdmnet.report.figures import charts, folded, html_table
from gdmnet.report.provenance import DIFFERS, CaseOrigin, Origin, Rows
from gdmnet.report.view import CasePage, case_page
from gdmnet.table import cell_text, decimals_of

_SCRIPTS = ("decode.js", "paint.js", "viewer.js", "table.js", "control.js")
_METHODS = """<section id="methods" aria-labelledby="methods-title">
<h2 id="methods-title">Methods</h2>{}</section>"""
_DEPTHS = """<section id="depths" aria-labelledby="depths-title">
<h2 id="depths-title">Depths and regions</h2><p>Prediction against target. Depths are errors in
water-equivalent path length along parallel beams; they are no dose calculation.</p>
<h3>Mean over the cases</h3>{mean}<h3>This case</h3>{cases}</section>"""
_NO_UNIT = (
    "These targets have no unit. Errors hold every difference of overall brightness and contrast;"
    " gdm_report --match-intensity linear takes it out."
)
_STATISTICS = {"ci95_low": "mean: 95 % from", "ci95_high": "mean: 95 % to"}
_FIRST = ("mae", "bias", "psnr", "ssim", "ms_ssim", "sharpness", "dice", "hd95")
_FIRST_OF_SEVERAL = ("mae", "sharpness")  # a column a method
_TABLE = """<p>Press a title to sort by it, the worst on top; press a case to see it.{more}</p>
<div class="scroll"><table id="cases"><thead><tr>{heads}</tr></thead>
<tbody>{rows}</tbody><tfoot>{foot}</tfoot></table></div>{rules}"""


@dataclass(frozen=True)
class _Column:
    """One metric of one method."""

    metric: str
    title: str
    hint: str  # which values are good
    css: str  # class of its cells, as an attribute: columns behind "all metrics" have one
    cases: Mapping[str, float | None]  # values by case
    aggregate: Values  # their statistics

    def penalty(self, page: CasePage) -> float | None:
        """How bad the value of a case is; None where it has none."""
        return penalty(self.metric, self.cases.get(page.identifier))

    def text(self, value: float | None) -> str:
        """A value of the column, with the decimals of all."""
        return cell_text(value, decimals_of((*self.cases.values(), *self.aggregate.values())))


@dataclass(frozen=True)
class ReportPage:
    """What a report says."""

    title: str
    cases: tuple[CasePage, ...]  # at least one, all with the same methods
    summaries: Mapping[str, Summary]  # method -> what gdm_evaluate says; empty without targets
    origin: Origin  # where the predictions come from
    made: Rows  # about the report itself: version, command, date
    methods: str = ""  # HTML that puts methods beside each other, above the pictures; "" for one


def render(report: ReportPage) -> str:
    """The report as HTML."""
    depths = _depths(report)
    origins = {
        p.identifier: report.origin.cases.get(p.identifier, CaseOrigin()) for p in report.cases
    }
    counts = {name: len(origin.warnings) for name, origin in origins.items()}
    inputs = [row for origin in origins.values() for row in origin.inputs]
    n_cases, methods = len(report.cases), report.cases[0].methods
    several = f"{len(methods)} methods on the same " if len(methods) > 1 else ""
    return Template(_read_part("page.html")).substitute(
        title=escape(report.title),
        subtitle=f"{several}{n_cases} case{'s' if n_cases != 1 else ''}. Research software, no"
        " medical device: a person must look at every prediction before it is used.",
        css=_read_part("page.css"),
        links=('<a href="#methods">Methods</a> ' if report.methods else "")
        + ('<a href="#depths">Depths</a>' if depths else ""),
        notices=_notices(report, origins),
        methods=_METHODS.format(report.methods) if report.methods else "",
        overview=overview(report.cases, report.summaries, counts, _expected(report, origins)),
        depths=depths,
        case_warnings=_each(
            report.cases, lambda p: _alarm([*map(escape, origins[p.identifier].warnings)])
        ),
        case_notes=_each(report.cases, lambda p: _case_notes(p, origins[p.identifier])),
        charts=_each(report.cases, lambda p: charts(p.figures)),
        provenance=_rows_table([*report.made, *report.origin.rows, *inputs]),
        data="".join(
            f'<script type="application/json" id="case-{i}">{p.view}</script>\n'
            for i, p in enumerate(report.cases)
        ),
        script="\n".join(_read_part(name) for name in _SCRIPTS),
    )


def pack_and_render(
    title: str,
    cases: Sequence[ReportCase],
    summaries: Mapping[str, Summary],
    origin: Origin,
    made: Mapping[str, str],
    *,
    convention: str,
    methods: str = "",
    n_processes: int,
) -> str:
    """The report of cases whose images are read and packed first; arguments as of `ReportPage`.

    `made` are the command and the date, `convention` is that of the metrics.

    Raises:
        DatasetError: an image cannot be read, or a mask is empty.
    """
    names, own = origin.channel_names, dict(summaries)
    pack = partial(case_page, channel_names=names, summaries=own, convention=convention)
    pages = tuple(map_cases(pack, cases, n_processes=n_processes, title="packing"))
    rows = (("gdmnet", __version__), *made.items())
    return render(ReportPage(title, pages, summaries, origin, rows, methods))


def overview(
    pages: Sequence[CasePage],
    summaries: Mapping[str, Summary],
    n_warnings: Mapping[str, int],
    expected: _Column | None = None,
) -> str:
    """The table, the worst case first; without summaries names and warnings alone stand in it.

    Pages are in the order of their numbers; `expected` is the MAE expected without a target.
    """
    columns = [*_columns(summaries), *([] if expected is None else [expected])]
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


def _depths(report: ReportPage) -> str:
    """The section of depths and regions; "" where nothing was measured, or of several methods."""
    summary = next(iter(report.summaries.values()), None)
    if summary is None or len(report.summaries) > 1:
        return ""
    means = {metric: values.get("mean") for metric, values in summary.aggregate.items()}
    mean = depth_tables(means, summary.unit)
    cases = summary.cases
    each = _each(report.cases, lambda p: depth_tables(cases[p.identifier], summary.unit))
    return _DEPTHS.format(mean=mean, cases=each) if mean else ""


def _expected(report: ReportPage, origins: Mapping[str, CaseOrigin]) -> _Column | None:
    values = {name: origin.expected_mae for name, origin in origins.items()}
    if all(value is None for value in values.values()):
        return None
    title = title_of("mae", report.cases[0].unit).replace("MAE", "expected MAE")
    return _Column("expected_mae", title, "lower is better; without a target", "", values, {})


def _notices(report: ReportPage, origins: Mapping[str, CaseOrigin]) -> str:
    """What a reader must know before the rest."""
    alarms = {
        "Look twice: warnings of the input check and the prediction": [
            (name, text) for name, origin in origins.items() for text in origin.warnings
        ],
        "Not predicted": [(n, c.error) for n, c in report.origin.cases.items() if c.error],
        "The model in its folder is another one now": [
            row for row in report.origin.rows if DIFFERS in row[1]
        ],
    }
    blocks = [
        _alarm([f"<b>{escape(name)}</b>: {escape(text)}" for name, text in rows], title)
        for title, rows in alarms.items()
    ]
    hints, first = [], next(iter(report.summaries.values()), None)
    if first is None:
        hints.append("No targets were given: nothing here says how accurate these are.")
    elif first.match_intensity is None and not all(p.unit for p in report.cases):
        hints.append(_NO_UNIT)
    if not report.origin.rows:
        hints.append("There is no predictions.json: what made these images is not known.")
    return "".join([*blocks, *(f'<div class="notice">{hint}</div>' for hint in hints)])


def _alarm(items: Sequence[str], title: str = "") -> str:
    """What a person has to read, in HTML; "" for nothing."""
    head = f"<h2>{title}</h2>" if title else ""
    body = "".join(f"<li>{item}" for item in items)
    return f'<div class="notice alarm">{head}<ul>{body}</ul></div>' if items else ""


def _case_notes(case: CasePage, origin: CaseOrigin) -> str:
    facts = "".join(f"<li>{escape(fact)}" for fact in case.facts)
    if origin.expected_mae is not None:
        facts += f"<li>expected MAE {origin.expected_mae:.4g} {case.unit}, without a target"
        if origin.validation_mae:
            ends = " to ".join(f"{value:.4g}" for value in origin.validation_mae)
            facts += f"; the model's validation cases had {ends} {case.unit}"
    if origin.findings == ():
        facts += "<li>input check: like the training data"
    notes = f'<ul class="facts">{facts}</ul>'
    if origin.findings:
        title = "Input check: how this input differs from the training data"
        heads = "what", "this input", "training", "accepted"
        notes += folded(title, html_table([heads, *origin.findings]), is_open=True)
    return notes


def _each(pages: Sequence[CasePage], html: Callable[[CasePage], str]) -> str:
    """HTML of every case, of which the page shows that of the open case."""
    return "".join(
        f'<div class="per-case" data-case="{i}" hidden>{html(p)}</div>' for i, p in enumerate(pages)
    )


def _rows_table(rows: Sequence[tuple[str, str]]) -> str:
    """Names and values."""
    cells = (f"<tr><th scope=row>{escape(name)}<td>{escape(value)}</tr>" for name, value in rows)
    return f'<table class="rows">{"".join(cells)}</table>'


def _read_part(name: str) -> str:
    """A file that lies beside this module."""
    return (resources.files("gdmnet.report") / name).read_text(encoding="utf-8")


def _columns(summaries: Mapping[str, Summary]) -> list[_Column]:
    """All metrics that any case has: for each the methods side by side, the first metrics first."""
    first = _FIRST if len(summaries) == 1 else _FIRST_OF_SEVERAL
    defined = {
        metric: None
        for summary in summaries.values()
        for metric in metric_names(summary.cases)
        if not is_of_section(metric)
        and any(values.get(metric) is not None for values in summary.cases.values())
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
    worst = "ascending" if best_value(column.metric) == "higher is better" else "descending"
    order = f' data-order="worst" aria-sort="{worst}"' if chosen else ""
    return (
        f'<th scope="col"{column.css} data-worst="{worst}"{order}>'
        f'<button type="button" title="{escape(column.hint)}">{escape(column.title)}</button>'
    )


def _row(case_number: int, page: CasePage, columns: list[_Column], n_warnings: int) -> str:
    cells = []
    for column in columns:
        value, bad = column.cases.get(page.identifier), column.penalty(page)
        key = "" if bad is None else "Infinity" if math.isinf(bad) else str(bad)
        cells.append(f'<td{column.css} data-bad="{key}" title="{value}">{column.text(value)}')
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
            text = cell_text if statistic == "count" else None
            cells = (f"<td{c.css}>{(text or c.text)(c.aggregate.get(statistic))}" for c in columns)
            title = _STATISTICS.get(statistic, statistic)
            rows.append(f'<tr><th scope="row" colspan="2">{title}{"".join(cells)}</tr>')
    return "".join(rows)


def _rules(summary: Summary) -> str:
    match = summary.match_intensity
    matched = f" Intensities are matched first ({escape(match)})." if match else ""
    note = f" {escape(summary.note)}." if summary.note else ""
    span = escape(cell_text(summary.data_range))
    return (
        f"<p>As gdm_evaluate scores them: convention {escape(summary.convention)}, data range"
        f" {span}, mask: {escape(summary.mask)}.{matched}{note}</p>"
    )
