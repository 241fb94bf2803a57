"""Detection of changed files by their stamps and by hashes of their contents.

Size and modification time do not suffice: ``cp -p``, ``rsync -t`` and archive programs set the
modification time of the files they write. So a stamp also has the ``ctime``, which no program sets,
and the inode number, which differs between files.
"""

import hashlib
import os
from collections.abc import Sequence
from typing import NamedTuple

DIGEST_BYTES = 16
"""Length of the hash of a file's content."""
FOLDERS_ONLY = "/"
"""Special suffix: only folders count."""
JUNK = frozenset(
    {"__macosx", "@eadir", "#recycle", "@recycle", "@recently-snapshot", "$recycle.bin",
     "system volume information", "lost+found", "__pycache__"}
)  # fmt: skip
"""Folders that operating systems and network drives create, in lower case."""
_SIGNED = (1 << 63) - 1  # some file systems use all 64 bits for inode numbers


class Stamp(NamedTuple):
    """Facts about a file from the file system that change with its content.

    Args:
        size: in bytes.
        modified: time of the content's last change (``mtime``), in nanoseconds.
        changed: time of the file's last change of any kind (``ctime``), in nanoseconds.
        inode: the file's number.
    """

    size: int
    modified: int
    changed: int
    inode: int


def of(status: os.stat_result) -> Stamp:
    """Return the stamp of a file from the result of ``os.stat``."""
    return Stamp(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino & _SIGNED)


def stamp(path: str) -> Stamp:
    """Return the stamp of a file or folder.

    Raises:
        OSError: if there is no such file or folder.
    """
    return of(os.stat(path))  # noqa: PTH116 - six times as fast as Path.stat


def of_bytes(content: bytes) -> bytes:
    """Return the hash of a file's content."""
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()


def of_file(path: str) -> bytes:
    """Return the hash of a file's content; the file is read in pieces.

    Raises:
        OSError: if the file cannot be read.
    """
    with open(path, "rb") as file:  # noqa: PTH123 - paths here are texts
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=DIGEST_BYTES)).digest()


def of_folder(path: str, suffixes: Sequence[str]) -> bytes:
    """Return a hash of the names in a folder that matter to a data set.

    These are the names of files with one of the suffixes, and of folders that contain such a file
    at any depth. Hidden entries and those of operating systems are left out.

    Args:
        path: the folder.
        suffixes: in lower case, with the dot; if empty, every file counts. With ``FOLDERS_ONLY``
            among them, files directly in this folder do not count, only those in its subfolders.

    Raises:
        OSError: if the folder cannot be listed.
    """
    only = FOLDERS_ONLY in suffixes
    file_suffixes = tuple(suffix for suffix in suffixes if suffix != FOLDERS_ONLY)
    with os.scandir(path) as scan:
        entries = [entry for entry in scan if entry.is_dir() or not only]
    names = [
        entry.name + os.sep * entry.is_dir() for entry in entries if _counts(entry, file_suffixes)
    ]
    return of_names(names)


def of_names(names: Sequence[str]) -> bytes:
    """Return the hash of a folder's names that count (see ``of_folder``)."""
    return of_bytes("\0".join(sorted(names)).encode(errors="surrogateescape"))


def is_junk(name: str) -> bool:
    """Return whether a file or folder is hidden, or was created by an operating system."""
    return name.startswith(".") or name.lower() in JUNK


def _counts(
    entry: "os.DirEntry[str]", suffixes: tuple[str, ...], above: tuple[str, ...] = ()
) -> bool:
    """Return whether a file, or any file below a folder, is visible and has a suffix."""
    if is_junk(entry.name):
        return False
    if not entry.is_dir():
        return not suffixes or entry.name.lower().endswith(suffixes)
    place = os.path.realpath(entry.path)
    if place in above:  # a circular link
        return False
    try:
        with os.scandir(entry.path) as scan:
            return any(_counts(inside, suffixes, (*above, place)) for inside in scan)
    except OSError:
        return False  # a folder that cannot be listed counts as empty
