"""Tables of texts, and their rendering for terminals, in Markdown and in CSV."""

import csv
import dataclasses
import io
import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import Self

from results.plain_text import csv_cell, markdown, one_line

_LABEL_WIDTHS = (44, 34, 26, 20)
_BOLD, _PLAIN = "\x1b[1m", "\x1b[0m"
_BEST = "*"
"""What stands before the best scores where a terminal shows no bold text."""


class CellText(str):
    """The text of a cell that is marked; each output format shows the marks in its own way.

    Args:
        text: the text without marks.
        best: whether it is the best score among those that it is compared with.
        group: letters of the groups of encoders that cannot be told apart.
    """

    best: bool
    group: str

    def __new__(cls, text: str, *, best: bool = False, group: str = "") -> Self:
        """Return the text with its marks."""
        cell = super().__new__(cls, text)
        cell.best, cell.group = best, group
        return cell


def is_best(text: str) -> bool:
    """Return whether a cell holds a best score."""
    return isinstance(text, CellText) and text.best


def group_of(text: str) -> str:
    """Return the letters of a cell's groups; empty if it has none."""
    return text.group if isinstance(text, CellText) else ""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of texts: the first columns are labels, the others are right-aligned.

    Args:
        title: the heading.
        header: the names of the columns.
        rows: the cells' texts; a ``CellText`` has marks.
        notes: remarks below the table.
        left: number of label columns, which a terminal repeats in every block.
        best: what best scores are compared with, e.g. ``the best score of its column``.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    left: int = 1
    best: str = ""

    def remarks(self, mark: str = "bold") -> list[str]:
        """Return the notes and, if a score is marked as the best, what its mark means."""
        marked = any(is_best(cell) for row in self.rows for cell in row)
        return [*self.notes, *([f"{mark}: {self.best}"] if marked and self.best else [])]


def terminal_width() -> int:
    """Return the number of columns of the terminal, or 100 if there is no terminal."""
    return shutil.get_terminal_size((100, 24)).columns


def shows_bold() -> bool:
    """Return whether standard output is a terminal that may show bold text."""
    wanted = "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    return wanted and sys.stdout.isatty()


def to_terminal(table: Table, width: int | None = None, bold: bool | None = None) -> str:
    """Return the table as text that fits the terminal.

    Long labels are wrapped, and so are the names of columns if they do not fit; columns that still
    do not fit are printed in further blocks below.

    Args:
        table: the table.
        width: number of columns (None: those of the terminal, or 100 if there is none).
        bold: whether best scores are bold; otherwise ``*`` precedes them (None: if the terminal
            shows bold text, and the variable ``NO_COLOR`` does not exist).
    """
    width, bold = width or terminal_width(), shows_bold() if bold is None else bold
    columns = list(zip(table.header, *table.rows, strict=True))
    values: list[list[Sequence[str]]]
    values = [[[_value(cell, bold)] for cell in column] for column in columns[table.left :]]
    labels, room = _labels(columns[: table.left], width, values)
    if sum(_width(column) + 2 for column in values) > room:
        values = [_narrow(column) for column in values]
        labels, room = _labels(columns[: table.left], width, values)
    blocks: list[list[Sequence[Sequence[str]]]] = [[]]
    used = 0
    for column in values:
        if blocks[-1] and used + _width(column) + 2 > room:
            blocks.append([])
            used = 0
        blocks[-1].append(column)
        used += _width(column) + 2
    shown = "\n\n".join(_block(labels, block, bold) for block in blocks)
    parts = [textwrap.fill(one_line(table.title), width), shown]
    remarks = table.remarks("bold" if bold else f"marked {_BEST}")
    return "\n".join([*parts, notes(remarks, width)] if remarks else parts)


def paragraph(text: str, width: int | None = None) -> str:
    """Return a sentence in lines that fit the terminal."""
    return textwrap.fill(one_line(text), width or terminal_width())


