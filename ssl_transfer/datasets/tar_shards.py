"""Tar files as they are: where the bytes of each member lie, found in one pass over the headers.

Nothing is extracted. Only regular files count: links, devices and other members that would lead
elsewhere are never followed. The index of a file is kept in the user's cache folder until the file
changes.
"""

import dataclasses
import logging
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

from ssl_transfer.system import inputs

log = logging.getLogger(__name__)

_BLOCK = 512
_KIND = "members of a tar file, version 1"


@dataclasses.dataclass(frozen=True)
class Shard:
    """The regular files in a tar file.

    Args:
        path: the tar file.
        names: their names, in the order of the file.
        spans: first byte and number of bytes of each.
        passed: number of members that are not read, such as links.
    """

    path: Path
    names: list[str]
    spans: list[tuple[int, int]]
    passed: int

    def read(self, spans: list[tuple[int, int]]) -> Iterator[bytes]:
        """Yield the bytes of parts of the file."""
        with self.path.open("rb", buffering=0) as file:
            for start, size in spans:
                yield os.pread(file.fileno(), size, start)


def index(path: Path) -> Shard:
    """Return where the members of a tar file lie.

    Raises:
        ValueError: if the file is compressed, truncated or damaged, or no tar file.
    """
    inputs.note_file(path)
    place = os.path.abspath(path)  # noqa: PTH100
    stamp = inputs.stamps_of([place])
    remembered = inputs.Remembered(_KIND, inputs.originals([place]), stamp, digests=0)
    known = remembered.get()
    if known is None:
        try:
            shard = _indexed(path)
        except (OSError, tarfile.TarError) as error:
            raise ValueError(
                f"`{path}` must be a whole tar file without compression, but is not ({error}); "
                "unpack its compression, or copy it again."
            ) from error
        known = {"names": shard.names, "spans": shard.spans, "passed": shard.passed}
        remembered.keep({"digests": b"", **known})
        return shard
    return Shard(
        path, known["names"], [(start, size) for start, size in known["spans"]], known["passed"]
    )


def _indexed(path: Path) -> Shard:
    names, spans, passed = [], [], 0
    with tarfile.open(path, "r:") as tar:
        while (member := tar.next()) is not None:
            # Else a million of them would fill the memory; the stubs lack this attribute.
            tar.members.clear()  # type: ignore[attr-defined]
            if member.isreg() and not member.issparse():
                names.append(member.name)
                spans.append((member.offset_data, member.size))
            else:
                passed += not member.isdir()
        end = tar.offset
    with path.open("rb") as file:
        file.seek(end)
        mark = file.read(_BLOCK)
    # `tarfile` takes a damaged header for the end of the file.
    if mark != bytes(_BLOCK):
        kind = "ends too early" if len(mark) < _BLOCK else "is damaged"
        raise tarfile.TarError(f"it {kind} at byte {end}")
    return Shard(path, names, spans, passed)
