"""Rendering of tables as terminal text, Markdown or CSV."""

import csv
import dataclasses
import io
import shutil
import textwrap
from collections.abc import Sequence

from results.plain_text import csv_cell, markdown, one_line

_LABEL_WIDTHS = (44, 34, 26, 20)


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of texts: the first columns are labels, the others are right-aligned."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    left: int = 1
    """Number of label columns, which are repeated in every block."""


def terminal_width() -> int:
    """Return the number of columns of the terminal, or 100 if there is no terminal."""
    return shutil.get_terminal_size((100, 24)).columns


def to_terminal(table: Table, width: int | None = None) -> str:
    """Return the table as text that fits the terminal (100 columns if there is no terminal).

    Long labels are wrapped; columns that do not fit are printed in further blocks below.
    """
    width = width or terminal_width()
    texts = [[one_line(cell) for cell in row] for row in (table.header, *table.rows)]
    columns = [list(column) for column in zip(*texts, strict=True)]
    values = [[[cell] for cell in column] for column in columns[table.left :]]
    needed = sum(_width(column) + 2 for column in values)
    for label_width in _LABEL_WIDTHS:
        labels = [_wrapped(column, label_width) for column in columns[: table.left]]
        room = width + 2 - sum(_width(column) + 2 for column in labels)
        if needed <= room:
            break
    blocks: list[list[list[list[str]]]] = [[]]
    used = 0
    for column in values:
        if blocks[-1] and used + _width(column) + 2 > room:
            blocks.append([])
            used = 0
        blocks[-1].append(column)
        used += _width(column) + 2
    shown = "\n\n".join(_block(labels, block) for block in blocks)
    parts = [textwrap.fill(one_line(table.title), width), shown]
    return "\n".join([*parts, notes(table.notes, width)] if table.notes else parts)


def notes(texts: Sequence[str], width: int | None = None) -> str:
    """Return remarks as bullets that fit the terminal."""
    width = width or terminal_width()
    return "\n".join(
        textwrap.fill(one_line(text), width, initial_indent="* ", subsequent_indent="  ")
        for text in texts
    )


def to_markdown(table: Table) -> str:
    """Return the table in Markdown under a heading."""
    lines = ["| " + " | ".join(map(markdown, row)) + " |" for row in table.rows]
    header = "| " + " | ".join(map(markdown, table.header)) + " |"
    rule = ["---" if i < table.left else "---:" for i in range(len(table.header))]
    parts = [f"## {markdown(table.title)}", "\n".join([header, f"| {' | '.join(rule)} |", *lines])]
    if table.notes:
        parts.append("\n".join(f"* {markdown(note, code=True)}" for note in table.notes))
    return "\n\n".join(parts)


def to_csv(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return comma-separated values; None and NaN are empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(csv_cell, header))
    writer.writerows(
        ["" if cell is None or cell != cell else csv_cell(cell) for cell in row] for row in rows
    )
    return text.getvalue()


def _wrapped(column: Sequence[str], width: int) -> list[list[str]]:
    wrapper = textwrap.TextWrapper(width, subsequent_indent="  ", break_on_hyphens=False)
    return [wrapper.wrap(cell) or [""] for cell in column]


def _width(column: Sequence[Sequence[str]]) -> int:
    return max(len(line) for cell in column for line in cell)


def _block(labels: list[list[list[str]]], values: list[list[list[str]]]) -> str:
    columns = labels + values
    widths = [_width(column) for column in columns]
    lines = []
    for number, cells in enumerate(zip(*columns, strict=True)):
        for part in range(max(len(cell) for cell in cells)):
            texts = [cell[part] if part < len(cell) else "" for cell in cells]
            padded = [
                text.ljust(width) if i < len(labels) else text.rjust(width)
                for i, (text, width) in enumerate(zip(texts, widths, strict=True))
            ]
            lines.append("  ".join(padded).rstrip())
        if number == 0:
            lines.append("  ".join("-" * width for width in widths))
    return "\n".join(lines)
