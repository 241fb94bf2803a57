"""Pointers of Git LFS: small text files in place of large ones that were not fetched."""

import io
from pathlib import Path

_START = b"version https://git-lfs.github.com/spec"

ADVICE = "a pointer of Git LFS, not the file itself; run `git lfs pull` in its repository"
"""What such a file is, and how to get the file that it stands for."""


def is_pointer(file: str | Path | io.BytesIO) -> bool:
    """Return whether a file, or its content, is a pointer; one that cannot be read is none."""
    if isinstance(file, io.BytesIO):
        return file.getvalue().startswith(_START)
    try:
        with open(file, "rb", buffering=0) as opened:  # noqa: PTH123 - faster than Path
            return opened.read(len(_START)) == _START
    except OSError:
        return False


def refuse_pointer(path: str | Path) -> None:
    """Raise an error if a file is a pointer; a file that cannot be read is left to its reader.

    Raises:
        ValueError: if it is one.
    """
    if is_pointer(path):
        raise ValueError(f"`{path}` is {ADVICE}.")
