"""The files that a run leaves beside its record, and how a new set replaces an old one.

A record names its products with their sha256. A finished run that is computed again works in the
folder ``anew`` inside its own, so that the old record and its products stay and belong together
until the new record stands there. From that moment on the new set counts: its files are moved up
one by one, and whoever finds a replacement that was interrupted completes it.

<run>/record.json, encoder.safetensors, …     what counts
<run>/anew/checkpoint.pt, metrics.jsonl, …    a computation that goes on
<run>/anew/record.json                        a computation that is complete, about to be moved up
"""

import contextlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_transfer.system.files import discard, file_sha256, set_aside

ANEW = "anew"
"""Folder inside a finished run's own, in which it is computed again."""
RECORD = "record.json"
ENCODER = "encoder.safetensors"
_PATTERNS = ("*.safetensors", "encoder.yaml", "*.npz")


class DamagedProduct(OSError):
    """A file of a finished run is not the one that its record names."""


def seal(folder: Path) -> dict[str, str]:
    """Return the name and the sha256 of every product in a folder."""
    return {path.name: file_sha256(path) for path in _products(folder)}


def _products(folder: Path) -> list[Path]:
    paths = {path for pattern in _PATTERNS for path in folder.glob(pattern) if path.is_file()}
    return sorted(paths)


def verify(folder: Path, record: Mapping[str, Any]) -> None:
    """Compare the encoder that a finished run left with its record.

    Args:
        folder: of the run.
        record: of the run; one that older code wrote names no files, and nothing is compared.

    Raises:
        DamagedProduct: if one of the encoder's files has other contents, or cannot be read. A
            missing one is left to whoever needs it.
    """
    for name, stated in dict(record.get("files") or {}).items():
        path = folder / name
        if path.suffix == ".npz":
            continue  # no run reads predictions
        try:
            found = file_sha256(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            found = f"unreadable: {error.strerror}"
        if found != stated:
            raise DamagedProduct(
                f"`{path}` must be the file that the run's record names (sha256 {stated[:16]}…), "
                f"but is {found[:16]}…: it was damaged or replaced. Restore it, or remove "
                f"`{folder / ENCODER}`, and the same command computes it again."
            )


def is_half_replaced(folder: Path) -> bool:
    """Return whether a new set of products is complete but not yet moved up."""
    # Asked for each of thousands of finished runs: building paths costs more than looking.
    return os.path.exists(f"{folder}/{ANEW}/{RECORD}")  # noqa: PTH110


def replace(folder: Path, record: Mapping[str, Any]) -> None:
    """Move the complete set of ``<folder>/anew`` up; an interrupted call is completed by the next.

    Args:
        folder: of the run.
        record: the one in ``anew``, which names the new set's files.
    """
    new = folder / ANEW
    for path in _products(folder):
        if path.name not in record.get("files", {}):
            path.unlink()  # the old set had it, the new one has not
    for path in (*_products(new), *new.glob("metrics.jsonl"), new / RECORD):  # the record last
        above = folder / path.name
        if above.is_dir() and not above.is_symlink():
            set_aside(above)
        path.replace(above)
    abandon(folder)


def abandon(folder: Path) -> None:
    """Remove what a computation in ``anew`` left."""
    new = folder / ANEW
    discard(new / RECORD)  # first: without it the rest counts for nothing
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(new)
