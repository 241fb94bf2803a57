"""Annotation files: one ``name class_number`` per line, or a table of images and labels."""

import dataclasses
import itertools
import logging
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from ssl_transfer import metrics
from ssl_transfer.config.arguments import argument
from ssl_transfer.config.ranges import Finite
from ssl_transfer.datasets import list_tables, named_files
from ssl_transfer.datasets.base import Dataset
from ssl_transfer.datasets.decoding import decoding_of
from ssl_transfer.datasets.duplicates import OnDuplicates, settle_duplicates
from ssl_transfer.datasets.files import Listing, inspect_files
from ssl_transfer.datasets.groups import group
from ssl_transfer.datasets.named_files import refuse
from ssl_transfer.datasets.nearest import alike, existing_folder
from ssl_transfer.datasets.reader import Options, assemble, reader, some

log = logging.getLogger(__name__)

_DIGITS = 9  # of a class number, at most


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of an annotation file.

    Args:
        name: the image, as written.
        target: its class number.
        place: annotation file and line number, for messages.
        group: its group in a table (``None``: none is given).
    """

    name: str
    target: int
    place: str
    group: str | None = None


@reader
def image_list(
    options: Options,
    root: str,
    train: str,
    test: str,
    val: str | None = None,
    classes: str | None = None,
    images: str = ".",
    image_column: str | None = None,
    label_column: str | None = None,
    split_column: str | None = None,
    group_column: str | None = None,
    groups: str | None = None,
    on_duplicates: OnDuplicates = "error",
    value_range: Sequence[Finite] | None = None,
    metric: metrics.Name | None = None,
    extra_metrics: Sequence[metrics.Name] | None = None,
) -> Dataset:
    """Return the images that annotation files name.

    A line is ``name class_number``, split at its last blank or tab, so that names with blanks work.
    Empty lines are skipped; there are no comments, since a name may begin with any character. Class
    numbers run from 0 without gaps. A name in composed Unicode letters also matches a file whose
    name has decomposed letters, and the reverse.

    A file that ends in ``.csv`` or ``.tsv`` is a table with a header instead (see ``list_tables``);
    all files must then be tables. Its labels are names of classes, also if they are numbers; only
    with ``classes``, numbers that are none of its names are the numbers of its lines. Several keys
    may name one table with a column of splits.

    Args:
        options: shared options.
        root: folder that the other paths are relative to (absolute ones stay).
        train: annotation file.
        test: annotation file.
        val: annotation file (``None``: a validation split is made from ``train``).
        classes: file with one class name per line, in the order of the numbers (``None``: the
            numbers are the names; of tables, the labels of the training rows, sorted).
        images: folder that names in annotation files are relative to.
        image_column: column of a table that names the image (``None``: ``path``, ``file``,
            ``filename``, ``image`` or a similar name).
        label_column: column with its label (``None``: ``label``, ``class``, ``target`` or a similar
            name).
        split_column: column with its split, of which each key takes its rows (``None``: ``split``,
            if there is one; ``none``: every key takes all rows).
        group_column: column with its group, used without ``groups`` (``None``: ``group``, if there
            is one; ``none``: no groups).
        groups: which images show one object and stay together in every split that is made: a
            regular expression or a file (see ``groups.group``) (``None``: a table's column of
            groups; without one, only copies stay together).
        on_duplicates: how to treat images whose bytes are in two of the given splits (see
            ``duplicates.settle_duplicates``).
        value_range: see ``decoding.Decoding``.
        metric: see ``image_folder``.
        extra_metrics: likewise.

    Raises:
        ValueError: listing the first problems in all files, each with file and line.
    """
    base = existing_folder("dataset.root", root, "a folder")
    folder = existing_folder("dataset.images", base / images, "a folder")
    written = {"train": train, "val": val, "test": test}
    problems: list[str] = []
    files_of = {key: base / file for key, file in written.items() if file}
    of_classes = base / classes if classes else None
    columns = list_tables.Columns(image_column, label_column, split_column, group_column)
    if any(list_tables.is_table(path) for path in files_of.values()):
        lines, names = _tables(options, files_of, columns, of_classes, problems)
    else:
        _refuse_columns(columns)
        lines = {key: list(_parse(path, key, problems)) for key, path in files_of.items()}
        names = _class_names(lines, of_classes, problems)
    _find_repeated(lines, problems)
    paths = {key: [_find(folder, line, problems) for line in part] for key, part in lines.items()}
    refuse(f"the annotation files of `{options.name}`", problems)
    _warn_of_outside(options, folder, lines)
    listings = {
        key: Listing(
            paths=paths[key],
            names=[line.name for line in part],
            targets=np.array([line.target for line in part], dtype=np.int64),
        )
        for key, part in lines.items()
    }
    looked_at = inspect_files(options, listings, decoding_of(value_range))
    files = settle_duplicates(options.name, looked_at, on_duplicates)
    rule = groups if groups is not None else _groups(options, lines)
    splits = group(options.name, files, rule, base, names)
    return assemble(
        options,
        classes=names,
        train=splits["train"],
        test=splits["test"],
        val=splits.get("val"),
        content=files.content,
        metric=metric,
        extra_metrics=extra_metrics,
        facts=files.facts,
    )


def _refuse_columns(columns: list_tables.Columns) -> None:
    for role, value in columns._asdict().items():
        if value is not None:
            raise ValueError(
                f"`dataset.{role}_column` must be null for lists in text files, which have no "
                f"columns, but is {value!r}; name the files .csv or .tsv if they are tables."
            )


def _groups(options: Options, lines: Mapping[str, Sequence[Line]]) -> dict[str, str] | None:
    """Return the group of each name; None if no table has a column of groups."""
    every = [line for part in lines.values() for line in part]
    if all(line.group is None for line in every):
        return None
    log.info(
        "`%s`: the tables' column of groups takes the place of dataset.groups; "
        "dataset.group_column=%s leaves it out",
        options.name, list_tables.UNUSED,
    )  # fmt: skip
    # An image of a table without this column is a group of its own, which no other can be.
    return {line.name: line.group or f"\0{line.name}" for line in every}


def _tables(
    options: Options,
    paths: dict[str, Path],
    columns: list_tables.Columns,
    of_classes: Path | None,
    problems: list[str],
) -> tuple[dict[str, list[Line]], tuple[str, ...]]:
    """Return the lines of annotation files that are tables, and the names of the classes."""
    others = [path.name for path in paths.values() if not list_tables.is_table(path)]
    if others:
        raise ValueError(
            "the annotation files must all be tables (.csv, .tsv) or none of them, but "
            f"{some(others)} {'is' if len(others) == 1 else 'are'} no table; convert one of them."
        )
    tables = {
        key: list_tables.read_table(path, _read(path, f"dataset.{key}"), key, columns, problems)
        for key, path in paths.items()
    }
    _warn_of_unread(options, tables)
    entries = {key: table.entries for key, table in tables.items()}
    names, numbers, known = _labels(options, entries, of_classes, problems)
    lines: dict[str, list[Line]] = {key: [] for key in entries}
    for key, part in entries.items():
        for entry in part:
            number = numbers.get(entry.label)
            if number is None:
                near = alike(entry.label, names)
                problems.append(
                    f"{entry.place}: label `{_cut(entry.label)}` is not among {known}"
                    + f" (did you mean `{near}`?)" * (near is not None)
                )
            else:
                lines[key].append(Line(entry.name, number, entry.place, entry.group))
    taught = {line.target for line in lines["train"]}
    missing = [name for number, name in enumerate(names) if number not in taught]
    if missing and entries["train"]:
        problems.append(f"no training row has class {some(missing)}")
    return lines, names


def _labels(
    options: Options,
    entries: Mapping[str, Sequence[list_tables.Entry]],
    of_classes: Path | None,
    problems: list[str],
) -> tuple[tuple[str, ...], dict[str, int], str]:
    """Return the names of the classes, the number of each label, and where labels are listed."""
    if of_classes is None:
        names = list_tables.class_names({entry.label for entry in entries["train"]})
        known = "the labels of the training rows"
        if names:
            log.info(
                "`%s`: the labels of its tables are the names of %d classes, in the order of their "
                "%s", options.name, len(names),
                "value" if list_tables.are_numbers(names) else "text",
            )  # fmt: skip
    else:
        names, known = names_in(of_classes, problems), f"the lines of {of_classes.name}"
    list_tables.warn_of_alike(options.name, names)
    written = {entry.label for part in entries.values() for entry in part}
    if of_classes is not None and list_tables.are_numbers(written) and not written & set(names):
        log.info(
            "`%s`: the labels of its tables are numbers of the lines of %s, from 0",
            options.name, of_classes.name,
        )  # fmt: skip
        return names, {n: int(n) for n in written if int(n) < len(names)}, known
    return names, {name: number for number, name in enumerate(names)}, known


def _warn_of_unread(options: Options, tables: Mapping[str, list_tables.Table]) -> None:
    """Warn of rows of a split whose key does not name their table."""
    read = {(table.path, key) for key, table in tables.items()}
    passed = {
        (table.path, split, count)
        for table in tables.values()
        for split, count in table.passed.items()
    }
    for path, split, count in sorted(passed):
        if (path, split) not in read:
            log.warning(
                "`%s`: %d rows of %s, of the split %s, are not read; %s reads them",
                options.name, count, path.name, split, argument(f"dataset.{split}", path.name),
            )  # fmt: skip


def _read(path: Path, key: str) -> str:
    with list_tables.reading(key, "a text file", path):
        return path.read_text(encoding="utf-8-sig")


def _parse(path: Path, key: str, problems: list[str]) -> Iterator[Line]:
    """Yield the valid lines of an annotation file; add the others to ``problems``."""
    empty = True
    for number, text in enumerate(_read(path, f"dataset.{key}").split("\n"), start=1):
        if not text.strip():
            continue
        empty = False
        place = f"{path.name}:{number}"
        fields = text.strip().rsplit(maxsplit=1)
        number_text = fields[-1].removeprefix("-")
        if len(fields) < 2 or not number_text.isdecimal() or len(number_text) > _DIGITS:
            problems.append(
                f"{place}: no class number at the end of {_cut(text.strip())!r}{_hint(fields)}"
            )
        else:
            yield Line(fields[0], int(fields[1]), place)
    if empty:
        problems.append(f"{path.name}: no lines")


def _cut(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else f"{text[:limit]}…"


def _hint(fields: Sequence[str]) -> str:
    """Return the probable mistake in a line whose last part is not a class number."""
    label = fields[-1].rpartition(",")[2].rpartition(";")[2]
    if label != fields[-1] and label.isdecimal():
        return " (a blank or a tab must separate name and number)"
    words = {*re.split(r"[,;\s]+", " ".join(fields).lower())}
    if words & {*list_tables.IMAGE_COLUMNS} and words & {*list_tables.LABEL_COLUMNS}:
        return " (the name of a table with a header must end in .csv or .tsv)"
    return ""


def _find(folder: Path, line: Line, problems: list[str]) -> str:
    """Return the file of a line; add a missing file to ``problems``."""
    path, problem = named_files.find(str(folder), line.name)
    if problem is not None:
        problems.append(f"{line.place}: {problem}")
    return path


def _warn_of_outside(options: Options, folder: Path, lines: dict[str, list[Line]]) -> None:
    """Warn of names that lead out of the folder of images."""
    every = [line for part in lines.values() for line in part]
    outside = named_files.outside([line.name for line in every])
    if outside:
        first = every[outside[0]]
        log.warning(
            "`%s`: %d names lead out of `%s` (%s: `%s`), so that a copy of this folder lacks these "
            "images; set dataset.images to a folder that holds all",
            options.name, len(outside), folder, first.place, first.name,
        )  # fmt: skip


def _class_names(
    lines: dict[str, list[Line]], path: Path | None, problems: list[str]
) -> tuple[str, ...]:
    """Return the classes' names; report invalid numbers and classes without a sample."""
    present = {line.target for line in lines["train"] if line.target >= 0}
    if path is None:
        if gap := _gap(present):
            problems.append(f"{gap}; renumber them, or name all classes by dataset.classes")
            return ()
        names = tuple(map(str, range(len(present))))
        known = "the numbers of the training lines"
    else:
        names = names_in(path, problems)
        known = f"the lines of {path.name}"
    for line in (line for part in lines.values() for line in part):
        if not 0 <= line.target < len(names):
            problems.append(
                f"{line.place}: class number {line.target} is out of range "
                f"(0 to {len(names) - 1}, by {known})"
            )
    missing = [names[number] for number in range(len(names)) if number not in present]
    if missing and lines["train"]:
        problems.append(f"no training line has class {some(missing)}")
    return names


