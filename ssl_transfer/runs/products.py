"""The products of a run, i.e. the files beside its record, and their replacement by a new set.

A record names its products with their sha256. If a finished run is computed again, it works in the
folder ``anew`` inside its own, so that the old record and its products stay consistent until the
new record exists. From then on the new set is valid: its files are moved up one by one, and the
next process that finds an interrupted replacement completes it.

<run>/record.json, encoder.safetensors, …     the valid set
<run>/snapshots/epoch_60/encoder.safetensors  the encoder after an earlier epoch, part of the set
<run>/anew/checkpoint.pt, metrics.jsonl, …    a computation in progress
<run>/anew/record.json                        a complete computation, to be moved up
"""

import contextlib
import os
import re
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ssl_transfer.system.files import discard, file_sha256, set_aside

ANEW = "anew"
"""Folder inside a finished run's folder, in which it is computed again."""
RECORD = "record.json"
ENCODER = "encoder.safetensors"
_SNAPSHOTS = "snapshots"
_ENCODERS = ("*.safetensors", "encoder.yaml")
_PATTERNS = [*_ENCODERS, *(f"{_SNAPSHOTS}/*/{pattern}" for pattern in _ENCODERS)]
_PATTERNS += ["*.npz", "tsne.png", "tsne.csv"]
_EVENTS = "tensorboard/events.*"
_LOGGED = ("metrics.jsonl", _EVENTS)
"""What a run logs; a computation in progress logs apart from the valid set."""
_NOT_OF_AN_ENCODER = (".npz", ".png", ".csv")


class DamagedProduct(OSError):
    """A file of a finished run is not the one that its record names."""


def encoder_folder(folder: Path, epoch: int | None) -> Path:
    """Return the folder of the encoder that a pre-training leaves.

    Args:
        folder: the run's folder.
        epoch: the epoch after which it is taken (``None``: the final encoder).
    """
    return folder if epoch is None else folder / _SNAPSHOTS / f"epoch_{epoch}"


def recorded_snapshots(record: Mapping[str, Any]) -> set[int]:
    """Return the epochs whose encoders a record names."""
    pattern = re.compile(rf"{_SNAPSHOTS}/epoch_(\d+)/{re.escape(ENCODER)}")
    matches = map(pattern.fullmatch, dict(record.get("files") or {}))
    return {int(match[1]) for match in matches if match}


def keep_snapshots(folder: Path, epochs: Collection[int]) -> None:
    """Remove the snapshots of other epochs, which an earlier attempt may have left."""
    kept = {encoder_folder(folder, epoch) for epoch in epochs}
    for path in (folder / _SNAPSHOTS).glob("*"):
        if path not in kept:
            shutil.rmtree(path)


def seal(folder: Path) -> dict[str, str]:
    """Return the relative path and the sha256 of every product in a folder."""
    return {_name(folder, path): file_sha256(path) for path in _products(folder)}


def _name(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()


def _products(folder: Path) -> list[Path]:
    paths = {path for pattern in _PATTERNS for path in folder.glob(pattern) if path.is_file()}
    return sorted(paths)


def verify(
    folder: Path, record: Mapping[str, Any], epoch: int | None = None, *, only: str | None = None
) -> None:
    """Compare the files of one encoder of a finished run, or a single product, with its record.

    Args:
        folder: the run's folder.
        record: the run's record; if older code wrote it, it names no files and nothing is compared.
        epoch: see ``encoder_folder``.
        only: name of the single product (``None``: the files of the encoder).

    Raises:
        DamagedProduct: if a file of the encoder has other contents or cannot be read. A missing
            file is not reported here but by the code that loads it.
    """
    for name, stated in dict(record.get("files") or {}).items():
        path = folder / name
        inside = path.parent == encoder_folder(folder, epoch)
        of_encoder = inside and path.suffix not in _NOT_OF_AN_ENCODER
        if not (of_encoder if only is None else name == only):
            continue
        try:
            actual = file_sha256(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            actual = f"unreadable: {error.strerror}"
        if actual != stated:
            again = f"remove `{path.parent / ENCODER}`, and the same command computes it again"
            remedy = "compute the run again with force=true" if only else again
            raise DamagedProduct(
                f"`{path}` must be the file that the run's record names (sha256 {stated[:16]}…), "
                f"but is {actual[:16]}…: it was damaged or replaced. Restore it, or {remedy}."
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
        if _name(folder, path) not in record.get("files", {}):
            path.unlink()  # a file of the old set that the new one lacks
    logged = [path for pattern in _LOGGED for path in new.glob(pattern)]
    if any(new.glob(_EVENTS)):  # of several event files in a folder, TensorBoard shows all
        for path in folder.glob(_EVENTS):
            path.unlink()
    for path in (*_products(new), *logged, new / RECORD):  # the record last
        above = folder / path.relative_to(new)
        above.parent.mkdir(parents=True, exist_ok=True)
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
