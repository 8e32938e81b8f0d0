"""A comparison as one HTML page that needs nothing else, and as one Markdown page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from string import Template

from gdmnet.compare.study import Scope, Study
from gdmnet.compare.study_figures import scatter_figures
from gdmnet.compare.study_table import as_html, as_markdown, facts, make_table, make_tests
from gdmnet.report.page import read_part, rows_table

_READING = (
    "Blue: the best of a column. A dot after the name: on the Pareto front, no other method is at"
    " least as good in MAE, implausibility and network calls and better in one of them."
    " Implausibility is the distance from the real images in histogram, gradients, spectrum, edge"
    " width and sharpness, as a share of these methods' mean: 1 is average, 0.8 nearer by a fifth."
)
_FILLED = (
    "Lower left is better. Filled dots are on the Pareto front of MAE, implausibility and network"
    " calls; the dashed line is the front of each chart's own two axes."
)
_TESTS = "Paired over the cases: mean difference, its 95 % bootstrap interval, Wilcoxon's p."


def study_page(study: Study, pictures: Sequence[str]) -> str:
    """The page.

    Args:
        study: what was found.
        pictures: of `case_pictures`, taken on the first scope's images.
    """
    links = [(f"#{name}", scope.title) for name, scope in study.scopes.items()]
    links += [("#pictures", "Pictures"), ("#settings", "Settings")]
    n_cases, n_methods = len(study.cases), len(study.methods)
    notes = "".join(f"<li>{escape(note)}" for note in study.notes)
    first = next(iter(study.scopes.values()))
    return Template(read_part("study.html")).substitute(
        title=escape(_title(study)),
        subtitle=f"{n_methods} method{'s' * (n_methods != 1)} on the same {n_cases} held-out"
        f" case{'s' * (n_cases != 1)}. Research software, no medical device.",
        css=read_part("page.css"),
        links=" ".join(f'<a href="{to}">{escape(_capital(name))}</a>' for to, name in links),
        notices=f'<div class="notice"><ul>{notes}</ul></div>',
        scopes="".join(_scope(study, name, scope) for name, scope in study.scopes.items()),
        pictured=f"{escape(_capital(first.title))}: worst, median and best case by the MAE of"
        f" {escape(study.reference)}; axial, coronal below, then the error (prediction minus"
        " target).",
        pictures="".join(pictures),
        settings=rows_table("Settings", tuple(facts(study).items()), is_open=True),
        footer=escape(f"gdmnet {study.version}"),
    )


def study_markdown(study: Study) -> str:
    """The tables, notes and settings as Markdown."""
    parts = [f"# {_title(study)}"]
    for scope in study.scopes.values():
        parts += [f"## {_capital(scope.title)}", as_markdown(make_table(study, scope))]
        parts.append(
            "Bold: the best of a column; *: on the Pareto front of MAE, implausibility and"
            " network calls."
        )
        if scope.against:
            tests = make_tests(study, scope)
            parts += [f"### Against {scope.reference}", as_markdown(tests)]
    parts.append("\n".join(f"- {note}" for note in study.notes))
    parts.append("\n".join(f"- {name}: {value}" for name, value in facts(study).items()))
    return "\n\n".join(parts) + "\n"


def _scope(study: Study, name: str, scope: Scope) -> str:
    charts = "".join(scatter_figures(study, scope))
    tests = ""
    if scope.against:
        table = as_html(make_tests(study, scope))
        tests = f"<h3>Against {escape(scope.reference)}</h3><p>{_TESTS}</p>{table}"
    return (
        f'<section id="{name}" aria-labelledby="{name}-title"><h2 id="{name}-title">'
        f"{escape(_capital(scope.title))}</h2>"
        f'<div class="charts">{charts}</div><p>{_FILLED}</p>'
        f"{as_html(make_table(study, scope))}<p>{_READING}</p>{tests}</section>"
    )


def _title(study: Study) -> str:
    return f"{study.settings.dataset}, {study.settings.configuration}: methods compared"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
