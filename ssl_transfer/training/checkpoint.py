"""Save a training atomically, and restore it exactly.

Rules of resuming:

1. Everything that changes during training is in one dictionary: the learner's state (including
   target networks and queues, which are buffers), the optimizer's state, and the step.
2. Nothing else is needed: the order of samples, augmentations and dropout are functions of
   (seed, step), the learning rate is a function of the step.
3. A checkpoint gets its name only when it is complete on disk, so that a kill at any moment leaves
   the previous checkpoint intact.
4. A checkpoint has a header: the run, the training within the run, its length, and the data and
   weights that it started from. Another training of the same run (the next grid point, the refit)
   ignores it silently; a checkpoint of another run, length or inputs is refused with a warning.
5. A checkpoint ends with a checksum of its content. A damaged, truncated or foreign file is never
   loaded, not even in part: the training starts anew and logs a warning.

The file consists of the output of ``torch.save``, the header in JSON, its length (8 bytes), the
sha256 of all this (32 bytes) and ``MAGIC``.
"""

import dataclasses
import hashlib
import json
import logging
import os
import pickle
import struct
from pathlib import Path
from typing import IO, Any

import torch

from ssl_transfer.system import distributed
from ssl_transfer.system.files import replace_atomically

log = logging.getLogger(__name__)

SCHEMA = 1
MAGIC = b"SSLTCKPT"
_LENGTH = struct.Struct(">Q")
_END = _LENGTH.size + hashlib.sha256().digest_size + len(MAGIC)
_BLOCK = 1 << 20
_LONGEST_HEADER = 1 << 16


@dataclasses.dataclass(frozen=True)
class Header:
    """Identification of the training that a checkpoint belongs to.

    Args:
        run: id of the run.
        training: name of the training within the run.
        steps: number of steps of the whole training.
        inputs: hash of the data and weights that the training started from (``None``: unknown, and
            not compared).
    """

    run: str
    training: str
    steps: int
    inputs: str | None = None


class Unusable(ValueError):
    """A training cannot continue from a checkpoint; the message gives the reason."""


class _Hashing:
    """A writable file that computes the sha256 of the written bytes."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.sha256 = file, hashlib.sha256()

    def write(self, content: Any) -> int:
        self.sha256.update(content)
        return self.file.write(content)

    def flush(self) -> None:
        self.file.flush()


def save(path: Path, state: dict[str, Any], header: Header) -> None:
    """Write the state from the first process; the other processes continue immediately.

    Raises:
        OSError: if the disk is full; the previous checkpoint stays intact.
    """

    def write(file: IO[bytes]) -> None:
        hashing = _Hashing(file)
        torch.save(state, hashing)  # type: ignore[arg-type]
        text = json.dumps({"schema": SCHEMA, **dataclasses.asdict(header)}).encode()
        hashing.write(text + _LENGTH.pack(len(text)))
        file.write(hashing.sha256.digest() + MAGIC)

    if distributed.is_main():
        replace_atomically(path, write)


def load(path: Path, header: Header) -> dict[str, Any] | None:
    """Return the state that was saved under this header, or None.

    The first process checks the file; then all processes read it or start anew.
    """
    usable = distributed.broadcast_object(_is_usable(path, header) if distributed.is_main() else 0)
    if not usable:
        return None
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        if distributed.world_size() > 1:  # the other processes continue from the checkpoint
            raise
        log.warning("`%s` cannot be read (%s); the training starts anew.", path, error)
        return None


def _is_usable(path: Path, header: Header) -> bool:
    """Return whether the file belongs to this training; log a warning if it is unusable."""
    try:
        if not os.path.lexists(path):
            return False
        saved = read_header(path)
        if saved.run == header.run and saved.training != header.training:
            return False  # of another grid point or of the refit: no warning needed
        for name, words in (
            ("run", "belongs to another run"),
            ("training", "belongs to another training"),
            ("steps", "belongs to a training of another length"),
            ("inputs", "started from other data or other weights"),
        ):
            theirs, ours = getattr(saved, name), getattr(header, name)
            if None not in (theirs, ours) and theirs != ours:
                raise Unusable(f"{words}: {theirs} instead of {ours}")
    except (Unusable, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        log.warning("`%s` cannot be resumed (%s); the training starts anew.", path, reason)
        return False
    return True


def read_header(path: Path) -> Header:
    """Return the header of a checkpoint after verifying the checksum of the file.

    Raises:
        Unusable: if it is damaged, truncated, foreign, or newer than this code.
        OSError: if it cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - _END))
        end = file.read()
        if size < _END or not end.endswith(MAGIC):
            raise Unusable("it is cut, empty, or was written by other code")
        (length,) = _LENGTH.unpack(end[: _LENGTH.size])
        if length > min(_LONGEST_HEADER, size - _END):
            raise Unusable("it is damaged")
        file.seek(0)
        sha256, left = hashlib.sha256(), size - _END + _LENGTH.size
        while block := file.read(min(_BLOCK, left)):
            sha256.update(block)
            left -= len(block)
        if sha256.digest() != end[_LENGTH.size : -len(MAGIC)]:
            raise Unusable("it is damaged: its checksum is another")
        file.seek(size - _END - length)
        document = json.loads(file.read(length))
    if document.pop("schema") > SCHEMA:
        raise Unusable("it was written by a newer version")
    return Header(**document)
