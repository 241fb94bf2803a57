"""An array of the feature store while it is computed: resumable, and filled by several processes.

Its rows lie in a folder beside a map of the rows that are safely on disk, so that an extraction
that was killed continues. A claim on the folder makes other runs that need the same array wait.
"""

import contextlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64

from ssl_transfer.features.array_file import Rows, digest_of, head_of, remember, trailer_of
from ssl_transfer.system import claims, distributed
from ssl_transfer.system.files import write_atomically
from ssl_transfer.system.memory import available_bytes

log = logging.getLogger(__name__)

Indices = Int64[np.ndarray, " picked"]
Compute = Callable[[Indices], Iterator[tuple[Indices, Rows]]]
"""From the samples whose rows are wanted to batches of (sample, row) in any order."""

SYNC_SECONDS = 10.0
"""Seconds of work that a killed extraction may lose."""

MEMORY_SHARE = 0.25
"""Share of the free memory that an array may take which cannot be stored: the processes send each
other their rows, so that several copies exist for a while."""


class NotStored(OSError):
    """An array cannot be written to the store; the message says why."""


class TooLarge(OSError):
    """An array fits neither on the disk nor into memory."""


class PartialArray:
    """The folder of an array that is being computed: its rows, and a map of those on disk.

    Args:
        folder: the folder.
        identity: identity of the array.
        samples: number of rows.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], samples: int) -> None:
        self.folder, self.identity, self.samples = folder, dict(identity), samples
        self.rows, self.done = folder / "rows.npy", folder / "done"

    def fill(self, compute: Compute) -> int:
        """Compute the rows that are missing; each process computes and writes a share of them.

        Returns:
            The number of rows that were missing.

        Raises:
            NotStored: on every process, if one of them could not write.
        """
        problem: str | None = None
        missing: Indices = np.arange(self.samples)
        if distributed.is_main():
            try:
                missing = self._missing()
            except OSError as error:
                problem = _sentence(self.folder, error)
        self._agree(problem)
        missing = distributed.broadcast_object(missing)
        if distributed.is_main() and 0 < len(missing) < self.samples:
            log.info("continuing with %d of %d images", self.samples - len(missing), self.samples)
        try:
            with _Writer(self) as writer:
                for indices, rows in compute(missing[distributed.share(len(missing))]):
                    writer.add(indices, rows)
        except NotStored as error:
            problem = str(error)
        self._agree(problem)
        return len(missing)

    def _agree(self, problem: str | None) -> None:
        """Raise ``NotStored`` on every process if one of them has a problem."""
        for sentence in distributed.gather_objects(problem):
            if sentence is not None:
                raise NotStored(sentence)

    def _missing(self) -> Indices:
        """Return the samples whose rows are not on disk yet; make the folder if it is new."""
        stated = self.folder / "identity.json"
        whole = {**self.identity, "samples": self.samples}
        text = json.dumps(whole, sort_keys=True).encode()
        try:
            known = stated.read_bytes() == text and self.done.stat().st_size == self.samples
        except OSError:
            known = False
        if not known:
            self.rows.unlink(missing_ok=True)
            self.done.write_bytes(bytes(self.samples))
            write_atomically(stated, text)
        return np.flatnonzero(np.fromfile(self.done, dtype=np.uint8) == 0)

    def complete(self, path: Path, extraction: Mapping[str, Any] | None = None) -> None:
        """Turn the rows into the file of the array.

        Args:
            path: the file.
            extraction: what the extraction cost.

        Raises:
            NotStored: if a row is missing, or the disk is full.
        """
        try:
            if len(missing := self._missing()):
                raise NotStored(
                    f"all processes must write to one `{self.folder}`, but {len(missing)} rows of "
                    "other processes are missing in it"
                )
            array = np.load(self.rows, mmap_mode="r", allow_pickle=False)
            digest, summary = digest_of(array)
            with self.rows.open("r+b") as file:
                file.seek(array.offset + array.nbytes)
                file.truncate()
                file.write(trailer_of(digest, self.identity, extraction))
                file.flush()
                os.fsync(file.fileno())
            self.rows.replace(path)
        except NotStored:
            raise
        except OSError as error:
            raise NotStored(_sentence(path, error)) from error
        remember(path, summary)
        shutil.rmtree(self.folder, ignore_errors=True)


class _Writer:
    """Writes a process's rows at their places; they count once they are on disk."""

    def __init__(self, partial: PartialArray) -> None:
        self.partial = partial
        self.file: int | None = None
        self.offset = 0
        self.pending: list[Indices] = []
        self.synced = time.monotonic()

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.file is not None:
            # After an interruption, too: what was computed is kept.
            with contextlib.suppress(NotStored) if kind else contextlib.nullcontext():
                self._sync()
            os.close(self.file)
            self.file = None

    def add(self, indices: Indices, rows: Rows) -> None:
        """Write the rows of these samples.

        Raises:
            NotStored: if the disk is full or not writable.
        """
        rows = np.ascontiguousarray(rows)
        try:
            if self.file is None:
                self.file = self._open(rows)
            gaps = np.flatnonzero(np.diff(indices) != 1) + 1
            for first, run in zip(
                np.split(indices, gaps), np.split(rows, gaps), strict=True
            ):  # consecutive rows at once
                place = self.offset + int(first[0]) * rows[0].nbytes
                _write_at(self.file, run.reshape(-1).view(np.uint8).data, place)
        except (NotStored, TooLarge):
            raise
        except OSError as error:
            raise NotStored(_sentence(self.partial.rows, error)) from error
        self.pending.append(indices)
        if time.monotonic() - self.synced > SYNC_SECONDS:
            self._sync()

    def _open(self, rows: Rows) -> int:
        """Open the file, whose head every process writes alike; refuse a disk that is too full."""
        shape = (self.partial.samples, *rows.shape[1:])
        head = head_of(shape, rows.dtype)
        file = os.open(self.partial.rows, os.O_CREAT | os.O_RDWR, 0o666)
        size = len(head) + shape[0] * rows[0].nbytes
        there = os.fstat(file).st_blocks * 512
        free = shutil.disk_usage(self.partial.folder).free + there
        if size > free:
            os.close(file)
            sentence = (
                f"features need {size / 2**30:.3g} GiB in `{self.partial.folder.parent}`, but its "
                f"disk has {free / 2**30:.3g} GiB left; free some space, or set `paths.features`"
            )
            memory = available_bytes(torch.device("cpu"))
            if memory is not None and size > MEMORY_SHARE * memory:
                raise TooLarge(sentence)
            raise NotStored(sentence)
        _write_at(file, memoryview(head), 0)
        self.offset = len(head)
        return file

    def _sync(self) -> None:
        """Wait until the rows are on disk, then count them as done."""
        assert self.file is not None
        try:
            os.fsync(self.file)
            with self.partial.done.open("r+b") as done:
                for indices in self.pending:
                    for run in np.split(indices, np.flatnonzero(np.diff(indices) != 1) + 1):
                        done.seek(int(run[0]))
                        done.write(b"\1" * len(run))
        except OSError as error:
            raise NotStored(_sentence(self.partial.rows, error)) from error
        self.pending, self.synced = [], time.monotonic()


