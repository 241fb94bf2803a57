"""The long table of unchanged records, kept in a file, so that it is computed once.

    magic, 4 bytes of CRC-32, 8 bytes of the length of the head, head (JSON), arrays

The head names the key of the table and describes its columns. A table is taken from the file if its
key is the same: the stamps of all records and failures, the arguments, and the code that makes
tables. The file is read without pickle; one that is damaged or foreign counts as missing.
"""

import contextlib
import hashlib
import json
import time
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from results.records.store import SETTLED_NS, Files, caches_of, write_cache

if TYPE_CHECKING:
    import pandas as pd

CACHE = ".table.cache"
"""File in an outputs folder with its long table."""
_MAGIC = b"ssl_transfer table 1\n"
_WORTH_KEEPING = 1000
"""Number of rows from which a table is kept."""


def key_of(folders: Mapping[Path, Files], arguments: Iterable[str]) -> str | None:
    """Return the key of a table; None if a file may change again without getting another stamp.

    Args:
        folders: the outputs folders, in the order of the table, with their files.
        arguments: what else the table depends on.
    """
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    for argument in arguments:
        digest.update(f"argument {argument}\n".encode())
    settled = time.time_ns() - SETTLED_NS
    for folder, files in folders.items():
        digest.update(f"folder {folder.absolute()} {len(files)}\n".encode())
        digest.update("\n".join([file for file, _ in files]).encode())
        stamps = np.array([stamp for _, stamp in files], dtype=np.int64).reshape(-1, 4)
        digest.update(stamps.tobytes())
        if len(stamps) and stamps[:, 1:3].max() >= settled:
            return None
    return digest.hexdigest()


def kept(folder: Path, key: str) -> "pd.DataFrame | None":
    """Return the table that was kept under a key; None if there is none that can be used.

    Args:
        folder: the outputs folder, the first one of several.
        key: see ``key_of``.
    """
    for path in caches_of(folder, CACHE):
        try:
            block = memoryview(path.read_bytes())
        except OSError:
            continue
        start = len(_MAGIC) + 4
        checksum = int.from_bytes(block[start - 4 : start], "little")
        if block[: len(_MAGIC)] != _MAGIC or zlib.crc32(block[start:]) != checksum:
            continue
        with contextlib.suppress(ValueError, KeyError, IndexError, TypeError, OverflowError):
            return _unpacked(block[start:], key)
    return None


def keep(folder: Path, key: str, table: "pd.DataFrame") -> None:
    """Keep a table under a key, if it is large and can be written somewhere."""
    if len(table) >= _WORTH_KEEPING and (block := _packed(table, key)) is not None:
        write_cache(folder, CACHE, block)


def _packed(table: "pd.DataFrame", key: str) -> bytes | None:
    """Return a table as one block; None if a category is no value that JSON keeps."""
    import pandas as pd

    columns, arrays = [], []
    for name in table.columns:
        column = table[name]
        if isinstance(column.dtype, pd.CategoricalDtype):
            kind, values = "category", column.cat.codes.to_numpy()
            categories = column.cat.categories.tolist()
        elif pd.api.types.is_string_dtype(column.dtype):
            kind, (values, unique) = "text", pd.factorize(column)
            categories = unique.tolist()
        else:
            kind, values, categories = "number", column.to_numpy(), None
        text = json.dumps(categories)
        if json.loads(text) != categories:
            return None
        columns.append([name, kind, values.dtype.str, categories])
        arrays.append(np.ascontiguousarray(values).tobytes())
    head = json.dumps({"key": key, "rows": len(table), "columns": columns}).encode()
    content = b"".join([len(head).to_bytes(8, "little"), head, *arrays])
    return b"".join([_MAGIC, zlib.crc32(content).to_bytes(4, "little"), content])


def _unpacked(content: memoryview, key: str) -> "pd.DataFrame | None":
    """Return the table of a block; None if its key is another.

    Raises:
        ValueError, KeyError, IndexError, TypeError, OverflowError: if the block is foreign.
    """
    import pandas as pd

    place = 8 + int.from_bytes(content[:8], "little")
    head = json.loads(bytes(content[8:place]))
    if head["key"] != key:
        return None
    columns: dict[str, Any] = {}
    for name, kind, dtype, categories in head["columns"]:
        if kind not in ("category", "text", "number") or np.dtype(dtype).kind not in "iufb":
            raise ValueError("a column is of another kind")
        values = np.frombuffer(content, np.dtype(dtype), count=head["rows"], offset=place)
        place += values.nbytes
        if kind == "category":
            index = pd.Index(categories)
            columns[name] = pd.Categorical.from_codes(values, categories=index, validate=True)
        elif kind == "text":
            columns[name] = pd.Series(categories, dtype=str).array.take(values)
        else:
            columns[name] = values.copy()
    return pd.DataFrame(columns, copy=False)
