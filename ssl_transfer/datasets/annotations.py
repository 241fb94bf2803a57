"""Files of names and labels; a damaged file raises an error that names the file and the line."""

import contextlib
import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Int64

from ssl_transfer.datasets.reader import some
from ssl_transfer.system import inputs, lfs

Row = TypeVar("Row")
REMEDY = "unpack the archive again"


@contextlib.contextmanager
def reading(path: Path, form: str, remedy: str = REMEDY) -> Iterator[None]:
    """Turn every exception raised while a file is read and parsed into one ``ValueError``.

    Args:
        path: the file; the block must do nothing but read it.
        form: description of the expected content, for the message.
        remedy: what the message tells the user to do.

    Raises:
        ValueError: for any exception in the block.
    """
    inputs.note_file(path)
    lfs.refuse_pointer(path)
    try:
        yield
    except Exception as error:  # parsers of damaged bytes raise exceptions of any type
        reason = f"there is no {error}" if isinstance(error, KeyError) else str(error)
        first = (reason.splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ValueError(f"`{path}` must be {form}, but cannot be read ({first}); {remedy}.") from (
            error
        )


def lines_of(path: Path) -> list[str]:
    """Return the lines of a text file that are not empty, without blanks at their ends.

    Raises:
        ValueError: if there is no such file, or it is empty or no UTF-8 text.
    """
    return [line for _, line in numbered_lines(path)]


def numbered_lines(path: Path) -> list[tuple[int, str]]:
    """Return the lines of a text file that are not empty, with their numbers from 1.

    Raises:
        ValueError: if there is no such file, or it is empty or no UTF-8 text.
    """
    if not path.is_file():
        raise ValueError(f"`{path}` must list images, but does not exist; {REMEDY}.")
    with reading(path, "UTF-8 text"):
        lines = path.read_text(encoding="utf-8").splitlines()
    numbered = [(n, line.strip()) for n, line in enumerate(lines, start=1) if line.strip()]
    if not numbered:
        raise ValueError(f"`{path}` must have a line, but is empty; {REMEDY}.")
    return numbered


def rows_of(path: Path, form: str, parse: Callable[[str], Row]) -> list[Row]:
    """Return what ``parse`` makes of every line of a text file that is not empty.

    Args:
        path: the file.
        form: description of a valid line, for the message.
        parse: parses one line; it raises ``ValueError``, ``IndexError`` or ``KeyError`` for an
            invalid line.

    Raises:
        ValueError: naming the first invalid line; or if the file does not exist.
    """
    return [_parsed(path, form, parse, number, line) for number, line in numbered_lines(path)]


def table_of(
    path: Path,
    columns: Sequence[str],
    form: str,
    parse: Callable[[dict[str, str]], Row],
    delimiter: str = ",",
) -> list[Row]:
    """Return what ``parse`` makes of every row of a table with a line of headings.

    Args:
        path: the file.
        columns: headings that it must have.
        form: description of a valid row, for the message.
        parse: takes the cells of these columns, by heading; it raises as for ``rows_of``.
        delimiter: character between cells.

    Raises:
        ValueError: naming the columns that are missing, or the first invalid row.
    """
    with reading(path, "a table as UTF-8 text"), path.open(newline="", encoding="utf-8-sig") as f:
        table = csv.DictReader(f, delimiter=delimiter, skipinitialspace=True)
        headings = table.fieldnames or ()
        # csv gives None for the cells that a row lacks.
        rows = [
            (table.line_num, {name: (row.get(name) or "").strip() for name in columns})
            for row in table
        ]
    missing = [name for name in columns if name not in headings]
    if missing:
        raise ValueError(
            f"`{path}` must have the columns {list(columns)}, separated by {delimiter!r}, but "
            f"lacks {some(missing)}; download it again."
        )
    return [_parsed(path, form, parse, number, row) for number, row in rows]


def _parsed(path: Path, form: str, parse: Callable[[Any], Row], number: int, line: Any) -> Row:
    try:
        return parse(line)
    except (ValueError, IndexError, KeyError) as error:
        raise ValueError(
            f"line {number} of `{path}` must be {form}, but is {line!r}; {REMEDY}."
        ) from error


def numbers_of(classes: Sequence[str]) -> Mapping[str, int]:
    """Return the number of each class by its name."""
    return {name: number for number, name in enumerate(classes)}


def whole_numbers(path: Path, values: Any, first: int, last: int) -> Int64[np.ndarray, " entries"]:
    """Return numbers that a file holds, such as labels or positions.

    Args:
        path: the file, for the message.
        values: the values that were read; any array, or nested lists.
        first: lowest valid number.
        last: highest valid number.

    Raises:
        ValueError: if a value is not a whole number, or lies outside of this range.
    """
    form = f"a file of whole numbers from {first} to {last}"
    with reading(path, form):
        numbers = np.asarray(values).reshape(-1).astype(np.float64)
    wrong = np.flatnonzero(
        ~((numbers >= first) & (numbers <= last) & (numbers == np.floor(numbers)))
    )
    if len(wrong):
        raise ValueError(
            f"`{path}` must be {form}, but entry {wrong[0] + 1} is {numbers[wrong[0]]:g}; {REMEDY}."
        )
    return np.asarray(numbers, dtype=np.int64)


def lists_by_class(path: Path) -> dict[str, list[str]]:
    """Return the names of images by class, from a JSON file.

    Raises:
        ValueError: if the file is not JSON, or holds another structure.
    """
    with reading(path, "JSON that maps classes to lists of names"):
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}")
        for name, images in content.items():
            if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
                raise ValueError(f"`{name}` has no list of names")
    return content


def read_mat(path: Path, field: str, *columns: str) -> Any:
    """Return a field of a MATLAB file, without dimensions of length 1.

    Args:
        path: the file.
        field: name of the field.
        columns: names within it, if it is a table (the field is then indexed by them).

    Raises:
        ValueError: if the file cannot be read, or has no such field or columns.
    """
    import scipy.io

    form = f"a MATLAB file with `{field}`"
    with reading(path, form + (f", and {some(columns)} in it" if columns else "")):
        content = scipy.io.loadmat(str(path), squeeze_me=True, variable_names=[field])
        values = np.atleast_1d(content[field])
        for column in columns:
            values[column]
    return values