def collect(compute: Compute, samples: int) -> Rows:
    """Return the whole array in memory, on every process; each process computes a share."""
    batches = list(compute(np.arange(samples)[distributed.share(samples)]))
    shares = [batch for share in distributed.gather_objects(batches) for batch in share]
    rows = np.empty((samples, *shares[0][1].shape[1:]), dtype=shares[0][1].dtype)
    for indices, values in shares:
        rows[indices] = values
    return rows


@contextlib.contextmanager
def claimed_by_all(folder: Path, finished: Callable[[], bool]) -> Iterator[bool]:
    """Hold the claim on a partial array for all processes of this run.

    Yields:
        False if another run completed the array.
    """

    def say(owner: dict[str, Any]) -> None:
        log.info("waiting for %s, which extracts these features", claims.describe(owner))

    with contextlib.ExitStack() as stack:
        ours: bool | str = True
        if distributed.is_main():
            try:
                ours = stack.enter_context(
                    claims.claimed(
                        folder,
                        finished=finished,
                        waiting=say,
                        alone=True,
                        # The other processes hear of every wait: none of them may time out.
                        again=lambda: distributed.broadcast_object(None),
                    )
                )
            except OSError as error:
                ours = _sentence(folder, error)
            distributed.broadcast_object(ours)
        else:
            answer: bool | str | None = None
            while answer is None:
                answer = distributed.broadcast_object(answer)
            ours = answer
        if isinstance(ours, str):
            raise NotStored(ours)
        yield ours
    if not ours and distributed.is_main():
        with contextlib.suppress(OSError):  # waiting may have made the folder anew
            folder.rmdir()


def _write_at(file: int, content: memoryview, place: int) -> None:
    """Write bytes at a place of a file, in as many calls as it takes."""
    while content:
        written = os.pwrite(file, content, place)
        content, place = content[written:], place + written


def _sentence(path: Path, error: OSError) -> str:
    return (
        f"`{path}` must be writable with space left on its disk, but is not ({error}); free some "
        "space and start again: what was computed is kept"
    )