def _gap(present: Collection[int]) -> str | None:
    """Return a message if class numbers do not run from 0 without gaps (``None``: they do)."""
    if not present or len(present) == max(present) + 1:
        return None
    if 0 not in present:
        return f"class numbers must start at 0, but those of train start at {min(present)}"
    first = next(number for number in itertools.count() if number not in present)
    return (
        f"class numbers must have no gaps, but no training line has class `{first}`, and the "
        f"highest is {max(present)}"
    )


def names_in(path: Path, problems: list[str]) -> tuple[str, ...]:
    """Return the class names in a file; report repetitions and empty lines (they shift numbers)."""
    names = [text.strip() for text in _read(path, "dataset.classes").rstrip().split("\n")]
    for number, name in enumerate(names, start=1):
        if not name:
            problems.append(f"{path.name}:{number}: an empty line between class names")
        elif name in names[: number - 1]:
            problems.append(
                f"{path.name}:{number}: class `{name}` is named in line {names.index(name) + 1} "
                "already"
            )
    return tuple(names)


def _find_repeated(lines: dict[str, list[Line]], problems: list[str]) -> None:
    seen: dict[str, Line] = {}
    for line in (line for part in lines.values() for line in part):
        first = seen.setdefault(os.path.normpath(line.name), line)
        if first is not line:
            problems.append(f"{line.place}: `{line.name}` is named in {first.place} already")
