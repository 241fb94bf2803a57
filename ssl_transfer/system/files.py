"""Atomic writing of files: a file is complete or does not exist. Reading of checked JSON files."""

import atexit
import errno
import functools
import hashlib
import json
import logging
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import orjson

log = logging.getLogger(__name__)

CHECKSUM = "checksum"
"""Key of a JSON file: sha256 of the rest of its object (see ``checksum``)."""
SEAL = "seal"
"""Last key of a JSON file: sha256 of its text without this key (see ``is_sealed``)."""
_SEAL_LENGTH = len(f',\n "{SEAL}": ""\n}}') + 64


class Unreadable(OSError):
    """A file of this project is damaged, foreign or too new; the message says which."""


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; the file is removed afterwards."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def replace_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let ``write`` fill a temporary file, which replaces ``path`` once it is complete on disk.

    Raises:
        OSError: in one sentence, if the disk is full or read-only; an older file at ``path`` stays
            unchanged.
    """
    try:
        with _temporary(path) as temporary:
            with temporary.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            if path.is_dir() and not path.is_symlink():
                set_aside(path)
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


def set_aside(path: Path) -> None:
    """Rename the file or folder at ``path``, so that nothing is lost, and log a warning."""
    aside = path.with_name(f"{path.name}.unreadable-{uuid.uuid4().hex[:4]}")
    path.rename(aside)
    log.warning("`%s` was moved out of the way, to `%s`", path, aside.name)


def discard(path: Path) -> None:
    """Remove a file of this project if it exists; a directory at its path is set aside."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        if not path.is_dir():
            raise
        set_aside(path)


def checksum(document: Mapping[str, Any]) -> str:
    """Return the sha256 of a JSON object, independent of whitespace and of the keys' order."""
    rest = {key: value for key, value in document.items() if key != CHECKSUM}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a JSON object with its checksum by ``replace_atomically``."""
    rest = {key: value for key, value in document.items() if key not in (CHECKSUM, SEAL)}
    plain = json.loads(json.dumps(rest))  # turns numeric keys into text before the checksum
    text = json.dumps({**plain, CHECKSUM: checksum(plain)}, indent=1)
    write_atomically(path, text.encode()[:-2] + _seal_of(text.encode()))


def is_sealed(content: bytes) -> bool:
    """Return whether a JSON file is the text that ``write_json`` wrote, byte for byte.

    This is verified without parsing. A file with another layout is verified by its checksum, which
    takes ten times as long.
    """
    return content[-_SEAL_LENGTH:] == _seal_of(content[:-_SEAL_LENGTH] + b"\n}")


def _seal_of(text: bytes) -> bytes:
    """Return the end of a file whose text without its seal is given."""
    return b',\n "%b": "%b"\n}' % (SEAL.encode(), hashlib.sha256(text).hexdigest().encode())


def read_json(
    path: Path, *, schema: int | None = None, sealed: bool = False
) -> dict[str, Any] | None:
    """Return the object that ``write_json`` wrote, without its checksum; None if there is no file.

    Args:
        path: the file.
        schema: newest schema that the caller understands (``None``: the file has none).
        sealed: whether a checksum is required; files of older code and edited files lack it.

    Raises:
        Unreadable: if the file cannot be read, is not a JSON object, was changed, or has a newer
            schema.
    """
    try:
        content = path.read_bytes()
        document = _parsed(content)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        reason = "it is empty" if _is_empty(path) else _words(error)
        raise Unreadable(f"`{path}` cannot be read ({reason})") from error
    if not isinstance(document, dict):
        raise Unreadable(f"`{path}` cannot be read (it is not a JSON object)")
    if schema is not None:
        version = document.get("schema", 1)
        if not isinstance(version, int) or isinstance(version, bool):
            raise Unreadable(f"`{path}` cannot be read (its schema is {version!r})")
        if version > schema:
            raise Unreadable(
                f"`{path}` has schema {version}, but this version reads up to {schema}; update the "
                "project to read it"
            )
    stated, _ = document.pop(CHECKSUM, None), document.pop(SEAL, None)
    checked = sealed or stated is not None
    if checked and not is_sealed(content) and stated != checksum(document):
        raise Unreadable(f"`{path}` was damaged or changed (its checksum is wrong)")
    return document


def _parsed(content: bytes) -> Any:
    """Return the value of a JSON text, in a third of the time of ``json``."""
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        return json.loads(content)  # takes NaN, which is no JSON, and names the fault


def _is_empty(path: Path) -> bool:
    try:
        return path.is_file() and path.stat().st_size == 0
    except OSError:
        return False


def _words(error: Exception) -> str:
    """Return an error's message in a few words."""
    if isinstance(error, OSError):
        return error.strerror or os.strerror(error.errno or errno.EIO)
    return str(error)


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def own_folder(variable: str, below_home: str) -> Path:
    """Return a folder of this user for files that outlive a command.

    Args:
        variable: environment variable that names the folder, e.g. ``XDG_CACHE_HOME``.
        below_home: path below the home folder if the variable is not set. A user without a home
            folder (an id that the user database does not know) gets a folder that is removed when
            this process ends.
    """
    if value := os.environ.get(variable):
        return Path(value)
    try:
        return Path.home() / below_home
    except RuntimeError:
        return _lasting_a_process()


@functools.lru_cache(maxsize=1)
def _lasting_a_process() -> Path:
    folder = tempfile.TemporaryDirectory(prefix="ssl_transfer-")
    atexit.register(folder.cleanup)
    return Path(folder.name)


def let_group_write(paths: Mapping[str, Any]) -> None:
    """Make files that this process creates from now on group-writable, if ``paths`` says so.

    The permissions of others stay as the user's umask says. Every process that a launcher starts
    calls this before it writes anything.

    Args:
        paths: the configuration's node ``paths``; without ``group_writable`` nothing changes.
    """
    if paths.get("group_writable"):
        before = os.umask(0o077)  # the umask cannot be read without being set
        os.umask(before & ~0o070)
