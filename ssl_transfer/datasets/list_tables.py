"""Annotation files as tables: CSV or TSV with a header, an image and a label per row."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ssl_transfer.datasets.reader import some

SUFFIXES = (".csv", ".tsv")
IMAGE_COLUMNS = ("path", "file", "filename", "file_name", "image", "image_path", "filepath", "name")
LABEL_COLUMNS = ("label", "class", "target", "category", "class_name", "y")
_SEPARATORS = ",;\t"


class Entry(NamedTuple):
    """One row of a table.

    Args:
        name: the image, as written.
        label: its label, as written.
        place: file and line number, for messages.
    """

    name: str
    label: str
    place: str


def is_table(path: Path) -> bool:
    """Return whether an annotation file is a table, by its ending."""
    return path.suffix.lower() in SUFFIXES


def entries(
    path: Path, text: str, image_column: str | None, label_column: str | None, problems: list[str]
) -> Iterator[Entry]:
    """Yield the rows of a table that have an image and a label; add the others to ``problems``.

    Columns are separated by commas, semicolons or tabs, the one that occurs most in the header;
    fields may be quoted.

    Args:
        path: the file, for messages.
        text: its content.
        image_column: name of the column of images (``None``: the only one of ``IMAGE_COLUMNS``).
        label_column: name of the column of labels (``None``: the only one of ``LABEL_COLUMNS``).
        problems: messages about the files so far.
    """
    header_line = text.partition("\n")[0]
    separator = max(_SEPARATORS, key=header_line.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
    try:
        header = [field.strip() for field in next(reader, [])]
        image = _column(path, header, image_column, IMAGE_COLUMNS, "image_column", problems)
        label = _column(path, header, label_column, LABEL_COLUMNS, "label_column", problems)
        if image is None or label is None:
            return
        count = 0
        for row in reader:
            if not any(field.strip() for field in row):
                continue
            count += 1
            place = f"{path.name}:{reader.line_num}"
            if len(row) != len(header):
                problems.append(f"{place}: {len(row)} fields instead of {len(header)}")
            elif not (row[image].strip() and row[label].strip()):
                missing = "image" if not row[image].strip() else "label"
                problems.append(f"{place}: no {missing}")
            else:
                yield Entry(row[image].strip(), row[label].strip(), place)
        if not count:
            problems.append(f"{path.name}: no rows below the header")
    except csv.Error as error:
        problems.append(f"{path.name}:{reader.line_num}: {error}")


def _column(
    path: Path,
    header: Sequence[str],
    named: str | None,
    usual: Sequence[str],
    key: str,
    problems: list[str],
) -> int | None:
    """Return the place of a column; None, with a message, if it is missing or ambiguous."""
    wanted = usual if named is None else [named]
    places = [place for place, name in enumerate(header) if name.lower() in wanted or name == named]
    if len(places) == 1:
        return places[0]
    what = "no column" if not places else "several columns"
    names = some(list(wanted), len(wanted)) if not places else some([header[p] for p in places])
    problems.append(
        f"{path.name}: {what} {names}; its columns are {some(list(header), 10) or 'none'}: name "
        f"one by dataset.{key}"
    )
    return None


def class_names(labels: set[str]) -> tuple[str, ...]:
    """Return the class names of labels in order: numbers by value, other labels by their text."""
    if all(label.isdecimal() for label in labels):
        return tuple(sorted(labels, key=lambda label: (int(label), label)))
    return tuple(sorted(labels))
