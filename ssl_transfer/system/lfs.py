"""Pointers of Git LFS: small text files in place of large ones that were not fetched."""

from pathlib import Path

_START = b"version https://git-lfs.github.com/spec"

ADVICE = "a pointer of Git LFS, not the file itself; run `git lfs pull` in its repository"
"""What such a file is, and how to get the file that it stands for."""


def is_pointer(start: bytes) -> bool:
    """Return whether the first bytes of a file are those of a pointer."""
    return start.startswith(_START)


def refuse_pointer(path: str | Path) -> None:
    """Raise an error if a file is a pointer; a file that cannot be read is left to its reader.

    Raises:
        ValueError: if it is one.
    """
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - faster than Path
            start = file.read(len(_START))
    except OSError:
        return
    if is_pointer(start):
        raise ValueError(f"`{path}` is {ADVICE}.")
