"""Names and stamps of the files in folders, kept while the times of the folders do not change.

Adding, removing, renaming or replacing a file changes the times of its folder, so that a folder
with unchanged times still has the same files. Overwriting a file in place changes only the times of
the file: code that uses kept stamps compares them with the file when it reads the file (see
``ssl_transfer.datasets.unchanged``) and calls ``forget`` if they differ.

<cache>/ssl_transfer/folders/<32 hex>    the folders below one root: a line of JSON, then columns

Stamps are not kept where times do not prove anything: of links, whose target lies elsewhere; of
folders that changed in the last two seconds, because some clocks are coarse; and on file systems
that are not known to set a folder's times, such as those of object stores.
"""

import contextlib
import functools
import hashlib
import json
import logging
import os
import stat
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64

from ssl_transfer.system import inputs, staging, stamps
from ssl_transfer.system.files import own_folder, replace_atomically
from ssl_transfer.system.stamps import Stamp

log = logging.getLogger(__name__)

_VERSION = 1
_QUIET_NS = 2_000_000_000
"""How long a folder must be unchanged: FAT and old NFS count times in steps of up to 2 seconds."""
_SETS_TIMES = frozenset(
    {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "jfs", "tmpfs", "overlay",
     "nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph"}
)  # fmt: skip
"""File systems that set a folder's times whenever one of its entries changes, as POSIX requires."""
_NO_FILE = (-1, -1, -1, -1)


class Entries(NamedTuple):
    """What lies directly in a folder.

    Args:
        folders: names of folders, and of links to folders.
        files: names of everything else.
        stamps: stamp of each of ``files``, all -1 for what is no regular file or cannot be read.
        errors: name of each of ``files`` that cannot be read -> the reason.
    """

    folders: list[str]
    files: list[str]
    stamps: Int64[np.ndarray, "files 4"]
    errors: dict[str, str]


class _Kept(NamedTuple):
    """A folder as it is kept: JSON facts, names separated by zero bytes, and stamps as bytes."""

    facts: dict[str, Any]
    names: bytes | memoryview
    stamps: bytes | memoryview


class KnownFolders:
    """Lists folders below a root; unchanged folders are taken from the list of an earlier run.

    Args:
        root: the folder whose list is read and written (``None``: no list).
        names_only: whether only names matter: files in folders that are not known get the stamp
            (-1, -1, -1, inode) without being looked at.
    """

    def __init__(self, root: str | None, *, names_only: bool = False) -> None:
        self.path = None if root is None or _is_copy(root) else _place(root)
        self.names_only = names_only
        self.kept = {} if self.path is None or inputs.is_doubting() else _load(self.path)
        self.changed = False

    def entries(self, folder: str) -> Entries:
        """Return what lies directly in a folder.

        Raises:
            OSError: if the folder cannot be listed.
        """
        place = os.path.abspath(folder)  # noqa: PTH100 - ten times as fast
        status = os.stat(folder)  # noqa: PTH116
        before = stamps.of(status)
        kept = self.kept.get(place)
        if kept is not None and Stamp(*kept.facts["stamp"]) == before:
            return _restored(folder, kept)
        entries, links = _listed(folder, names_only=self.names_only)
        age = time.time_ns() - max(before.modified, before.changed)
        provable = age > _QUIET_NS and _filesystem(status.st_dev) in _SETS_TIMES
        if self.path is not None and provable and not self.names_only:
            facts = {"stamp": before, "folders": entries.folders, "links": links}
            names = "\0".join(entries.files).encode(errors="surrogateescape")
            self.kept[place] = _Kept(facts, names, entries.stamps.tobytes())
            self.changed = True
        elif kept is not None:
            del self.kept[place]
        return entries

    def save(self) -> None:
        """Write the list if a folder was listed anew; a failure is only logged."""
        if self.path is None or not self.changed:
            return
        folders = [
            {"path": path, **kept.facts, "names": len(kept.names), "stamps": len(kept.stamps)}
            for path, kept in self.kept.items()
        ]
        head = {"version": _VERSION, "byteorder": sys.byteorder, "folders": folders}
        parts = [part for kept in self.kept.values() for part in (kept.names, kept.stamps)]
        text = json.dumps(head).encode() + b"\n"
        try:
            replace_atomically(self.path, lambda file: file.writelines([text, *parts]))
        except OSError as error:
            log.info("the list of %d folders cannot be kept (%s)", len(folders), error)


