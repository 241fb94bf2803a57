"""HTML of the parts of a report: sentences, lists and tables. All text is escaped here."""

import re
from collections.abc import Iterable, Sequence
from typing import Self

from results.figures.drawing import Drawing
from results.plain_text import html_text, one_line
from results.tables.rendering import CellText, Table, group_of, is_best


class Number(CellText):
    """The text of a cell with the number that rows are sorted by and that a CSV copy contains.

    Args:
        text: what is shown.
        value: the number; None if there is none.
        best: whether it is the best of its column.
        group: letters of the groups of encoders that cannot be told apart.
    """

    value: float | None

    def __new__(
        cls, text: str, value: float | None, *, best: bool = False, group: str = ""
    ) -> Self:
        """Return the text with its number and marks."""
        cell = super().__new__(cls, text, best=best, group=group)
        cell.value = value
        return cell


def sentence(text: str) -> str:
    """Return a sentence as HTML; what stands in backticks is a name and set as code.

    Example:
        >>> sentence("`a<b` is best.")
        '<code>a&lt;b</code> is best.'
    """
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", plain(text))


def plain(text: str) -> str:
    """Return a text from records as HTML."""
    return html_text(one_line(text))


def paragraphs(texts: Iterable[str], kind: str = "") -> str:
    """Return one paragraph per sentence."""
    attribute = f' class="{kind}"' if kind else ""
    return "\n".join(f"<p{attribute}>{sentence(text)}</p>" for text in texts)


def bullets(texts: Sequence[str]) -> str:
    """Return a list of sentences; nothing if there is none."""
    items = "\n".join(f"<li>{sentence(text)}</li>" for text in texts)
    return f"<ul>\n{items}\n</ul>" if texts else ""


def section(name: str, title: str, body: str) -> str:
    """Return a section with a heading; ``name`` is its anchor."""
    return (
        f'<section id="{name}" aria-labelledby="{name}-title">\n'
        f'<h2 id="{name}-title">{sentence(title)}</h2>\n{body}\n</section>'
    )


def figure(drawing: Drawing, name: str) -> str:
    """Return a figure in a box of its own, which scrolls if the figure is wider than the page.

    Args:
        drawing: the figure.
        name: its identifier, unique within the page.
    """
    caption = drawing.caption and f"\n<figcaption>{plain(drawing.caption)}</figcaption>"
    region = f'<div class="box" role="region" aria-label="{plain(drawing.title)}" tabindex="0">'
    return f'<figure id="{name}">\n{region}\n{drawing.svg()}</div>{caption}</figure>'


def table(content: Table, name: str, *, of_encoders: bool = False) -> str:
    """Return a table in a box of its own, which scrolls if the table is wider than the page.

    Args:
        content: the table; the page's script sorts by the value of each ``Number``.
        name: its identifier, unique within the page.
        of_encoders: whether the first column names encoders, which are highlighted together.
    """
    head = "".join(
        f'<th scope="col"{_kind(place, content.left)}>{plain(text)}</th>'
        for place, text in enumerate(content.header)
    )
    rows = "\n".join(_row(row, content.left, of_encoders) for row in content.rows)
    notes = "".join(f'\n<p class="note">{sentence(note)}</p>' for note in content.remarks())
    return (
        f'<div class="table" id="{name}">\n'
        f'<div class="box" role="region" aria-labelledby="{name}-caption" tabindex="0">\n'
        f'<table><caption id="{name}-caption">{sentence(content.title)}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>{notes}</div>"
    )


def _row(row: Sequence[str], left: int, of_encoders: bool) -> str:
    encoder = f' data-encoder="{html_text(row[0])}"' if of_encoders else ""
    labels = "".join(f'<th scope="row">{plain(text)}</th>' for text in row[:left])
    values = "".join(_value(text) for text in row[left:])
    return f"<tr{encoder}>{labels}{values}</tr>"


def _value(text: str) -> str:
    value = text.value if isinstance(text, Number) else None
    stated = "" if value is None else f' data-value="{value!r}"'
    shown = f"<strong>{plain(text)}</strong>" if is_best(text) else plain(text)
    group = f" <sup>{plain(group_of(text))}</sup>" if group_of(text) else ""
    return f'<td class="number"{stated}>{shown}{group}</td>'


def _kind(place: int, left: int) -> str:
    return "" if place < left else ' class="number"'
