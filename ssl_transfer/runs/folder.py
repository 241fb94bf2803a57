"""A run's folder: prepared for the work, completed with the record, and cleaned."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ssl_transfer.runs import products
from ssl_transfer.runs.record import read_record
from ssl_transfer.runs.run import Run
from ssl_transfer.system.files import discard, set_aside, write_json


def begin(run: Run) -> Path | None:
    """Prepare a run's folder for its work; only the process with the claim may call this.

    Returns:
        The folder to work in: the run's own, or one inside it if an old record must stay until the
        new one is written. None if only an interrupted replacement had to be completed.
    """
    discard(run.folder / "failure.json")
    if products.is_half_replaced(run.folder):
        again = read_record(run.folder / products.ANEW / products.RECORD, run.id)
        if again is not None:
            products.replace(run.folder, again)
            clear(run)
            return None
        products.abandon(run.folder)
    if run.readable_record() is not None:
        anew = run.folder / products.ANEW
        if anew.exists() and not anew.is_dir():
            set_aside(anew)
        anew.mkdir(exist_ok=True)
        return anew
    if (record := run.folder / products.RECORD).exists():
        set_aside(record)  # perhaps written by a newer version
    return run.folder


def finish(run: Run, record: Mapping[str, Any], folder: Path) -> None:
    """Write the record atomically, then remove the files that only a resumption needs.

    Args:
        run: the finished run.
        record: the record without the names of the products, which are added.
        folder: the folder that ``begin`` returned.
    """
    sealed = {**record, "files": products.seal(folder)}
    write_json(folder / products.RECORD, sealed)
    if folder != run.folder:
        products.replace(run.folder, sealed)
    else:
        products.abandon(folder)
    clear(run)


def clear(run: Run) -> None:
    """Remove the files that only a resumption needs, and those of earlier failures."""
    for leftover in _leftovers(run.folder):
        discard(leftover)


def _leftovers(folder: Path) -> Iterator[Path]:
    for name in ("failure.json", "progress.json", "checkpoint.pt"):
        yield folder / name
    # Not `.claim.*.tmp`, which belong to processes that wait for this run.
    yield from folder.glob(".checkpoint.pt.*.tmp")
    yield from folder.glob(".progress.json.*.tmp")
