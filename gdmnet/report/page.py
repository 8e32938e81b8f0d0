"""The report: one HTML file that holds everything and needs nothing else, not even a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from string import Template

from gdmnet.metrics.summary import Summary
from gdmnet.report.case import CasePage
from gdmnet.report.overview import overview
from gdmnet.report.provenance import DIFFERS, MODEL_FOLDER, CaseOrigin, Origin, Rows

_SCRIPTS = ("decode.js", "paint.js", "lines.js", "viewer.js", "table.js", "control.js")
_OPEN_TABLES = 1  # provenance tables that are not folded away


@dataclass(frozen=True)
class Report:
    """What a report says.

    Attributes:
        title: of the page.
        pages: the cases that can be shown.
        summary: of gdm_evaluate; None without targets.
        origin: where the predictions come from.
        inputs: identifier -> file name, SHA-256 and verdict of each source.
        made: rows about the report itself: version, command, date.
    """

    title: str
    pages: tuple[CasePage, ...]
    summary: Summary | None
    origin: Origin
    inputs: Mapping[str, Sequence[tuple[str, str, str]]]
    made: Rows


def page(report: Report) -> str:
    """The report as HTML."""
    origins = {
        p.identifier: report.origin.cases.get(p.identifier, CaseOrigin()) for p in report.pages
    }
    warnings = {
        name: (*origin.warnings, *_changed_inputs(report.inputs.get(name, ())))
        for name, origin in origins.items()
    }
    counts = {name: len(told) for name, told in warnings.items()}
    n_cases = len(report.pages)
    return Template(read_part("page.html")).substitute(
        title=escape(report.title),
        subtitle=f"{n_cases} case{'s' if n_cases != 1 else ''}. Research software, no medical"
        " device: a person must look at every prediction before it is used.",
        css=read_part("page.css"),
        notices=_notices(report, warnings),
        overview=overview(report.pages, report.summary, counts),
        case_warnings=_each(report.pages, lambda p: _case_warnings(warnings[p.identifier])),
        case_notes=_each(report.pages, lambda p: _case_notes(p, origins[p.identifier])),
        charts=_each(report.pages, lambda p: f'<div class="charts">{"".join(p.figures)}</div>'),
        training=_training(report.origin),
        provenance=_provenance(report),
        footer=escape(", ".join(f"{name} {value}" for name, value in report.made)),
        data="".join(
            f'<script type="application/json" id="case-{i}">{p.view}</script>\n'
            for i, p in enumerate(report.pages)
        ),
        script="\n".join(read_part(name) for name in _SCRIPTS),
    )


def _notices(report: Report, warnings: Mapping[str, Sequence[str]]) -> str:
    told = [(name, text) for name, texts in warnings.items() for text in texts]
    failed = [(n, c.error) for n, c in report.origin.cases.items() if c.error is not None]
    blocks = []
    if told:
        blocks.append(_notice("Look twice: warnings of the input check and the prediction", told))
    if failed:
        blocks.append(_notice("Not predicted", failed))
    changed = [row for row in report.origin.tables.get(MODEL_FOLDER, ()) if DIFFERS in row[1]]
    if changed:
        blocks.append(_notice("The model's plan and curves below are of other weights", changed))
    if report.summary is None:
        blocks.append(_hint("No targets were given: nothing here says how accurate these are."))
    elif report.summary.match_intensity is None and not all(p.unit for p in report.pages):
        blocks.append(
            _hint(
                "These targets have no unit. Errors hold every difference of overall brightness and"
                " contrast; gdm_report --match-intensity linear takes it out."
            )
        )
    if not report.origin.tables:
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
        notes += (
            "<details open><summary>Input check: how this input differs from the training data"
            "</summary><table><thead><tr><th scope=col class=text>what<th scope=col>this input"
            f"<th scope=col>training<th scope=col>accepted</thead>{rows}</table></details>"
        )
    return notes


def _each(pages: Sequence[CasePage], html: Callable[[CasePage], str]) -> str:
    """HTML of every case, of which the page shows that of the open case."""
    return "".join(
        f'<div class="per-case" data-case="{i}" hidden>{html(p)}</div>' for i, p in enumerate(pages)
    )


def _training(origin: Origin) -> str:
    if not origin.training:
        return ""
    folds = "".join(
        f"<details{' open' if len(origin.training) == 1 else ''}><summary>Fold {escape(fold)}"
        f'</summary><div class="charts">{"".join(figures)}</div></details>'
        for fold, figures in origin.training.items()
    )
    return (
        '<section id="training" aria-labelledby="training-title"><h2 id="training-title">'
        f"Training of the model</h2>{folds}</section>"
    )


def _provenance(report: Report) -> str:
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
    return (
        f"<details{' open' if is_open else ''}><summary>{escape(title)}</summary>"
        f'<table class="rows">{body}</table></details>'
    )


def _changed_inputs(inputs: Sequence[tuple[str, str, str]]) -> list[str]:
    return [f"{name} {verdict}" for name, _, verdict in inputs if DIFFERS in verdict]


def read_part(name: str) -> str:
    """A file that lies beside this module."""
    return (resources.files("gdmnet.report") / name).read_text(encoding="utf-8")
