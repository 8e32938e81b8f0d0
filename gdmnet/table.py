"""Tables of plain text for the terminal: aligned columns, numbers short."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence

Cell = str | float | None


def text_table(
    rows: Sequence[Sequence[Cell]],
    *,
    n_left: int | None = 1,
    indent: str = "",
    width: int | None = None,
) -> list[str]:
    """The lines of a table whose columns are two spaces apart.

    Args:
        rows: equally many cells each, the titles first if there are any; see `cell_text`.
        n_left: columns that are aligned on the left, the others on the right, where numbers have
            the decimals of their column; None for all on the left, each number by itself.
        indent: before every line.
        width: characters that no line exceeds: columns that do not fit are left out, from the
            first such on.
    """
    lines = [indent] * len(rows)
    for number, column in enumerate(zip(*rows, strict=True)):
        decimals = None if n_left is None else decimals_of(column)
        cells = [cell_text(cell, decimals) for cell in column]
        room = max(map(len, cells))
        gap = "  " if number else ""
        if width is not None and len(lines[0]) + len(gap) + room > width:
            break
        pad = str.ljust if n_left is None or number < n_left else str.rjust
        lines = [line + gap + pad(cell, room) for line, cell in zip(lines, cells, strict=True)]
    return [line.rstrip() for line in lines]


def csv_text(rows: Sequence[Mapping[str, Cell]]) -> str:
    """Comma-separated values: a column a name, in the order in which they first come up."""
    text = io.StringIO()
    names = dict.fromkeys(name for row in rows for name in row)
    table = csv.DictWriter(text, [*names], lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def decimals_of(column: Iterable[Cell]) -> int:
    """Decimals that show four digits of a column's largest number; 0 if all are whole."""
    sizes = [abs(cell) for cell in column if isinstance(cell, float) and math.isfinite(cell)]
    if all(size.is_integer() for size in sizes):
        return 0
    return min(max(3 - math.floor(math.log10(max(sizes))), 0), 6)


def cell_text(cell: Cell, decimals: int | None = None) -> str:
    """Text as it is, whole numbers whole, others with four digits or decimals, "-" for None."""
    if cell is None:
        return "-"
    if not isinstance(cell, float):
        return str(cell)
    return f"{cell:.4g}" if decimals is None else f"{cell:.{decimals}f}"


def first_names(names: Iterable[str], limit: int, *, none: str = "none") -> str:
    """Names in a sentence: the first ones, and how many more there are; `none` of no names."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return (", ".join(names[:limit]) or none) + more
