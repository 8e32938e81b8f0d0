"""The tables of a comparison: the same cells as Markdown and as HTML."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from gdmnet.compare.contest import FIDELITY, PLAUSIBILITY, Comparison
from gdmnet.compare.study import Figures, MethodFacts, Scope, Study
from gdmnet.metrics.paired import Paired
from gdmnet.report.figures import number
from gdmnet.report.overview import badness

TESTED = {
    FIDELITY: "MAE [{units}]",
    "psnr": "PSNR [dB]",
    "ssim": "SSIM",
    "ms_ssim": "MS-SSIM",
    "sharpness": "sharpness",
    "histogram_w1": "hist. W1",
    "spectrum_distance": "spectrum [dB]",
    PLAUSIBILITY: "implausibility",
}
"""Metrics that every case has, and their titles."""
_HINTS = {
    "sharpness": "1 is best",
    "psnr": "higher is better",
    "ssim": "higher is better",
    "ms_ssim": "higher is better",
    PLAUSIBILITY: "1 is the average method of this table; lower is better",
}
_FRONT = "*"
_BREAK = "\n"  # in a cell: a line of its own on the page

Measure = Callable[[Figures, MethodFacts], float | None]


@dataclass(frozen=True)
class Column:
    """One column: its title, a word about it, its numbers, how they are shown and judged.

    `worse` maps a number to its badness; None where no number is better than another.
    """

    title: str
    hint: str
    measure: Measure
    show: Callable[[float | None], str] = number
    worse: Callable[[float | None], float | None] | None = None


@dataclass(frozen=True)
class Table:
    """Cells as text, the best of each column, and what stands above the columns.

    `front` tells for every row whether it is on the Pareto front.
    """

    titles: tuple[str, ...]
    hints: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    best: frozenset[tuple[int, int]]
    front: tuple[bool, ...]


def columns(units: str) -> tuple[Column, ...]:
    """All columns, the metrics first, then what they cost."""
    metrics = [
        Column(
            title.format(units=units),
            _HINTS.get(metric, "lower is better"),
            lambda figures, _, metric=metric: figures.aggregate[metric]["mean"],  # type: ignore[misc]
            worse=lambda value, metric=metric: badness(metric, value),  # type: ignore[misc]
        )
        for metric, title in TESTED.items()
    ]
    frechet = Column(
        "Frechet",
        "distance to real images in the judge's features; lower is better",
        lambda figures, _: figures.verdict.prediction.frechet.value,
        show=lambda value: "-" if value is None else f"{value:.3g}",
        worse=lambda value: value,
    )
    return (
        *metrics,
        frechet,
        Column("s a volume", "prediction, the mean", lambda f, _: f.seconds, _brief),
        Column("network calls", "a volume, all windows and folds", lambda f, _: f.calls, _whole),
        Column("memory [GiB]", "peak of prediction", lambda f, _: f.peak_mb, _memory),
        Column(
            "weights [M]",
            "parameters of one network, in millions",
            lambda _, m: m.parameters,
            _millions,
        ),
        Column("training steps", "of a fold", lambda _, m: m.training_steps, _whole),
        Column("training s", "of a fold", lambda _, m: m.training_seconds, _brief),
    )


def make_table(study: Study, scope: Scope) -> Table:
    """All methods of a scope; methods on the Pareto front are marked."""
    shown = columns(study.units)
    names = list(scope.methods)
    values = [[c.measure(scope.methods[n], study.methods[n]) for c in shown] for n in names]
    best = set()
    for j, column in enumerate(shown):
        if column.worse is None or len(names) < 2:
            continue
        badnesses = {i: column.worse(row[j]) for i, row in enumerate(values)}
        known = {i: bad for i, bad in badnesses.items() if bad is not None}
        best |= {(i, j + 1) for i, bad in known.items() if bad == min(known.values())}
    return Table(
        titles=("method", *(column.title for column in shown)),
        hints=("", *(column.hint for column in shown)),
        rows=tuple(
            (name, *(c.show(v) for c, v in zip(shown, row, strict=True)))
            for name, row in zip(names, values, strict=True)
        ),
        best=frozenset(best),
        front=tuple(name in scope.front for name in names),
    )


def make_tests(study: Study, scope: Scope) -> Table:
    """Every other method minus the reference: difference, interval, p, and who is better."""
    metrics = list(TESTED)
    rows = []
    for rival, found in scope.against.items():
        own = {comparison.metric: comparison for comparison in found}
        figures, reference = scope.methods[rival], scope.methods[scope.reference]
        cells = (_tested(own.get(m), m, figures, reference) for m in metrics)
        rows.append((rival, *cells))
    titles = (title.format(units=study.units) for title in TESTED.values())
    return Table(
        titles=(f"method - {scope.reference}", *titles),
        hints=("", *(_HINTS.get(metric, "lower is better") for metric in metrics)),
        rows=tuple(rows),
        best=frozenset(),
        front=(False,) * len(rows),
    )


def as_markdown(table: Table) -> str:
    """A Markdown table; the best of a column is bold, and a star marks the Pareto front."""
    rows = [table.titles]
    for i, broken in enumerate(table.rows):
        row = [cell.replace(_BREAK, " ") for cell in broken]
        cells = [f"**{c}**" if (i, j) in table.best else c for j, c in enumerate(row)]
        rows.append((cells[0] + (f" {_FRONT}" if table.front[i] else ""), *cells[1:]))
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = [_line(row, widths) for row in rows]
    rule = "|" + "|".join("-" * (w + 1) + (":" if j else "-") for j, w in enumerate(widths)) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def as_html(table: Table) -> str:
    """The same as an HTML table."""
    kind = " tests" if any(_BREAK in cell for row in table.rows for cell in row) else ""
    heads = "".join(
        f'<th scope="col" title="{escape(hint)}"{_text(j)}>{escape(title)}'
        for j, (title, hint) in enumerate(zip(table.titles, table.hints, strict=True))
    )
    rows = []
    for i, row in enumerate(table.rows):
        mark = ' <span title="on the Pareto front">&#9679;</span>' if table.front[i] else ""
        cells = "".join(
            f"<td{' class=best' if (i, j) in table.best else ''}>{_broken(cell)}"
            for j, cell in enumerate(row)
            if j
        )
        rows.append(f'<tr><th scope="row">{escape(row[0])}{mark}{cells}</tr>')
    return (
        f'<div class="scroll"><table class="methods{kind}"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def facts(study: Study) -> dict[str, str]:
    """The settings that all methods share, as rows."""
    settings = study.settings
    length = (
        f"equal time: {settings.minutes:g} minutes of training a fold"
        if settings.minutes is not None
        else f"equal steps: {settings.epochs} epochs of {settings.iterations} steps"
    )
    encoders = {one.encoder for one in study.methods.values() if one.encoder}
    seconds = ", ".join(f"{value:.0f} s (fold {f})" for f, value in study.encoder_seconds.items())
    rows = {
        "dataset": f"{settings.dataset}, {settings.configuration}",
        "judged on": f"{study.held_out}: {', '.join(study.cases)}",
        "budget": length,
        "folds": ", ".join(settings.folds),
        "learning rate": "by the preset"
        if not settings.learning_rate
        else f"{settings.learning_rate:g}",
        "seed": str(settings.seed),
        "step size of windows": f"{settings.step_size:g}",
        "convention": study.convention,
        "intensities matched": study.match_intensity or "no",
    }
    places = {f"{one.device}, {one.precision}" for one in study.methods.values()}
    rows["predicted on"] = "; ".join(sorted(places))
    if encoders:
        shared = f", trained once for all in {seconds}, beyond their budget" if seconds else ""
        rows["feature encoder"] = ", ".join(sorted(encoders)) + shared
    for scope in study.scopes.values():
        verdict = next(iter(scope.methods.values())).verdict
        floor = verdict.floor
        ends = "none" if floor is None else f"{floor.frechet.value:.3g} from {verdict.floor_from}"
        rows[f"Frechet, {scope.title}"] = (
            f"floor {ends}; ceiling (real images, blurred) {verdict.ceiling.frechet.value:.3g}"
        )
        rows[f"mask, {scope.title}"] = scope.mask
    judge = next(iter(next(iter(study.scopes.values())).methods.values())).verdict.judge
    return {**rows, "judge": judge, **study.made}


def _tested(comparison: Comparison | None, metric: str, own: Figures, reference: Figures) -> str:
    if comparison is None:
        return "-"
    paired = comparison.paired
    interval = ""
    if paired.ci95_low is not None:
        interval = f"\n[{paired.ci95_low:+.2g}, {paired.ci95_high:+.2g}]"
    if paired.p is None:
        return "+0, no case differs"
    verdict = _verdict(paired, metric, own, reference)
    return f"{paired.difference:+.3g}{interval}\np {paired.p:.2g}{verdict}"


def _verdict(paired: Paired, metric: str, own: Figures, reference: Figures) -> str:
    if not paired.is_significant:
        return ""
    means: Mapping[str, float | None] = {
        "own": badness(metric, own.aggregate[metric]["mean"]),
        "reference": badness(metric, reference.aggregate[metric]["mean"]),
    }
    first, second = means["own"], means["reference"]
    if first is None or second is None or first == second:
        return ""
    return ": better" if first < second else ": worse"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (
        cell.rjust(width) if j else cell.ljust(width)
        for j, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "| " + " | ".join(padded) + " |"


def _broken(cell: str) -> str:
    return escape(cell).replace(_BREAK, "<br>")


def _text(column: int) -> str:
    return "" if column else ' class="text"'


def _brief(value: float | None) -> str:
    if value is None or value < 100:
        return "-" if value is None else f"{value:.3g}"
    return _whole(value)


def _whole(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}".replace(",", " ")


def _memory(value: float | None) -> str:
    return "-" if value is None else f"{value / 1024:.2f}"


def _millions(value: float | None) -> str:
    return "-" if value is None else f"{value / 1e6:.3g}"
