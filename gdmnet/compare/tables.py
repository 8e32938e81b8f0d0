"""The tables of a comparison: the same cells as text and as HTML."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from operator import attrgetter
from typing import Any

from gdmnet.compare.record import COMPARED, FIDELITY, PLAUSIBILITY, Comparison, MethodFigures
from gdmnet.metrics.statistics import Paired
from gdmnet.metrics.summary import HU
from gdmnet.metrics.titles import best_value, penalty, title_of
from gdmnet.table import cell_text, text_table

WINNER = "better than each other method: the 95 % interval of the paired difference excludes 0"
FRONT = (
    "on the Pareto front: no other method is at least as good in MAE, implausibility and network"
    " calls and better in one of them"
)
_AVERAGE = "1 is the average method of this table; lower is better"


@dataclass(frozen=True)
class ComparisonTable:
    """Cells as text."""

    titles: tuple[str, ...]
    hints: tuple[str, ...]  # a word about each column
    rows: tuple[tuple[str, ...], ...]  # a row is a method, whose name is its first cell
    winners: frozenset[tuple[int, int]] = frozenset()  # (row, column)
    front: frozenset[int] = frozenset()  # rows


def methods_table(compared: Comparison) -> ComparisonTable:
    """All methods: metrics, then costs as far as they are known."""
    figures, facts = list(compared.figures.values()), list(compared.facts.values())
    columns = [
        [_title(m, compared), _hint(m), *(cell_text(f.aggregate[m]["mean"]) for f in figures)]
        for m in COMPARED
    ]
    for title, hint, name, show in _COSTS:
        owners = facts if name.startswith("training") else figures
        numbers = [attrgetter(name)(owner) for owner in owners]
        if any(number is not None for number in numbers):
            columns.append([title, hint, *("-" if n is None else show(n) for n in numbers)])
    names = list(compared.figures)
    titles, hints, *rows = zip(["method", "", *names], *columns, strict=True)
    winners = ((names.index(n), 1 + COMPARED.index(m)) for m, n in compared.winners.items())
    front = frozenset(names.index(name) for name in compared.front)
    return ComparisonTable(titles, hints, tuple(rows), frozenset(winners), front)


def paired_table(compared: Comparison) -> ComparisonTable:
    """Every other method minus the reference: difference, interval, p, and which is better."""
    reference = compared.figures[compared.reference]
    rows = []
    for rival, found in compared.against.items():
        own = compared.figures[rival]
        rows.append((rival, *(_tested(found.get(m), m, own, reference) for m in COMPARED)))
    return ComparisonTable(
        (f"method - {compared.reference}", *(_title(metric, compared) for metric in COMPARED)),
        ("", *map(_hint, COMPARED)),
        tuple(rows),
    )


def best_methods(compared: Comparison) -> list[tuple[str, ...]]:
    """For each criterion: the best method, its command, and how it differs from the others."""
    found = []
    for criterion, best in compared.best.items():
        unit = f" {compared.units}" if criterion == FIDELITY else ""
        rivals = [
            f"against {rival}: {_paired(paired, unit)}"
            + ("" if paired.is_significant else ": they do not differ significantly")
            for rival, paired in best.against.items()
        ]
        command = compared.facts[best.name].command
        found.append((f"best by {criterion}: {best.name}", command, *rivals))
    return found


def as_text(compared: Comparison) -> str:
    """Tables, the best methods, notes and settings, for the terminal and compare.txt."""
    matched = ", intensities matched linearly" if compared.match_intensity else ""
    n_cases = len(compared.cases)
    title = f"{compared.dataset}: judged on {n_cases} {compared.cases_from}{matched}"
    blocks = [[title], [*_lines(methods_table(compared)), f"! {WINNER}", f"* {FRONT}"]]
    if compared.against:
        blocks.append(_lines(paired_table(compared)))
    blocks += [[first, *(f"  {line}" for line in rest)] for first, *rest in best_methods(compared)]
    blocks.append([f"note: {note}" for note in compared.notes])
    blocks.append(text_table(shared_facts(compared), n_left=None))
    return "\n\n".join("\n".join(block) for block in blocks)


def as_html(table: ComparisonTable) -> str:
    """The table for the page."""
    heads = "".join(
        f'<th scope="col" title="{escape(hint)}">{escape(title)}'
        for title, hint in zip(table.titles, table.hints, strict=True)
    )
    rows = []
    for i, (name, *cells) in enumerate(table.rows):
        mark = f' <span title="{FRONT}">&#9679;</span>' if i in table.front else ""
        body = "".join(
            f"<td{' class=best' if (i, j) in table.winners else ''}>"
            + escape(cell).replace("\n", "<br>")
            for j, cell in enumerate(cells, start=1)
        )
        rows.append(f'<tr><th scope="row">{escape(name)}{mark}{body}</tr>')
    return (
        f'<div class="scroll"><table class="methods"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def shared_facts(compared: Comparison) -> list[tuple[str, str]]:
    """What all methods share, as names and values."""
    verdict = compared.figures[compared.reference].verdict
    floor = verdict.floor
    low = "none" if floor is None else f"{floor.frechet.value:.3g} from {verdict.floor_from}"
    high = f"{verdict.ceiling.frechet.value:.3g}"
    facts = compared.facts.values()
    rows: dict[str, Any] = {
        "judged on": f"{compared.cases_from}: {', '.join(compared.cases)}",
        "mask": compared.mask,
        "convention": compared.convention,
        "intensities matched": compared.match_intensity or "no",
        "judge": verdict.judge,
        "Frechet": f"floor {low}; ceiling (real images, blurred) {high}",
        "trained on": ", ".join(sorted({f"{f.device}, {f.precision}" for f in facts})),
        "feature encoder": ", ".join(sorted({f.encoder for f in facts if f.encoder})),
    }
    if compared.settings is not None:
        settings = compared.settings
        rows |= {
            "configuration": settings.configuration,
            "budget": f"equal steps: {settings.epochs} epochs of {settings.iterations} steps",
            "folds": ", ".join(settings.folds),
            "learning rate": settings.learning_rate or "by the preset",
            "seed": settings.seed,
            "step size of windows": settings.step_size,
        }
    rows |= compared.made
    return [(name, str(value)) for name, value in rows.items() if value != ""]


def _lines(table: ComparisonTable) -> list[str]:
    rows: list[Sequence[str]] = [table.titles]
    for i, row in enumerate(table.rows):
        cells = [f"{c}!" if (i, j) in table.winners else c for j, c in enumerate(row)]
        cells[0] += " *" * (i in table.front)
        rows.append([cell.replace("\n", " ") for cell in cells])
    return text_table(rows)


def _paired(paired: Paired, unit: str) -> str:
    interval = ""
    if paired.ci95_low is not None:
        interval = f" [{paired.ci95_low:+.3g}, {paired.ci95_high:+.3g}]"
    p = "no case differs" if paired.p is None else f"p = {paired.p:.2g}"
    return f"{paired.difference:+.3g}{unit}{interval} ({p})"


def _tested(
    paired: Paired | None, metric: str, own: MethodFigures, reference: MethodFigures
) -> str:
    if paired is None:
        return "-"
    first, second = (penalty(metric, one.aggregate[metric]["mean"]) for one in (own, reference))
    verdict = ""
    if paired.is_significant and first is not None and second is not None and first != second:
        verdict = ": better" if first < second else ": worse"
    return _paired(paired, "").replace(" [", "\n[").replace(" (", "\n(") + verdict


def _title(metric: str, compared: Comparison) -> str:
    if metric == FIDELITY:
        return f"MAE [{compared.units}]"
    unit = compared.units if compared.units == HU else ""
    return "implausibility" if metric == PLAUSIBILITY else title_of(metric, unit)


def _hint(metric: str) -> str:
    return _AVERAGE if metric == PLAUSIBILITY else best_value(metric)


def _whole(value: float) -> str:
    return f"{value:,.0f}".replace(",", " ")


def _brief(value: float) -> str:
    return f"{value:.3g}" if value < 100 else _whole(value)


_REAL = "distance to real images in the judge's features; lower is better"
_COSTS: Sequence[tuple[str, str, str, Callable[[float], str]]] = (
    ("Frechet", _REAL, "verdict.prediction.frechet.value", lambda value: f"{value:.3g}"),
    ("s a volume", "prediction, the mean", "seconds", _brief),
    ("network calls", "a volume, all windows and folds", "calls", _whole),
    ("memory [GiB]", "peak", "peak_mb", lambda mb: f"{mb / 1024:.2f}"),
    ("weights [M]", "of one network", "parameters", lambda n: f"{n / 1e6:.3g}"),
    ("training steps", "of a fold", "training_steps", _whole),
    ("training s", "of a fold", "training_seconds", _brief),
)
"""Title, hint, attribute of `MethodFigures` or `MethodFacts`, and how it is written."""
