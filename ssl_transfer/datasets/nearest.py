"""Paths that a user wrote and that lead nowhere: what lies nearest."""

import difflib
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from ssl_transfer.datasets.reader import some

_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")


def existing_folder(key: str, path: str | Path, wanted: str) -> Path:
    """Return a folder that a key names.

    Args:
        key: of the configuration, for the message.
        path: what the user wrote; ``~`` is the home folder.
        wanted: what there must be, e.g. ``a folder of images``.

    Raises:
        ValueError: in one sentence with what lies nearest, if there is no such folder.
    """
    if not str(path):
        raise ValueError(f"`{key}` must be {wanted}, but is empty; give the path.")
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    reason = "is a file" if folder.exists() else f"does not exist{nearest(folder)}"
    raise ValueError(f"`{key}` must be {wanted}, but `{folder}` {reason}; correct the path.")


def nearest(path: Path) -> str:
    """Return the part of a sentence that says what lies nearest to a path that does not exist."""
    folder = path.parent
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    try:
        names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        return f" (the nearest folder `{folder}` cannot be opened: {error.strerror})"
    missing = path.relative_to(folder).parts[0]
    near = alike(missing, names)
    if near:
        return f" (the nearest folder `{folder}` has `{near}`)"
    return f" (the nearest folder `{folder}` {f'has {some(names)}' if names else 'is empty'})"


def contents(folder: Path) -> str:
    """Return the part of a sentence that says what lies in a folder that lacks what is wanted."""
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    packed = [name for name in names if name.lower().endswith(_ARCHIVES)]
    if packed:
        return f" (`{packed[0]}` must be unpacked first)"
    return f" (it holds {some(names, 3)})" if names else " (it is empty)"


def alike(name: str, names: Sequence[str]) -> str | None:
    """Return the name that was most probably meant, if one is near."""
    plain = {_plain(other): other for other in names}
    close = difflib.get_close_matches(_plain(name), list(plain), n=1, cutoff=0.7)
    return plain[close[0]] if close else None


def _plain(name: str) -> str:
    """Return a name without what is easily mistyped: case, and composed or decomposed letters."""
    return unicodedata.normalize("NFKC", name).casefold()
