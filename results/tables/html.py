"""Rendering of tables as HTML elements that screen readers understand."""

from collections.abc import Sequence

from results.plain_text import html_text, one_line
from results.tables.rendering import Table, group_of, is_best


def to_html(table: Table) -> str:
    """Return the table as a ``table`` element, and its notes as a list.

    Names of columns and labels are headers with a ``scope``. Values have the class ``number``; best
    scores are ``strong``.
    """
    header = "".join(f'<th scope="col">{_text(name)}</th>' for name in table.header)
    lines = [
        "<table>",
        f"<caption>{_text(table.title)}</caption>",
        f"<thead><tr>{header}</tr></thead>",
        "<tbody>",
        *(_row(row, table.left) for row in table.rows),
        "</tbody>",
        "</table>",
    ]
    if remarks := table.remarks():
        lines += ["<ul>", *(f"<li>{_text(note)}</li>" for note in remarks), "</ul>"]
    return "\n".join(lines)


def to_page(tables: Sequence[Table]) -> str:
    """Return tables as a whole HTML page without styles."""
    body = "\n".join(map(to_html, tables))
    return (
        '<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>'
        f"{_text(tables[0].title)}</title></head>\n<body>\n{body}\n</body>\n</html>"
    )


def _row(row: Sequence[str], left: int) -> str:
    labels = "".join(f'<th scope="row">{_text(label)}</th>' for label in row[:left])
    values = "".join(f'<td class="number">{_value(cell)}</td>' for cell in row[left:])
    return f"<tr>{labels}{values}</tr>"


def _value(cell: str) -> str:
    text = f"<strong>{_text(cell)}</strong>" if is_best(cell) else _text(cell)
    return f"{text} <sup>{_text(group_of(cell))}</sup>" if group_of(cell) else text


def _text(text: str) -> str:
    return html_text(one_line(text))
