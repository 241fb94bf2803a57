"""The products of a run, i.e. the files beside its record, and their replacement by a new set.

A record names its products with their sha256. If a finished run is computed again, it works in the
folder ``anew`` inside its own, so that the old record and its products stay consistent until the
new record exists. From then on the new set is valid: its files are moved up one by one, and the
next process that finds an interrupted replacement completes it.

<run>/record.json, encoder.safetensors, …     the valid set
<run>/anew/checkpoint.pt, metrics.jsonl, …    a computation in progress
<run>/anew/record.json                        a complete computation, to be moved up
"""

import contextlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_transfer.system.files import discard, file_sha256, set_aside

ANEW = "anew"
"""Folder inside a finished run's folder, in which it is computed again."""
RECORD = "record.json"
ENCODER = "encoder.safetensors"
_PATTERNS = ("*.safetensors", "encoder.yaml", "*.npz", "tsne.png", "tsne.csv")
_READ_BY_NO_RUN = (".npz", ".png", ".csv")


class DamagedProduct(OSError):
    """A file of a finished run is not the one that its record names."""


def seal(folder: Path) -> dict[str, str]:
    """Return the name and the sha256 of every product in a folder."""
    return {path.name: file_sha256(path) for path in _products(folder)}


def _products(folder: Path) -> list[Path]:
    paths = {path for pattern in _PATTERNS for path in folder.glob(pattern) if path.is_file()}
    return sorted(paths)


def verify(folder: Path, record: Mapping[str, Any]) -> None:
    """Compare the encoder files of a finished run with its record.

    Args:
        folder: the run's folder.
        record: the run's record; if older code wrote it, it names no files and nothing is compared.

    Raises:
        DamagedProduct: if a file of the encoder has other contents or cannot be read. A missing
            file is not reported here but by the code that loads it.
    """
    for name, stated in dict(record.get("files") or {}).items():
        path = folder / name
        if path.suffix in _READ_BY_NO_RUN:
            continue
        try:
            actual = file_sha256(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            actual = f"unreadable: {error.strerror}"
        if actual != stated:
            raise DamagedProduct(
                f"`{path}` must be the file that the run's record names (sha256 {stated[:16]}…), "
                f"but is {actual[:16]}…: it was damaged or replaced. Restore it, or remove "
                f"`{folder / ENCODER}`, and the same command computes it again."
            )


def is_half_replaced(folder: Path) -> bool:
    """Return whether a new set of products is complete but not yet moved up."""
    # Called for thousands of finished runs: building a Path would cost more than the look-up.
    return os.path.exists(f"{folder}/{ANEW}/{RECORD}")  # noqa: PTH110


def replace(folder: Path, record: Mapping[str, Any]) -> None:
    """Move the complete set of ``<folder>/anew`` up; an interrupted call is completed by the next.

    Args:
        folder: the run's folder.
        record: the record in ``anew``, which names the files of the new set.
    """
    new = folder / ANEW
    for path in _products(folder):
        if path.name not in record.get("files", {}):
            path.unlink()  # a file of the old set that the new one lacks
    for path in (*_products(new), *new.glob("metrics.jsonl"), new / RECORD):  # the record last
        above = folder / path.name
        if above.is_dir() and not above.is_symlink():
            set_aside(above)
        path.replace(above)
    abandon(folder)


def abandon(folder: Path) -> None:
    """Remove the folder ``anew`` of an earlier computation."""
    new = folder / ANEW
    discard(new / RECORD)  # first: without a record the other files are not valid
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(new)
