"""Annotation files as tables: CSV or TSV with a header, an image and a label per row."""

import contextlib
import csv
import dataclasses
import io
import logging
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ssl_transfer.datasets.nearest import nearest
from ssl_transfer.datasets.reader import some
from ssl_transfer.datasets.split_folders import meaning
from ssl_transfer.system import lfs

log = logging.getLogger(__name__)

SUFFIXES = (".csv", ".tsv")
IMAGE_COLUMNS = ("path", "file", "filename", "file_name", "image", "image_path", "filepath", "name")
LABEL_COLUMNS = ("label", "class", "target", "category", "class_name", "y")
UNUSED = "none"
"""Name of a split or group column that stands for no column."""
_SEPARATORS = ",;\t"


@contextlib.contextmanager
def reading(key: str, kind: str, path: Path) -> Iterator[None]:
    """Explain why a file that a user named cannot be read.

    Args:
        key: the key that names the file.
        kind: what the file must be, with its article.
        path: the file, which is read in the block.

    Raises:
        ValueError: if it cannot be opened, is not UTF-8, or is a pointer of Git LFS.
    """
    remedy = "correct the path"
    lfs.refuse_pointer(path)
    try:
        yield
        return
    except OSError as error:
        reason = f"cannot be read ({error.strerror or error})"
        if not path.exists():
            reason = f"does not exist{nearest(path)}"
    except UnicodeDecodeError as error:
        reason = f"is not UTF-8 text ({error.reason} at byte {error.start})"
        remedy = "save it as UTF-8, or correct the path"
    raise ValueError(f"`{key}` must be {kind}, but `{path}` {reason}; {remedy}.")


class Columns(NamedTuple):
    """Names of columns that the user chose (``None``: the usual names).

    Args:
        image: the image.
        label: its label.
        split: its split (``None``: ``split``, if there is one; ``none``: all rows are read).
        group: its group (``None``: ``group``, if there is one; ``none``: no groups).
    """

    image: str | None = None
    label: str | None = None
    split: str | None = None
    group: str | None = None


class Entry(NamedTuple):
    """One row of a table.

    Args:
        name: the image, as written.
        label: its label, with composed Unicode letters.
        place: file and line number, for messages.
        group: its group (``None``: the table has no column of groups).
    """

    name: str
    label: str
    place: str
    group: str | None = None


@dataclasses.dataclass(frozen=True)
class Table:
    """The rows of a split.

    Args:
        path: the file.
        entries: the rows that have an image and a label.
        passed: number of rows of other splits.
    """

    path: Path
    entries: list[Entry]
    passed: Mapping[str, int]


def is_table(path: Path) -> bool:
    """Return whether an annotation file is a table, by its ending."""
    return path.suffix.lower() in SUFFIXES


def read_table(path: Path, text: str, split: str, named: Columns, problems: list[str]) -> Table:
    """Return the rows of one split that have an image and a label; add others to ``problems``.

    Columns are separated by commas, semicolons or tabs, the one that occurs most in the header;
    fields may be quoted.

    Args:
        path: the file, for messages.
        text: its content.
        split: the rows to take, if the table has a column of splits.
        named: the columns.
        problems: messages about the files so far.
    """
    entries: list[Entry] = []
    passed: Counter[str] = Counter()
    rows = csv_rows(path, io.StringIO(text, newline=""), problems)
    _, header = next(rows, (0, []))
    places = _places(path, header, named, problems)
    if places is None:
        return Table(path, entries, passed)
    known = len(problems)
    for line, row in rows:
        place = f"{path.name}:{line}"
        fields = {role: row[column].strip() for role, column in places.items()}
        row_split = split_of(fields["split"]) if "split" in fields else split
        if row_split not in (None, split):
            passed[str(row_split)] += 1
        elif problem := _problem(fields):
            problems.append(f"{place}: {problem}")
        else:
            label = unicodedata.normalize("NFC", fields["label"])
            entries.append(Entry(fields["image"], label, place, fields.get("group")))
    if not entries and len(problems) == known:
        others = " and ".join(f"{count} of {key}" for key, count in passed.items())
        problems.append(
            f"{path.name}: no rows of the split {split}, but {others} (dataset.split_column="
            f"{UNUSED} reads all)" if passed else f"{path.name}: no rows below the header"
        )  # fmt: skip
    return Table(path, entries, passed)


