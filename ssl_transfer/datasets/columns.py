"""Tables of any form as columns of values: CSV, TSV, JSON lines and Parquet."""

import dataclasses
import importlib
import json
import sys
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import orjson

from ssl_transfer.datasets.list_tables import csv_rows, reading

FORMS = {
    ".csv": "csv", ".tsv": "csv", ".jsonl": "json", ".ndjson": "json",
    ".parquet": "parquet", ".pq": "parquet",
}  # fmt: skip
"""Form of a table by the ending of its name."""

_EXACT = frozenset({str, int, bool, type(None)})

Choose = Callable[[list[str]], Sequence[str]]
"""Returns which of a table's columns to read, from the names of all."""


@dataclasses.dataclass(frozen=True)
class Table:
    """Some columns of a table.

    Args:
        path: the file.
        header: names of all its columns.
        values: the values of the columns that were read, by name; ``None`` where one is missing.
            Texts have no blanks at their ends.
        lines: the line of each row in a text file, from 1 (``None``: rows are counted instead).
    """

    path: Path
    header: list[str]
    values: dict[str, list[Any]]
    lines: "array[int] | None" = None

    def __len__(self) -> int:
        return max((len(column) for column in self.values.values()), default=0)

    def place(self, row: int) -> str:
        """Return where a row stands, for messages."""
        if self.lines is None:
            return f"{self.path.name}: row {row + 1}"
        return f"{self.path.name}:{self.lines[row]}"


def read_table(key: str, path: Path, choose: Choose, problems: list[str]) -> Table:
    """Return the columns of a table that ``choose`` names.

    Args:
        key: the key that names the table, for messages.
        path: the table; its ending says its form (see ``FORMS``).
        choose: called once, with the names of all columns.
        problems: messages about the file so far.

    Raises:
        ValueError: if the file cannot be read, or its ending is none of the known ones.
    """
    form = FORMS.get(path.suffix.lower())
    if form is None:
        raise ValueError(
            f"`{key}` must be a table whose name ends in {', '.join(FORMS)}, but is `{path}`; "
            "rename or convert it."
        )
    read = {"csv": _read_csv, "json": _read_json, "parquet": _read_parquet}[form]
    with reading(key, "a table", path):
        return read(path, choose, problems)


def _read_csv(path: Path, choose: Choose, problems: list[str]) -> Table:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv_rows(path, file, problems)
        _, first = next(rows, (0, []))
        header = [field.strip() for field in first]
        names = choose(header)
        columns: list[list[Any]] = [[] for _ in names]
        lines = array("q")
        filled = [
            (header.index(name), column.append) for name, column in zip(names, columns, strict=True)
        ]
        for line, row in rows:
            lines.append(line)
            for place, append in filled:
                append(row[place].strip())
    return Table(path, header, dict(zip(names, map(_shared, columns), strict=True)), lines)


def _shared(values: list[Any]) -> list[Any]:
    """Return the values with equal texts stored once, if few of them differ."""
    first = values[:1000]
    if not all(type(value) is str for value in first) or len(set(first)) > 500:
        return values
    return [sys.intern(value) if type(value) is str else value for value in values]


def _read_json(path: Path, choose: Choose, problems: list[str]) -> Table:
    columns: dict[str, list[Any]] = {}
    header: list[str] = []
    lines = array("q")
    with path.open(encoding="utf-8-sig") as file:
        for number, text in enumerate(file, start=1):
            if not text.strip():
                continue
            try:
                row = _of_json(text)
            except ValueError as error:
                problems.append(f"{path.name}:{number}: no JSON ({error})")
                continue
            if not isinstance(row, dict):
                problems.append(f"{path.name}:{number}: no JSON object with a value per column")
                continue
            if not header:
                header = list(row)
                columns = {name: [] for name in choose(header)}
            lines.append(number)
            for name, column in columns.items():
                value = row.get(name)
                column.append(value.strip() if isinstance(value, str) else value)
    if not header and not problems:
        choose([])
    shared = {name: _shared(column) for name, column in columns.items()}
    return Table(path, header, shared, lines)


def _of_json(text: str) -> Any:
    """Return what a line of JSON holds, as ``json.loads`` does.

    orjson takes a fifth of the time, but refuses ``NaN`` and rounds integers of more than 64 bits.
    """
    try:
        row = orjson.loads(text)
    except ValueError:
        return json.loads(text)
    is_exact = type(row) is dict and _EXACT.issuperset(map(type, row.values()))
    return row if is_exact else json.loads(text)


def _read_parquet(path: Path, choose: Choose, problems: list[str]) -> Table:
    with path.open("rb") as file:
        try:
            stored = pyarrow("parquet", path).ParquetFile(file)
            header = list(stored.schema_arrow.names)
            # One at a time, since a column takes its memory twice while it is turned into a list.
            values = {
                name: _shared(stored.read(columns=[name]).column(name).to_pylist())
                for name in choose(header)
            }
        except pyarrow("", path).ArrowException as error:
            problems.append(f"{path.name}: no Parquet file, or a damaged one ({error})")
            return Table(path, [], {})
    return Table(path, header, values)


def pyarrow(module: str, path: Path) -> Any:
    """Return the package pyarrow or a module of it.

    Raises:
        ValueError: if it is not installed.
    """
    try:
        return importlib.import_module(f"pyarrow.{module}" if module else "pyarrow")
    except ImportError as error:
        raise ValueError(
            f"pyarrow must be installed to read `{path}`, but cannot be imported ({error}); run "
            "`pip install pyarrow`."
        ) from error
