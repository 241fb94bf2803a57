"""A table of image files: CSV, TSV, JSON lines or Parquet, with an image per row."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from ssl_transfer.config.ranges import Text
from ssl_transfer.datasets import list_tables, named_files
from ssl_transfer.datasets.base import Dataset
from ssl_transfer.datasets.columns import read_table
from ssl_transfer.datasets.labels import Place, labels_of, texts
from ssl_transfer.datasets.nearest import existing_folder
from ssl_transfer.datasets.reader import Options, reader, some
from ssl_transfer.datasets.rows import RowOptions, Rows, TargetKind, dataset_of
from ssl_transfer.datasets.split_folders import SPLITS
from ssl_transfer.system import inputs

log = logging.getLogger(__name__)

ColumnNames = Mapping[str, str | list[str] | None]
USUAL = {
    "path": list_tables.IMAGE_COLUMNS,
    "label": list_tables.LABEL_COLUMNS,
    "labels": ("labels", "classes", "tags"),
    "split": ("split",),
    "group": ("group",),
    "domain": ("domain",),
}
"""Names that the column of each role usually has, in any case."""
FURTHER = ("split", "group", "domain")
"""Roles of columns that a table may lack."""


@reader
def image_table(
    options: RowOptions,
    path: Text,
    root: str | None = None,
    columns: ColumnNames | None = None,
    target: TargetKind | None = None,
    label_separator: Text = ";",
) -> Dataset:
    """Return the images that the rows of a table name.

    The order of the rows has no effect: samples are ordered by class and then by path, so that a
    table of the files of class folders gives the scores of ``image_folder``.

    Args:
        options: shared options.
        path: the table: ``.csv`` or ``.tsv`` with a header, ``.jsonl`` or ``.ndjson`` with an
            object per line, or ``.parquet``.
        root: folder that the paths in the table are relative to (``None``: the table's folder).
        columns: column of each role, where it does not have one of the usual names:

            * ``path``: the image.
            * ``label``: its class; or a list of columns with a number each: marks 1, 0 and -1 (not
              known) of classes, or values to regress.
            * ``labels``: its classes, a list or a text (see ``label_separator``); without
              ``label``.
            * ``split``: ``train``, ``val`` or ``test``, or a usual word for one of these
              (``none``: the column does not count). Without it, splits are made as by
              ``image_folder``.
            * ``group``: what it shows (see ``groups.group``) (``none``: does not count).
            * ``domain``: where it comes from, such as the hospital (``none``: does not count).
        target: ``class``, one class per image; ``classes``, any number of them; ``values``, numbers
            to regress (``None``: ``classes`` if there is a column ``labels``, else ``class``).
        label_separator: separates the classes of an image in a text.

    Raises:
        ValueError: listing the first problems of the table, each with its line or row; or if an
            image does not decode.
    """
    file = Path(path).expanduser()
    folder = existing_folder("dataset.root", root or file.parent, "a folder of images")
    inputs.note_file(file)
    problems: list[str] = []
    rows = rows_of(file, folder, _checked(columns), target, label_separator, problems)
    named_files.refuse(f"the rows of `{options.name}`", problems)
    _warn_of_outside(options, folder, rows)
    return dataset_of(options, rows, folder)


def _checked(columns: ColumnNames | None) -> dict[str, str | list[str]]:
    """Return the columns that the user named, by role."""
    named = {role: value for role, value in (columns or {}).items() if value is not None}
    if unknown := [role for role in named if role not in USUAL]:
        raise ValueError(
            f"`dataset.columns` must map some of {list(USUAL)} to columns, but maps "
            f"{some(unknown)}; correct it."
        )
    for role, value in named.items():
        if isinstance(value, list) and (role != "label" or not value):
            raise ValueError(
                f"`dataset.columns.{role}` must be the name of one column, but is {value}."
            )
    if "label" in named and "labels" in named:
        raise ValueError(
            "`dataset.columns` must name one of `label` and `labels`, but names both; remove one."
        )
    return named


def rows_of(
    path: Path,
    folder: Path,
    named: Mapping[str, str | list[str]],
    target: TargetKind | None,
    separator: str,
    problems: list[str],
) -> Rows:
    """Return the rows of a table whose files exist; add what is wrong to ``problems``.

    Args:
        path: the table.
        folder: folder that the paths in it are relative to.
        named: columns that the user named, by role.
        target: kind of target, if the user named it.
        separator: between the labels of an image in a text.
        problems: messages about the table so far.
    """
    roles: dict[str, list[str]] = {}

    def choose(header: list[str]) -> list[str]:
        roles.update(_roles(path, header, named, problems))
        return list(dict.fromkeys(name for names in roles.values() for name in names))

    table = read_table("dataset.path", path, choose, problems)
    if problems:
        return Rows((), (), (), "class", table.place)
    if not len(table):
        problems.append(f"{path.name}: no rows")
    text = {
        role: texts(role, table.values[roles[role][0]], table.place, problems)
        for role in ("path", *FURTHER)
        if role in roles
    }
    if "labels" in roles and target not in (None, "classes"):
        raise ValueError(
            f"`dataset.target` must be null or classes for a column of labels, but is {target}."
        )
    labels, kind, classes = labels_of(
        {name: table.values[name] for name in roles.get("labels") or roles["label"]},
        "classes" if "labels" in roles else target,
        table.place,
        problems,
        separator,
    )
    table.values.clear()  # a million rows take 30 MiB
    places = []
    for row, name in enumerate(text["path"]):
        place, problem = named_files.find(str(folder), name) if name else ("", None)
        places.append(place)
        if problem is not None:
            problems.append(f"{table.place(row)}: {problem}")
    return Rows(
        names=text["path"],
        paths=places,
        labels=labels,
        target=kind,
        place=table.place,
        classes=classes,
        splits=_splits(text["split"], table.place, problems) if "split" in text else None,
        groups=text.get("group"),
        domains=text.get("domain"),
    )


def _roles(
    path: Path, header: Sequence[str], named: Mapping[str, str | list[str]], problems: list[str]
) -> dict[str, list[str]]:
    """Return the columns of each role that the table has; add what is missing to ``problems``."""
    roles = {}
    has_labels = "label" not in named and (
        "labels" in named
        or (
            not {name.casefold() for name in header} & set(USUAL["label"])
            and bool({name.casefold() for name in header} & set(USUAL["labels"]))
        )
    )
    for role in ("path", "labels" if has_labels else "label", *FURTHER):
        value = named.get(role)
        if role in FURTHER and value == list_tables.UNUSED:
            continue
        groups = (
            [USUAL[role]]
            if value is None
            else [(n,) for n in (value if isinstance(value, list) else [value])]
        )
        key = f"dataset.columns.{role}"
        optional = role in FURTHER and value is None
        places = [
            list_tables.column(path, header, names, key, problems, optional=optional)
            for names in groups
        ]
        if found := [header[place] for place in places if place is not None]:
            roles[role] = found
    return roles


def _splits(words: Sequence[str], place: Place, problems: list[str]) -> Int64[np.ndarray, " rows"]:
    """Return the position in ``SPLITS`` of each row's split."""
    numbers = {}
    for text in set(words) - {""}:
        split = list_tables.split_of(text)
        numbers[text] = -1 if split is None else SPLITS.index(split)
    splits = np.array([numbers.get(text, 0) for text in words], dtype=np.int64)
    problems += [
        f"{place(row)}: the split `{words[row][:80]}` is none of train, val and test "
        f"(dataset.columns.split={list_tables.UNUSED} leaves this column out)"
        for row in np.flatnonzero(splits < 0).tolist()
    ]
    return splits


def _warn_of_outside(options: Options, folder: Path, rows: Rows) -> None:
    """Warn of names that lead out of the folder of images."""
    outside = named_files.outside(rows.names)
    if outside:
        log.warning(
            "`%s`: %d paths lead out of `%s` (%s: `%s`), so that a copy of this folder lacks these "
            "images; set dataset.root to a folder that holds all",
            options.name, len(outside), folder, rows.place(outside[0]), rows.names[outside[0]],
        )  # fmt: skip
