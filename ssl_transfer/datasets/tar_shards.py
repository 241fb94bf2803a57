"""Tar files as they are: where the bytes of each member lie, found in one pass over the headers.

Nothing is extracted. Only regular files count: links, devices and other members that would lead
elsewhere are never followed. The index of a file is kept in the user's cache folder until the file
changes.
"""

import tarfile
from pathlib import Path

from ssl_transfer.datasets.packed_files import Packed, indexed

_BLOCK = 512
_KIND = "members of a tar file, version 1"


def index(path: Path) -> Packed:
    """Return where the members of a tar file lie.

    Raises:
        ValueError: if the file is compressed, truncated or damaged, or no tar file.
    """
    return indexed(path, _KIND, _indexed)


def _indexed(path: Path) -> Packed:
    try:
        return _members(path)
    except (OSError, tarfile.TarError) as error:
        raise ValueError(
            f"`{path}` must be a whole tar file without compression, but is not ({error}); "
            "unpack its compression, or copy it again."
        ) from error


def _members(path: Path) -> Packed:
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
    return Packed(path, names, spans, passed)
