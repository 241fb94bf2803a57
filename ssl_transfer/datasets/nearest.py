"""Messages for paths that do not exist: the nearest existing folder and similar names."""

import difflib
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from ssl_transfer.datasets.reader import some

_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")


def existing_folder(key: str, path: str | Path, expected: str) -> Path:
    """Return the folder that a key of the configuration names.

    Args:
        key: the key, for the message.
        path: the path as the user wrote it; ``~`` is the home folder.
        expected: description of the folder, e.g. ``a folder of images``.

    Raises:
        ValueError: if there is no such folder; the message names the nearest existing folder.
    """
    if not str(path):
        raise ValueError(f"`{key}` must be {expected}, but is empty; give the path.")
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    reason = "is a file" if folder.exists() else f"does not exist{nearest(folder)}"
    raise ValueError(f"`{key}` must be {expected}, but `{folder}` {reason}; correct the path.")


def nearest(path: Path) -> str:
    """Return the part of a message that names the nearest folder to a path that does not exist."""
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
    """Return the part of a message that lists the contents of a folder without the needed files."""
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    packed = [name for name in names if name.lower().endswith(_ARCHIVES)]
    if packed:
        return f" (`{packed[0]}` must be unpacked first)"
    return f" (it holds {some(names, 3)})" if names else " (it is empty)"


def alike(name: str, names: Sequence[str]) -> str | None:
    """Return the most similar name, or None if no name is similar."""
    plain = {_plain(other): other for other in names}
    close = difflib.get_close_matches(_plain(name), list(plain), n=1, cutoff=0.7)
    return plain[close[0]] if close else None


def _plain(name: str) -> str:
    """Return a name without differences in case or in composed and decomposed letters."""
    return unicodedata.normalize("NFKC", name).casefold()