def forget(root: str) -> None:
    """Remove the list of the folders below a root, so that the next run looks at every file."""
    with contextlib.suppress(OSError):
        _place(root).unlink()


def _place(root: str) -> Path:
    folder = own_folder("XDG_CACHE_HOME", ".cache") / "ssl_transfer" / "folders"
    path = os.path.abspath(root).encode(errors="surrogateescape")  # noqa: PTH100
    return folder / hashlib.sha256(path).hexdigest()[:32]


def _is_copy(root: str) -> bool:
    """Return whether a folder lies in a copy on the node's disk, whose stamps do not count."""
    path = os.path.abspath(root)  # noqa: PTH100
    return staging.original(path) != path


def _load(path: Path) -> dict[str, _Kept]:
    """Return the folders of a list by their absolute paths; none if it is missing or damaged."""
    try:
        content = path.read_bytes()
        start = content.index(b"\n") + 1
        head = json.loads(content[:start])
        if (head["version"], head["byteorder"]) != (_VERSION, sys.byteorder):
            return {}
        known, columns = {}, memoryview(content)  # slices of it share its memory
        for facts in head["folders"]:
            middle = start + facts.pop("names")
            end = middle + facts.pop("stamps")
            known[facts.pop("path")] = _Kept(facts, columns[start:middle], columns[middle:end])
            start = end
        if start != len(content):
            raise ValueError("a part is missing")
        return known
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.info("`%s` is damaged (%s); the folders are listed again", path, error)
        return {}


def _restored(folder: str, kept: _Kept) -> Entries:
    """Return the entries of an unchanged folder; links are looked at again."""
    text = bytes(kept.names).decode(errors="surrogateescape")
    names = text.split("\0") if kept.stamps else []
    rows = np.frombuffer(kept.stamps, np.int64).reshape(-1, 4)
    errors: dict[str, str] = {}
    if kept.facts["links"]:
        rows = rows.copy()
        for row in kept.facts["links"]:
            rows[row] = _stamp(f"{folder}{os.sep}{names[row]}", names[row], errors)
    return Entries(list(kept.facts["folders"]), names, rows, errors)


def _listed(folder: str, *, names_only: bool) -> tuple[Entries, list[int]]:
    """Return the entries of a folder, and the rows of files whose stamps must not be kept."""
    folders: list[str] = []
    names: list[str] = []
    rows: list[tuple[int, ...]] = []
    again: list[int] = []
    errors: dict[str, str] = {}
    with os.scandir(folder) as scan:
        for entry in scan:
            if entry.is_dir():
                folders.append(entry.name)
                continue
            names.append(entry.name)
            plain = entry.is_file(follow_symlinks=False)
            if plain and names_only:
                rows.append((-1, -1, -1, entry.inode()))
                continue
            rows.append(_stamp(entry.path, entry.name, errors))
            if not plain or entry.name in errors:
                again.append(len(names) - 1)
    table = np.array(rows, dtype=np.int64).reshape(-1, 4)
    return Entries(folders, names, table, errors), again


def _stamp(path: str, name: str, errors: dict[str, str]) -> tuple[int, ...]:
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError as error:
        errors[name] = error.strerror or str(error)
        return _NO_FILE
    return stamps.of(status) if stat.S_ISREG(status.st_mode) else _NO_FILE


@functools.lru_cache(maxsize=256)
def _filesystem(device: int) -> str:
    """Return the kind of file system that a device number belongs to; empty if it is unknown."""
    number = f"{os.major(device)}:{os.minor(device)}"
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
            before, _, after = line.partition(" - ")
            if before.split()[2] == number:
                return after.split()[0]
    return ""
