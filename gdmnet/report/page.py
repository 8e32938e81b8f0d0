"""The report: one HTML file that holds everything and needs nothing else, not even a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import resources
from string import Template

from gdmnet.metrics.summary import Summary
from gdmnet.report.case import CasePage
from gdmnet.report.figures import charts, folded
from gdmnet.report.overview import overview
from gdmnet.report.provenance import DIFFERS, MODEL_FOLDER, CaseOrigin, Origin, Rows

_SCRIPTS = ("decode.js", "paint.js", "lines.js", "viewer.js", "table.js", "control.js")
_OPEN_TABLES = 1  # provenance tables that are not folded away
_NO_UNIT = (
    "These targets have no unit. Errors hold every difference of overall brightness and contrast;"
    " gdm_report --match-intensity linear takes it out."
)


@dataclass(frozen=True)
class Section:
    """A part of the page above the table of cases.

    Attributes:
        name: its anchor, a word of letters.
        title: above it.
        html: of its body.
    """

    name: str
    title: str
    html: str


@dataclass(frozen=True)
class ReportPage:
    """What a report says.

    Attributes:
        title: of the page.
        cases: those that can be shown, all with the same methods; at least one.
        summaries: method -> what gdm_evaluate says; empty without targets.
        origin: where the predictions come from; its tables stand under "Provenance".
        made: rows about the report itself: version, command, date.
        inputs: identifier -> file name, SHA-256 and verdict of each source.
        sections: stand above the table of cases, with links at the top.
    """

    title: str
    cases: tuple[CasePage, ...]
    summaries: Mapping[str, Summary]
    origin: Origin
    made: Rows
    inputs: Mapping[str, Sequence[tuple[str, str, str]]] = field(default_factory=dict)
    sections: tuple[Section, ...] = ()


def render(report: ReportPage) -> str:
    """The report as HTML."""
    origins = {
        p.identifier: report.origin.cases.get(p.identifier, CaseOrigin()) for p in report.cases
    }
    warnings = {
        name: (*origin.warnings, *_changed_inputs(report.inputs.get(name, ())))
        for name, origin in origins.items()
    }
    counts = {name: len(texts) for name, texts in warnings.items()}
    n_cases, methods = len(report.cases), list(report.cases[0].values)
    several = f"{len(methods)} methods on the same " if len(methods) > 1 else ""
    return Template(read_part("page.html")).substitute(
        title=escape(report.title),
        subtitle=f"{several}{n_cases} case{'s' if n_cases != 1 else ''}. Research software, no"
        " medical device: a person must look at every prediction before it is used.",
        css=read_part("page.css"),
        links=" ".join(
            f'<a href="#{section.name}">{escape(section.title)}</a>' for section in report.sections
        ),
        notices=_notices(report, warnings),
        sections="".join(_section(section) for section in report.sections),
        overview=overview(report.cases, report.summaries, counts),
        case_warnings=_each(report.cases, lambda p: _case_warnings(warnings[p.identifier])),
        case_notes=_each(report.cases, lambda p: _case_notes(p, origins[p.identifier])),
        charts=_each(report.cases, lambda p: charts(p.figures)),
        training=_training(report.origin),
        provenance=_provenance(report),
        footer=escape(", ".join(f"{name} {value}" for name, value in report.made)),
        data="".join(
            f'<script type="application/json" id="case-{i}">{p.view}</script>\n'
            for i, p in enumerate(report.cases)
        ),
        script="\n".join(read_part(name) for name in _SCRIPTS),
    )


def _notices(report: ReportPage, warnings: Mapping[str, Sequence[str]]) -> str:
    """What a reader must know before the rest."""
    alarms = {
        "Look twice: warnings of the input check and the prediction": [
            (name, text) for name, texts in warnings.items() for text in texts
        ],
        "Not predicted": [(n, c.error) for n, c in report.origin.cases.items() if c.error],
        "The model's plan and curves below are of other weights": [
            row for row in report.origin.tables.get(MODEL_FOLDER, ()) if DIFFERS in row[1]
        ],
    }
    blocks = [_notice(title, rows) for title, rows in alarms.items() if rows]
    first = next(iter(report.summaries.values()), None)
    if first is None:
        blocks.append(_hint("No targets were given: nothing here says how accurate these are."))
    elif first.match_intensity is None and not all(p.unit for p in report.cases):
        blocks.append(_hint(_NO_UNIT))
    if not report.origin.tables:
        blocks.append(_hint("There is no predictions.json: what made these images is not known."))
    return "".join(blocks)


def _section(section: Section) -> str:
    title = f"{section.name}-title"
    return (
        f'<section id="{section.name}" aria-labelledby="{title}"><h2 id="{title}">'
        f"{escape(section.title)}</h2>{section.html}</section>\n"
    )


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


def _training(origin: Origin) -> str:
    folds = [
        folded(f"Fold {fold}", charts(figures), is_open=len(origin.training) == 1)
        for fold, figures in origin.training.items()
    ]
    return _section(Section("training", "Training of the model", "".join(folds))) if folds else ""


def _provenance(report: ReportPage) -> str:
    tables = [rows_table("This report", report.made, is_open=True)]
    tables += [
        rows_table(title, rows, is_open=i < _OPEN_TABLES)
        for i, (title, rows) in enumerate(report.origin.tables.items())
    ]
    inputs = [
        (name, f"{file}: SHA-256 {digest} ({verdict})")
        for name, files in report.inputs.items()
        for file, digest, verdict in files
    ]
    if inputs:
        tables.append(rows_table("Inputs", tuple(inputs)))
    return "".join(tables)


def rows_table(title: str, rows: Rows, *, is_open: bool = False) -> str:
    """Names and values that can be folded away under a title."""
    body = "".join(
        f"<tr><th scope=row>{escape(name)}<td>{escape(value)}</tr>" for name, value in rows
    )
    return folded(title, f'<table class="rows">{body}</table>', is_open=is_open)


def _changed_inputs(inputs: Sequence[tuple[str, str, str]]) -> list[str]:
    return [f"{name} {verdict}" for name, _, verdict in inputs if DIFFERS in verdict]


def read_part(name: str) -> str:
    """A file that lies beside this module."""
    return (resources.files("gdmnet.report") / name).read_text(encoding="utf-8")