def notes(texts: Sequence[str], width: int | None = None) -> str:
    """Return remarks as bullets that fit the terminal."""
    width = width or terminal_width()
    return "\n".join(
        textwrap.fill(one_line(text), width, initial_indent="* ", subsequent_indent="  ")
        for text in texts
    )


def to_markdown(table: Table) -> str:
    """Return the table in Markdown under a heading."""
    lines = ["| " + " | ".join(map(_markdown, row)) + " |" for row in table.rows]
    header = "| " + " | ".join(map(markdown, table.header)) + " |"
    rule = ["---" if i < table.left else "---:" for i in range(len(table.header))]
    parts = [f"## {markdown(table.title)}", "\n".join([header, f"| {' | '.join(rule)} |", *lines])]
    if remarks := table.remarks():
        parts.append("\n".join(f"* {markdown(note, code=True)}" for note in remarks))
    return "\n\n".join(parts)


def _markdown(cell: str) -> str:
    text = f"**{markdown(cell)}**" if is_best(cell) else markdown(cell)
    return f"{text} <sup>{markdown(group_of(cell))}</sup>" if group_of(cell) else text


def to_csv(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return comma-separated values; None and NaN are empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(csv_cell, header))
    writer.writerows(
        ["" if cell is None or cell != cell else csv_cell(cell) for cell in row] for row in rows
    )
    return text.getvalue()


def _value(cell: str, bold: bool) -> CellText:
    """Return a value as a terminal shows it, with its marks as text unless they are bold."""
    mark = _BEST if is_best(cell) and not bold else ""
    group = f" {group_of(cell)}" if group_of(cell) else ""
    return CellText(one_line(f"{mark}{cell}{group}"), best=is_best(cell))


def _labels(
    columns: Sequence[Sequence[str]], width: int, values: Sequence[Sequence[Sequence[str]]]
) -> tuple[list[list[list[str]]], int]:
    """Return wrapped label columns, and the width that they leave for values.

    Labels are as wide as possible such that the values fit, and narrow if these do not fit.
    """
    needed = sum(_width(column) + 2 for column in values)
    for label_width in _LABEL_WIDTHS:
        labels = [_wrapped([one_line(cell) for cell in column], label_width) for column in columns]
        room = width + 2 - sum(_width(column) + 2 for column in labels)
        if needed <= room:
            break
    return labels, room


def _narrow(column: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """Return a column of values whose name is wrapped between words to the width of the values."""
    (name, *_), *cells = column
    longest = max(map(len, name.split(" ")))
    wrapper = textwrap.TextWrapper(
        max(longest, _width(cells or [[""]]), 1), break_long_words=False, break_on_hyphens=False
    )
    return [wrapper.wrap(name) or [""], *cells]


def _wrapped(column: Sequence[str], width: int) -> list[list[str]]:
    wrapper = textwrap.TextWrapper(width, subsequent_indent="  ", break_on_hyphens=False)
    return [wrapper.wrap(cell) or [""] for cell in column]


def _width(column: Sequence[Sequence[str]]) -> int:
    return max(len(line) for cell in column for line in cell)


def _block(
    labels: Sequence[Sequence[Sequence[str]]],
    values: Sequence[Sequence[Sequence[str]]],
    bold: bool,
) -> str:
    columns = [*labels, *values]
    widths = [_width(column) for column in columns]
    lines = []
    for number, cells in enumerate(zip(*columns, strict=True)):
        for part in range(max(len(cell) for cell in cells)):
            texts = [cell[part] if part < len(cell) else "" for cell in cells]
            padded = [
                text.ljust(width) if i < len(labels) else _right(text, width, bold)
                for i, (text, width) in enumerate(zip(texts, widths, strict=True))
            ]
            lines.append("  ".join(padded).rstrip())
        if number == 0:
            lines.append("  ".join("-" * width for width in widths))
    return "\n".join(lines)


def _right(text: str, width: int, bold: bool) -> str:
    padding = " " * (width - len(text))
    return f"{padding}{_BOLD}{text}{_PLAIN}" if bold and is_best(text) else padding + text
