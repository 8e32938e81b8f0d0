"""The report: one HTML file that holds everything and needs nothing else, not even a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from string import Template

from gdmnet.metrics.summary import Summary
from gdmnet.report.figures import charts, folded
from gdmnet.report.overview import overview
from gdmnet.report.provenance import DIFFERS, CaseOrigin, Origin, Rows
from gdmnet.report.view import CasePage

_SCRIPTS = ("decode.js", "paint.js", "viewer.js", "table.js", "control.js")
_METHODS = """<section id="methods" aria-labelledby="methods-title">
<h2 id="methods-title">Methods</h2>{}</section>"""
_NO_UNIT = (
    "These targets have no unit. Errors hold every difference of overall brightness and contrast;"
    " gdm_report --match-intensity linear takes it out."
)


@dataclass(frozen=True)
class ReportPage:
    """What a report says.

    Attributes:
        title: of the page.
        cases: those that can be shown, all with the same methods; at least one.
        summaries: method -> what gdm_evaluate says; empty without targets.
        origin: where the predictions come from.
        made: rows about the report itself: version, command, date.
        methods: HTML that puts the methods beside each other, above the pictures; "" for one.
    """

    title: str
    cases: tuple[CasePage, ...]
    summaries: Mapping[str, Summary]
    origin: Origin
    made: Rows
    methods: str = ""


def render(report: ReportPage) -> str:
    """The report as HTML."""
    origins = {
        p.identifier: report.origin.cases.get(p.identifier, CaseOrigin()) for p in report.cases
    }
    counts = {name: len(origin.warnings) for name, origin in origins.items()}
    n_cases, methods = len(report.cases), report.cases[0].methods
    several = f"{len(methods)} methods on the same " if len(methods) > 1 else ""
    return Template(_read_part("page.html")).substitute(
        title=escape(report.title),
        subtitle=f"{several}{n_cases} case{'s' if n_cases != 1 else ''}. Research software, no"
        " medical device: a person must look at every prediction before it is used.",
        css=_read_part("page.css"),
        links='<a href="#methods">Methods</a>' if report.methods else "",
        notices=_notices(report, origins),
        methods=_METHODS.format(report.methods) if report.methods else "",
        overview=overview(report.cases, report.summaries, counts),
        case_warnings=_each(report.cases, lambda p: _case_warnings(origins[p.identifier].warnings)),
        case_notes=_each(report.cases, lambda p: _case_notes(p, origins[p.identifier])),
        charts=_each(report.cases, lambda p: charts(p.figures)),
        provenance=_rows_table([*report.made, *report.origin.rows, *_inputs(origins)]),
        footer=escape(", ".join(f"{name} {value}" for name, value in report.made)),
        data="".join(
            f'<script type="application/json" id="case-{i}">{p.view}</script>\n'
            for i, p in enumerate(report.cases)
        ),
        script="\n".join(_read_part(name) for name in _SCRIPTS),
    )


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
    blocks = [_notice(title, rows) for title, rows in alarms.items() if rows]
    first = next(iter(report.summaries.values()), None)
    if first is None:
        blocks.append(_hint("No targets were given: nothing here says how accurate these are."))
    elif first.match_intensity is None and not all(p.unit for p in report.cases):
        blocks.append(_hint(_NO_UNIT))
    if not report.origin.rows:
        blocks.append(_hint("There is no predictions.json: what made these images is not known."))
    return "".join(blocks)


def _hint(text: str) -> str:
    return f'<div class="notice">{text}</div>'


def _notice(title: str, rows: Sequence[tuple[str, str]]) -> str:
    items = "".join(f"<li><b>{escape(name)}</b>: {escape(text)}" for name, text in rows)
    return f'<div class="notice alarm"><h2>{title}</h2><ul>{items}</ul></div>'


def _case_warnings(warnings: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(text)}" for text in warnings)
    return f'<div class="notice alarm"><ul>{items}</ul></div>' if warnings else ""


def _case_notes(case: CasePage, origin: CaseOrigin) -> str:
    facts = "".join(f"<li>{escape(fact)}" for fact in case.facts)
    if origin.findings == ():
        facts += "<li>input check: like the training data"
    notes = f'<ul class="facts">{facts}</ul>'
    if origin.findings:
        rows = "".join(
            "<tr><th scope=row>" + "<td>".join(escape(cell) for cell in finding) + "</tr>"
            for finding in origin.findings
        )
        heads = "what<th scope=col>this input<th scope=col>training<th scope=col>accepted"
        notes += folded(
            "Input check: how this input differs from the training data",
            f"<table><thead><tr><th scope=col class=text>{heads}</thead>{rows}</table>",
            is_open=True,
        )
    return notes


def _each(pages: Sequence[CasePage], html: Callable[[CasePage], str]) -> str:
    """HTML of every case, of which the page shows that of the open case."""
    return "".join(
        f'<div class="per-case" data-case="{i}" hidden>{html(p)}</div>' for i, p in enumerate(pages)
    )


def _inputs(origins: Mapping[str, CaseOrigin]) -> Rows:
    return tuple(row for origin in origins.values() for row in origin.inputs)


def _rows_table(rows: Sequence[tuple[str, str]]) -> str:
    """Names and values."""
    body = "".join(
        f"<tr><th scope=row>{escape(name)}<td>{escape(value)}</tr>" for name, value in rows
    )
    return f'<table class="rows">{body}</table>'


def _read_part(name: str) -> str:
    """A file that lies beside this module."""
    return (resources.files("gdmnet.report") / name).read_text(encoding="utf-8")
