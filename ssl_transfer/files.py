"""Files that are either there and whole, or not there."""

import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """Yield a name beside ``path`` that never survives a failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def replace_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let ``write`` fill a file that takes the name ``path`` only when it is whole on disk.

    Raises:
        OSError: in one sentence, if the disk is full or read-only; an older file at ``path`` is
            still there unharmed.
    """
    try:
        with _temporary(path) as temporary:
            with temporary.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
    except (OSError, RuntimeError) as error:
        # torch.save reports a full disk as a RuntimeError of its zip writer.
        raise OSError(
            f"`{path}` must be writable with space left on its disk, but saving failed "
            f"({error}); free some space and start again: what was saved before is unharmed."
        ) from error


def write_atomically(path: Path, content: bytes) -> None:
    """Write bytes by ``replace_atomically``."""
    replace_atomically(path, lambda file: file.write(content))


def let_group_write(paths: Mapping[str, Any]) -> None:
    """Let the group write whatever this process creates from now on, if ``paths`` asks for that.

    What others may do stays as the user's umask says. Called before anything is written, by every
    process that a launcher starts.

    Args:
        paths: the configuration's node; without ``group_writable`` nothing changes.
    """
    if paths.get("group_writable"):
        before = os.umask(0o077)  # it cannot be read without being set
        os.umask(before & ~0o070)
