"""The files that a run reads: who reads says so here, with their stamps and their contents.

While a data set is built (``collected``), every file below its root that Python opens is noted by
itself. What Python does not see open is noted by whoever reads it: images by the check of image
files, folders by whoever lists them, annotations by ``annotations.reading``.

    with collected(places) as found:
        …                         # builds the data set
    found.paths, found.stamps     # what it was built from

Of a file in a copy on a node's own disk the original is noted.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
import os
import sys
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ssl_transfer.system import staging, stamps
from ssl_transfer.system.files import own_folder, write_atomically
from ssl_transfer.system.stamps import DIGEST_BYTES, Stamp

log = logging.getLogger(__name__)

UNSETTLED = b"\xff" * DIGEST_BYTES
"""Stands for the content of a file that changed while it was read: it equals no content."""
ABSENT = b"\0" * DIGEST_BYTES
"""Stands for the content of a file that must not be there for the data to stay what they are."""
_NO_STAMP = Stamp(-1, -1, -1, -1)
_CODE = (".py", ".pyc", ".so", ".pyd")  # what Python opens to import


@dataclasses.dataclass(eq=False)
class Inputs:
    """Files and listed folders, a row each, in columns: a set of images may have a million.

    Args:
        paths: absolute; no file twice.
        stamps: four numbers per row (see ``Stamp``).
        digests: ``DIGEST_BYTES`` per row: the content's hash, or that of a folder's names.
        rules: row of a folder -> suffixes of the files that count in it (see
            ``stamps.of_folder``).
    """

    paths: list[str] = dataclasses.field(default_factory=list)
    stamps: "array[int]" = dataclasses.field(default_factory=lambda: array("q"))
    digests: bytearray = dataclasses.field(default_factory=bytearray)
    rules: dict[int, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.paths)

    def add(
        self, path: str, stamp: Stamp, digest: bytes, rule: tuple[str, ...] | None = None
    ) -> None:
        """Append a row."""
        if rule is not None:
            self.rules[len(self.paths)] = rule
        self.paths.append(path)
        self.stamps.extend(stamp)
        self.digests += digest

    def digest_of(self, row: int) -> bytes:
        """Return the hash of a row's content."""
        return bytes(self.digests[DIGEST_BYTES * row : DIGEST_BYTES * (row + 1)])

    def stamp_of(self, row: int) -> Stamp:
        """Return a row's stamp."""
        return Stamp(*self.stamps[4 * row : 4 * row + 4])

    def contents(self) -> dict[str, bytes]:
        """Return the hash of each path's content."""
        return {path: self.digest_of(row) for row, path in enumerate(self.paths)}

    @functools.cached_property
    def identity(self) -> str:
        """32 hex digits of paths and contents; stamps, which change by copying, do not enter."""
        digest = hashlib.sha256()
        for row in sorted(range(len(self)), key=self.paths.__getitem__):
            digest.update(self.paths[row].encode(errors="surrogateescape") + b"\0")
            digest.update(self.digest_of(row))
            if row in self.rules:
                digest.update("\0".join(("", *self.rules[row])).encode())
        return digest.hexdigest()[:32]


class _Collector:
    """Gathers what is noted, and at the end the contents that are not known yet."""

    def __init__(self, places: Iterable[str]) -> None:
        self.places = tuple(place.rstrip(os.sep) + os.sep for place in places)
        self.exact = {place.rstrip(os.sep) for place in places}
        self.inputs = Inputs()
        self.known: set[str] = set()
        self.pending: dict[str, Stamp] = {}

    def opened(self, path: str) -> None:
        """Note a file that Python opens, if it lies where the data lie."""
        if (
            (path.startswith(self.places) or path in self.exact)
            and not path.endswith(_CODE)
            and path not in self.pending
        ):
            with contextlib.suppress(OSError):  # it is made just now, or is no file
                self.pending[path] = stamps.stamp(path)

    def close(self) -> None:
        """Find the contents of what was only opened."""
        left = {
            place: (path, before)
            for path, before in self.pending.items()
            if (place := staging.original(path)) not in self.known and os.path.isfile(path)  # noqa: PTH113
        }
        if not left:
            return
        digests = contents([path for path, _ in left.values()])
        for (place, (path, before)), digest in zip(left.items(), digests, strict=True):
            settled = _stamp(path) == before
            self.inputs.add(place, stamp_of(path) or _NO_STAMP, digest if settled else UNSETTLED)


_active: list[_Collector] = []
_doubting: list[bool] = []


@contextlib.contextmanager
def collected(places: Iterable[str] = ()) -> Iterator[Inputs]:
    """Yield what is read inside the block; it is complete when the block ends.

    Args:
        places: absolute paths of files and folders, below which every opened file counts.
    """
    _watch()
    collector = _Collector(places)
    _active.append(collector)
    try:
        yield collector.inputs
    finally:
        _active.remove(collector)
    collector.close()


@contextlib.contextmanager
def doubting() -> Iterator[None]:
    """Read every content anew inside the block, whatever stamps say."""
    _doubting.append(True)
    try:
        yield
    finally:
        _doubting.pop()


def is_doubting() -> bool:
    """Return whether contents that are known by a stamp must be read anew."""
    return bool(_doubting)


