"""Labels as they are stored: texts, numbers or lists become the labels of ``Rows``."""

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64

from ssl_transfer.datasets.rows import Labels, TargetKind

Place = Callable[[int], str]
"""Returns where a row stands, for messages."""


def labels_of(
    columns: Mapping[str, Sequence[Any]],
    target: TargetKind | None,
    place: Place,
    problems: list[str],
    separator: str | None = None,
) -> tuple[Labels, TargetKind, tuple[str, ...] | None]:
    """Return the labels of all rows, their kind, and the names of columns of numbers.

    Args:
        columns: values by name: one column of labels, or several columns of numbers.
        target: the kind, if the user named it (``None``: ``classes`` if a value is a list, else
            ``class``).
        place: of a row.
        problems: messages about the rows so far.
        separator: separates the labels of an image in a text (``None``: a text is one label).

    Raises:
        ValueError: if the kind does not suit the columns.
    """
    values, *others = columns.values()
    if target is None and not others:
        target = "classes" if any(isinstance(value, list) for value in values) else "class"
    if target == "values" or (target == "classes" and others):
        rows = [_numbers(name, column, place, problems) for name, column in columns.items()]
        return np.stack(rows, axis=1), target, tuple(columns)
    if target is None or others:
        raise ValueError(
            "`dataset.target` must be values or classes for several columns of labels, but is "
            f"{'null' if target is None else target}; set it."
        )
    if target == "classes":
        return _several(values, separator, place, problems), target, None
    labels = texts("label", values, place, problems)
    shared = {label: (label,) for label in set(labels)}
    return [shared[label] for label in labels], target, None


def texts(role: str, values: Sequence[Any], place: Place, problems: list[str]) -> list[str]:
    """Return values as texts; an empty text, with a message, where there is none.

    Args:
        role: what the values are; a ``path`` is left as it is, other texts get composed letters.
        values: texts and whole numbers.
        place: of a row.
        problems: messages about the rows so far.
    """
    # Where texts repeat, as labels do, each is looked at once.
    settled: dict[str, str] = {}
    results = []
    for row, value in enumerate(values):
        text = settled.get(value) if type(value) is str else None
        if text is None:
            text, problem = _text(role, value)
            if problem is not None:
                problems.append(f"{place(row)}: {problem}")
            elif type(value) is str and role != "path":
                settled[value] = text
        results.append(text)
    return results


def _text(role: str, value: Any) -> tuple[str, str | None]:
    """Return a value as text, and what is wrong with it (``None``: nothing)."""
    if type(value) is str and value and value.isprintable():
        return (value if role == "path" else unicodedata.normalize("NFC", value)), None
    if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()):
        value = int(value)
    if value is None or value == "" or value != value:
        return "", f"no {role}"
    if not isinstance(value, str | int):
        return "", f"the {role} {str(value)[:80]} must be a text or a whole number"
    if isinstance(value, str):
        return "", f"the {role} {value[:80]!r} has a character that is not printable"
    return str(value), None


def _several(
    values: Sequence[Any], separator: str | None, place: Place, problems: list[str]
) -> list[tuple[str, ...]]:
    """Return any number of labels per row."""
    rows = []
    for row, value in enumerate(values):
        if isinstance(value, str) and separator is not None:
            value = [part.strip() for part in value.split(separator)]
        parts = value if isinstance(value, list) else [value]
        settled = [_text("label", part) for part in parts if part not in (None, "")]
        problems += [f"{place(row)}: {problem}" for _, problem in settled if problem]
        rows.append(tuple(text for text, _ in settled))
    return rows


def _numbers(
    name: str, values: Sequence[Any], place: Place, problems: list[str]
) -> Float64[np.ndarray, " rows"]:
    numbers = np.full(len(values), np.nan)
    for row, value in enumerate(values):
        try:
            numbers[row] = float(value)
        except (TypeError, ValueError):
            numbers[row] = np.nan
        if not np.isfinite(numbers[row]):
            problems.append(f"{place(row)}: the {name} {str(value)[:80]!r} is no finite number")
    return numbers