def csv_rows(
    path: Path, file: io.TextIOBase, problems: list[str]
) -> Iterator[tuple[int, list[str]]]:
    """Yield the first line and the fields of each row that is not empty, the header first.

    Args:
        path: for messages.
        file: the content, opened with ``newline=""``; it is read from its current position.
        problems: messages about the files so far.
    """
    start = file.tell()
    first = next((line for line in iter(file.readline, "") if line.strip()), "")
    file.seek(start)
    separator = max(_SEPARATORS, key=first.count)
    reader = csv.reader(file, delimiter=separator, skipinitialspace=True, strict=True)
    width, start = 0, 1
    while True:
        line = start
        try:
            row = next(reader, None)
        except csv.Error as error:
            problems.append(
                f"{path.name}:{line}: no CSV from here on ({error}; perhaps a quotation mark is "
                "left open)"
            )
            return
        if row is None:
            return
        start = reader.line_num + 1
        if not "".join(row).strip():
            continue
        width = width or len(row)
        if len(row) == width:
            yield line, row
        else:
            problems.append(f"{path.name}:{line}: {len(row)} fields instead of {width}")


def _places(
    path: Path, header: Sequence[str], named: Columns, problems: list[str]
) -> dict[str, int] | None:
    """Return the place of each column that is used; None, with messages, if one is missing."""
    known = len(problems)
    header = [field.strip() for field in header]
    usual = Columns(IMAGE_COLUMNS, LABEL_COLUMNS, ("split",), ("group",))  # type: ignore[arg-type]
    places = {}
    for role, name in named._asdict().items():
        optional = role in ("split", "group")
        if optional and name == UNUSED:
            continue
        wanted = getattr(usual, role) if name is None else (name,)
        key = f"dataset.{role}_column"
        place = column(path, header, wanted, key, problems, optional=optional and name is None)
        if place is not None:
            places[role] = place
    return places if len(problems) == known else None


def column(
    path: Path,
    header: Sequence[str],
    wanted: Sequence[str],
    key: str,
    problems: list[str],
    *,
    optional: bool,
) -> int | None:
    """Return the place of a column; None, with a message, if it is missing or ambiguous.

    Args:
        path: the table, for messages.
        header: names of its columns.
        wanted: names that the column may have, in any case.
        key: the key that names it, for messages.
        problems: messages about the files so far.
        optional: whether it may be missing.
    """
    folded = [name.casefold() for name in wanted]
    places = [place for place, name in enumerate(header) if name.casefold() in folded]
    if len(places) > 1 and len(exact := [p for p in places if header[p] in wanted]) == 1:
        places = exact
    if len(places) == 1:
        return places[0]
    if places or not optional:
        what = "several columns" if places else "no column"
        names = some([header[p] for p in places] or list(wanted), len(IMAGE_COLUMNS))
        problems.append(
            f"{path.name}: {what} {names}; its columns are {some(list(header), 10) or 'none'}: "
            f"name one by {key}"
        )
    return None


def split_of(text: str) -> str | None:
    """Return the split that a field names (``None``: none)."""
    split, further_words = meaning(text)
    return None if further_words else split


def _problem(fields: Mapping[str, str]) -> str | None:
    """Return what is wrong with the fields of a row; None if nothing is."""
    for role, field in fields.items():
        if not field:
            return f"no {role}"
        if not field.isprintable():
            return f"the {role} {field[:80]!r} has a character that is not printable"
    if "split" in fields and split_of(fields["split"]) is None:
        return (
            f"the split `{fields['split'][:80]}` is none of train, val and test "
            f"(dataset.split_column={UNUSED} leaves this column out)"
        )
    return None


def class_names(labels: Collection[str]) -> tuple[str, ...]:
    """Return the class names of labels in order: numbers by value, other labels by their text."""
    if are_numbers(labels):
        return tuple(sorted(labels, key=lambda label: (int(label), label)))
    return tuple(sorted(labels))


def are_numbers(labels: Collection[str]) -> bool:
    """Return whether all labels are whole numbers from 0."""
    return all(label.isdecimal() for label in labels)


def warn_of_alike(name: str, classes: Sequence[str]) -> None:
    """Warn of classes of a data set that differ only in case, blanks or zeros in front."""
    first: dict[str, str] = {}
    for label in classes:
        plain = str(int(label)) if label.isdecimal() else " ".join(label.split())
        other = first.setdefault(unicodedata.normalize("NFKC", plain).casefold(), label)
        if other != label:
            log.warning(
                "`%s`: the classes `%s` and `%s` differ only in case, blanks or zeros in front; if "
                "they are one class, write both alike",
                name, other, label,
            )  # fmt: skip
