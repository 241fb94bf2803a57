"""A long table of numbers as a Parquet file, with types; needs pyarrow."""

import io
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from results.errors import ResultsError

_TYPES = {
    "higher_is_better": "bool_",
    "value": "float64",
    "std": "float64",
    "low": "float64",
    "high": "float64",
    "count": "int64",
}
"""Types of columns that are no text, as functions of pyarrow."""


def to_parquet(columns: Mapping[str, Sequence[object]]) -> bytes:
    """Return the content of a Parquet file with these columns.

    Raises:
        ResultsError: if pyarrow is not installed.
    """
    pyarrow, parquet = _modules()
    arrays = {
        name: pyarrow.array(list(values), getattr(pyarrow, _TYPES.get(name, "string"))())
        for name, values in columns.items()
    }
    file = io.BytesIO()
    parquet.write_table(pyarrow.table(arrays), file)
    return file.getvalue()


def print_bytes(content: bytes) -> None:
    """Write a binary file to standard output.

    Raises:
        ResultsError: if standard output is a terminal.
    """
    if sys.stdout.isatty():
        raise ResultsError(
            "`--format parquet` needs a file, but standard output is a terminal; add "
            "`--save FOLDER`, or redirect the output with `> table.parquet`."
        )
    sys.stdout.buffer.write(content)


def _modules() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ResultsError(
            "`--format parquet` needs the package pyarrow, but it is not installed; run "
            "`pip install pyarrow`."
        ) from error
    return pyarrow, parquet
