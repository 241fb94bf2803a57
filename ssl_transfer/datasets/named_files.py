"""Find the files that a list or a table names, relative to a folder."""

import os
import stat
import unicodedata
from collections.abc import Sequence
from pathlib import Path

PROBLEMS_SHOWN = 5


def find(folder: str, name: str) -> tuple[str, str | None]:
    """Return the path of a named file, and what is wrong with the name (``None``: nothing).

    A name in composed Unicode letters also matches a file whose name has decomposed letters, and
    the reverse, because macOS decomposes letters in file names.

    Args:
        folder: the folder that relative names start from.
        name: the name as written; an absolute one is a path of its own.
    """
    path = name if name.startswith(os.sep) else f"{folder}{os.sep}{name}"
    if _is_file(path):
        return path, None
    for form in ("NFC", "NFD"):
        other = os.path.join(folder, unicodedata.normalize(form, name))  # noqa: PTH118
        if _is_file(other):
            return other, None
    if "\\" in name and _is_file(os.path.join(folder, name.replace("\\", "/"))):  # noqa: PTH118
        return path, f"`{name}` must have / between folders, not \\"
    if Path(path).is_dir():
        return path, f"`{path}` is a folder"
    return path, f"there is no file `{path}`"


def _is_file(path: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode)  # noqa: PTH116 - faster than Path
    except (OSError, ValueError):
        return False


def outside(names: Sequence[str]) -> list[int]:
    """Return the positions of names that lead out of the folder that they are relative to."""
    return [
        position
        for position, name in enumerate(names)
        if name.startswith(os.sep) or (".." in name and os.path.normpath(name).startswith(".."))
    ]


def refuse(subject: str, problems: Sequence[str]) -> None:
    """Raise an error that lists the first problems, if there are any.

    Args:
        subject: what has them, in the plural.
        problems: messages, each with its place.

    Raises:
        ValueError: if there is a problem.
    """
    problems = list(dict.fromkeys(problems))  # several keys may name one table
    if not problems:
        return
    more = len(problems) - PROBLEMS_SHOWN
    shown = "; ".join(problems[:PROBLEMS_SHOWN]) + (f"; and {more} more" if more > 0 else "")
    raise ValueError(
        f"{subject} must name each image once, with its class, but they do not: {shown}."
    )