def note_files(paths: Sequence[str], about: Sequence[Stamp], digests: Sequence[bytes]) -> None:
    """Note files whose contents are known already.

    Args:
        paths: absolute or relative; copies stand for their originals.
        about: their stamps (of originals).
        digests: of their contents.
    """
    for collector in _active:
        for path, found, digest in zip(paths, about, digests, strict=True):
            place = staging.original(os.path.abspath(path))  # noqa: PTH100 - ten times as fast
            if place not in collector.known:
                collector.known.add(place)
                collector.inputs.add(place, found, digest)


def note_file(path: str | Path) -> None:
    """Note a file that is about to be read, or one that would be read if it were there."""
    place = os.path.abspath(path)  # noqa: PTH100
    for collector in _active:
        found = _stamp(place)
        if found is not None:
            collector.pending.setdefault(place, found)
        elif (original := staging.original(place)) not in collector.known:
            collector.known.add(original)
            collector.inputs.add(original, _NO_STAMP, ABSENT)


def is_file(path: str | Path) -> bool:
    """Return whether there is a file, and note the answer: another one would change the data."""
    note_file(path)
    return os.path.isfile(path)  # noqa: PTH113


def note_folder(path: str | Path, suffixes: Sequence[str]) -> None:
    """Note a folder whose entries are listed, so that added and removed ones are seen.

    Args:
        path: the folder.
        suffixes: of the files in it that matter (see ``stamps.of_folder``).
    """
    if not _active:
        return
    place = os.path.abspath(path)  # noqa: PTH100
    original = staging.original(place)
    key = "\0".join((original, *suffixes))  # a folder may be listed in several ways
    for collector in _active:
        if key not in collector.known:
            collector.known.add(key)
            with contextlib.suppress(OSError):  # whoever lists it says so
                digest = stamps.of_folder(place, suffixes)
                about = stamp_of(place) or _NO_STAMP
                collector.inputs.add(original, about, digest, tuple(suffixes))


def stamp_of(path: str) -> Stamp | None:
    """Return the stamp of a file or folder, of a copy that of its original; None without one."""
    return staging.stamp(path) or _stamp(staging.original(path))


def contents(paths: Sequence[str]) -> list[bytes]:
    """Return the hash of every file's content, read in threads unless it is known by its stamp."""
    about = [stamp_of(os.path.abspath(path)) for path in paths]  # noqa: PTH100
    known = Remembered("contents", paths, about)
    if (found := known.get()) is not None:
        return list(found["digests"])
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        digests = list(pool.map(_content, paths))
    known.keep({"digests": digests})
    return digests


class Remembered:
    """What was found out about a list of files, kept under ``$XDG_CACHE_HOME`` (``~/.cache``).

    It holds as long as no path and no stamp changes. A damaged file counts as none.

    Args:
        kind: of what was found out.
        paths: the files; copies stand for their originals.
        about: their stamps; with a None nothing is kept.
    """

    def __init__(self, kind: str, paths: Sequence[str], about: Sequence[Stamp | None]) -> None:
        digest = hashlib.sha256(kind.encode())
        for path, found in zip(paths, about, strict=True):
            place = staging.original(os.path.abspath(path))  # noqa: PTH100
            digest.update(f"{place}\0{found}\n".encode(errors="surrogateescape"))
        folder = own_folder("XDG_CACHE_HOME", ".cache") / "ssl_transfer"
        self.path = folder / "verified" / f"{digest.hexdigest()[:32]}.json"
        self.sure = None not in about
        self.files = len(paths)

    def get(self) -> dict[str, Any] | None:
        """Return what is known, None if nothing is, or if contents are doubted."""
        if is_doubting() or not self.sure:
            return None
        try:
            known = dict(json.loads(self.path.read_text()))
            whole = bytes.fromhex(known["digests"])
            if len(whole) != DIGEST_BYTES * self.files:
                raise ValueError("it is of other files")
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.debug("nothing known yet, or a damaged file (%s)", error)
            return None
        known["digests"] = [
            whole[start : start + DIGEST_BYTES] for start in range(0, len(whole), DIGEST_BYTES)
        ]
        return known

    def keep(self, known: Mapping[str, Any]) -> None:
        """Keep what was found out; ``digests`` are the contents' hashes."""
        if not self.sure:
            return
        text = json.dumps({**known, "digests": b"".join(known["digests"]).hex()})
        try:
            write_atomically(self.path, text.encode())
        except OSError as error:
            log.info("what was seen of %d files cannot be kept (%s)", self.files, error)


def _stamp(path: str) -> Stamp | None:
    try:
        return stamps.stamp(path)
    except OSError:
        return None


def _content(path: str) -> bytes:
    try:
        return stamps.of_file(path)
    except OSError:
        return UNSETTLED


@functools.cache
def _watch() -> None:
    """Let every opening of a file be looked at, from now on in this process."""
    sys.addaudithook(_opened)


def _opened(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "open" or not _active:
        return
    path, _, flags = arguments
    if isinstance(path, str | bytes | os.PathLike) and flags & os.O_ACCMODE != os.O_WRONLY:
        place = os.path.abspath(os.fsdecode(path))  # noqa: PTH100
        for collector in _active:
            collector.opened(place)
