"""Tables of plain text for the terminal: aligned columns, numbers short."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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
        n_left: columns that are aligned on the left, the others on the right; None for all.
        indent: before every line.
        width: characters that no line exceeds: columns that do not fit are left out, from the
            first such on.
    """
    lines = [indent] * len(rows)
    for number, column in enumerate(zip(*rows, strict=True)):
        cells = [cell_text(cell) for cell in column]
        room = max(map(len, cells))
        gap = "  " if number else ""
        if width is not None and len(lines[0]) + len(gap) + room > width:
            break
        pad = str.ljust if n_left is None or number < n_left else str.rjust
        lines = [line + gap + pad(cell, room) for line, cell in zip(lines, cells, strict=True)]
    return [line.rstrip() for line in lines]


def cell_text(cell: Cell) -> str:
    """Text as it is, whole numbers whole, others with four digits, and "-" for None."""
    if cell is None:
        return "-"
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def first_names(names: Iterable[str], limit: int, *, none: str = "none") -> str:
    """Names in a sentence: the first ones, and how many more there are; `none` of no names."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return (", ".join(names[:limit]) or none) + more
