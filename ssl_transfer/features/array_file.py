"""The file of an array in the feature store: its parts, its verification, and its summary.

A file is a ``.npy`` (``numpy.load`` reads it) followed by one line of JSON with the array's
identity, the sha256 of its data, and what its extraction cost. Its contents are verified once: a
hidden file beside it then holds its stamp, and nobody reads it again to verify it before the stamp
changes.
"""

import contextlib
import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from ssl_transfer.system import stamps

Rows = Float[np.ndarray, "samples *rest"]

EXTRACTION = "extraction"
"""Key of what an array's extraction cost; it is no part of the array's identity."""

CHUNK_BYTES = 2**26
"""Bytes per part when an array is read as a whole, so that it may be larger than memory."""


class Summary(NamedTuple):
    """Facts about an array of features.

    Args:
        samples: number of rows.
        not_finite: rows that contain NaN or infinity.
        constant: whether all rows are equal up to rounding.
        zero: whether all values are 0.
        largest: the largest absolute value; None where it is not known.
    """

    samples: int
    not_finite: int
    constant: bool
    zero: bool
    largest: float | None = None


CONSTANT = 1e-6
"""Largest difference of features that counts as rounding, relative to the largest feature."""


def summarise(rows: Rows) -> Summary:
    """Return the facts about an array of features, read in parts."""
    summary = Summing()
    for chunk in chunks(rows):
        summary.add(chunk)
    return summary.result()


class Summing:
    """A summary of the rows that were added so far."""

    def __init__(self) -> None:
        self.samples = self.not_finite = 0
        self.low: Float[np.ndarray, " dim"] | None = None
        self.high: Float[np.ndarray, " dim"] | None = None

    def add(self, rows: Rows) -> None:
        """Add rows."""
        self.samples += len(rows)
        self.not_finite += int((~np.isfinite(rows).all(axis=1)).sum())
        low, high = rows.min(axis=0), rows.max(axis=0)
        self.low = low if self.low is None else np.minimum(self.low, low)
        self.high = high if self.high is None else np.maximum(self.high, high)

    def result(self) -> Summary:
        """Return the summary."""
        if self.low is None or self.high is None or self.not_finite:
            return Summary(self.samples, self.not_finite, constant=False, zero=False)
        low, high = self.low.astype(np.float64), self.high.astype(np.float64)
        largest = max(float(np.abs(low).max()), float(np.abs(high).max()))
        constant = self.samples > 1 and float((high - low).max()) <= CONSTANT * largest
        return Summary(self.samples, self.not_finite, constant, largest == 0, largest)


def chunks(rows: Rows) -> Iterator[Rows]:
    """Yield consecutive parts of an array, of at most ``CHUNK_BYTES`` each."""
    size = max(1, CHUNK_BYTES // max(1, rows[:1].nbytes))
    for start in range(0, len(rows), size):
        yield np.asarray(rows[start : start + size])


def opened(path: Path) -> "tuple[np.memmap[Any, np.dtype[Any]], dict[str, Any]]":
    """Return the array in a file of the store, and its identity with the sha256 of its data.

    Files of current code also have what the extraction cost (``EXTRACTION``).

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is no file of the store.
    """
    rows: np.memmap[Any, np.dtype[Any]] = np.load(path, mmap_mode="r", allow_pickle=False)
    with path.open("rb") as file:
        file.seek(rows.offset + rows.nbytes)
        return rows, dict(json.loads(file.read()))


def stored_identity(path: Path) -> dict[str, Any]:
    """Return the identity in a file of the store (see ``opened``)."""
    return opened(path)[1]


def stamp_file(path: Path) -> Path:
    """Return the hidden file that says when the array at ``path`` was verified."""
    return path.with_name(f".{path.stem}.verified")


_known: dict[tuple[Path, stamps.Stamp], Summary] = {}
"""What this process has verified."""


def verified(path: Path, rows: Rows, digest: str, *, doubt: bool = False) -> Summary:
    """Return the summary of a file whose contents have this sha256.

    The contents are read only if the file's stamp has changed since they were last verified, or if
    ``doubt`` is true and this process has not read them.

    Raises:
        ValueError: if the contents have another hash.
    """
    key = path, stamps.stamp(str(path))
    if key in _known:
        return _known[key]
    summary = None if doubt else _remembered(path, key[1])
    if summary is None:
        actual, summary = digest_of(rows)
        if actual != digest:
            raise ValueError("its checksum does not fit")
        remember(path, summary)
    _known[key] = summary
    return summary


def remember(path: Path, summary: Summary) -> None:
    """Write down that the file at ``path`` was verified as it is now."""
    text = json.dumps({"stamp": stamps.stamp(str(path)), "summary": summary._asdict()})
    with contextlib.suppress(OSError):  # a read-only store is verified by every process
        stamp_file(path).write_text(text)


def _remembered(path: Path, stamp: stamps.Stamp) -> Summary | None:
    try:
        facts = json.loads(stamp_file(path).read_bytes())
        return Summary(**facts["summary"]) if tuple(facts["stamp"]) == stamp else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def digest_of(rows: Rows) -> tuple[str, Summary]:
    """Return the sha256 of an array's data and its summary, in one pass."""
    digest, summary = hashlib.sha256(), Summing()
    for chunk in chunks(rows):
        digest.update(np.ascontiguousarray(chunk).reshape(-1).view(np.uint8).data)
        summary.add(chunk)
    return digest.hexdigest(), summary.result()


def trailer_of(
    digest: str, identity: Mapping[str, Any], extraction: Mapping[str, Any] | None = None
) -> bytes:
    """Return the line of JSON that follows the data."""
    facts = {"sha256": digest, **identity}
    facts |= {} if extraction is None else {EXTRACTION: dict(extraction)}
    return b"\n" + json.dumps(facts).encode() + b"\n"


def head_of(shape: tuple[int, ...], dtype: "np.dtype[Any]") -> bytes:
    """Return the head of the ``.npy`` of an array."""
    head = io.BytesIO()
    facts = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": shape,
    }
    np.lib.format.write_array_header_1_0(head, facts)
    return head.getvalue()
