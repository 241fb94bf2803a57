"""The files that a run reads, with the stamps and the hashes of their contents.

While a data set is built inside ``collected``, every file below its root that Python opens is
recorded automatically. Code that reads files by other means records them itself: the check of image
files records the images, code that lists a folder records the folder, and ``annotations.reading``
records annotations.

    with collected(places) as files:
        …                         # builds the data set
    files.paths, files.stamps     # the files it was built from

For a file in a copy on a node's own disk, the original is recorded.
"""

import contextlib
import dataclasses
import functools
import hashlib
import heapq
import itertools
import json
import logging
import os
import struct
import sys
import threading
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
"""Hash of a file that changed while it was read; it equals the hash of no content."""
ABSENT = b"\0" * DIGEST_BYTES
"""Hash of a file that did not exist; the data change if it appears."""
_NO_STAMP = Stamp(-1, -1, -1, -1)
_NUMBERS = struct.Struct("=4q")
_PART = 1 << 16  # paths that are sorted at once
_PIECE = _NUMBERS.size << 12  # bytes that are searched at once
_CODE = (".py", ".pyc", ".so", ".pyd")  # files that Python opens to import modules


Buffer = bytes | memoryview


@dataclasses.dataclass(frozen=True)
class _Table:
    """Some rows of ``Inputs``."""

    paths: Sequence[str]
    stamps: "array[int] | Buffer"
    digests: bytearray | Buffer

    def in_order(self, start: int, before: int) -> Iterator[tuple[str, int, bytes]]:
        """Yield path, row and hash of ``_PART`` rows in the order of their paths.

        Args:
            start: first of these rows in this table.
            before: number of rows before this table.
        """
        import numpy as np  # launchers import this module, but never call this function

        from ssl_transfer.system import texts

        paths = self.paths[start : start + _PART]
        objects = list(paths)
        order = array("q", sorted(range(len(objects)), key=objects.__getitem__))
        del objects
        ordered = texts.pick(paths, np.array(order, np.int64))
        for path, row in zip(ordered, map(start.__add__, order), strict=True):
            digest = bytes(self.digests[DIGEST_BYTES * row : DIGEST_BYTES * (row + 1)])
            yield path, before + row, digest


@dataclasses.dataclass(frozen=True)
class _GrowingTable(_Table):
    """Rows that are added one by one."""

    paths: list[str] = dataclasses.field(default_factory=list)
    stamps: "array[int]" = dataclasses.field(default_factory=lambda: array("q"))
    digests: bytearray = dataclasses.field(default_factory=bytearray)


@dataclasses.dataclass(eq=False)
class Inputs:
    """Files and listed folders, stored in columns: a set of images may have a million rows.

    Args:
        rules: row of a folder -> suffixes of the files that count in it (see
            ``stamps.of_folder``).
    """

    rules: dict[int, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    _tables: list[_Table] = dataclasses.field(default_factory=list)

    def __len__(self) -> int:
        return sum(len(table.paths) for table in self._tables)

    def iterate_paths(self) -> Iterator[str]:
        """Yield the absolute paths, without duplicates, in the order of the rows."""
        return itertools.chain.from_iterable(table.paths for table in self._tables)

    def columns(self) -> Iterator[Buffer]:
        """Yield the pieces of the stamps of all rows, and then of their digests."""
        for column in ("stamps", "digests"):
            yield from (memoryview(getattr(table, column)).cast("B") for table in self._tables)

    @property
    def paths(self) -> list[str]:
        """Absolute paths as objects, which takes 150 MB for a million."""
        return list(self.iterate_paths())

    @property
    def stamps(self) -> "array[int]":
        """Four numbers per row (see ``Stamp``)."""
        return array("q", b"".join(table.stamps for table in self._tables))

    @property
    def digests(self) -> bytes:
        """``DIGEST_BYTES`` per row: hash of a file's content, or of a folder's names."""
        return b"".join(table.digests for table in self._tables)

    def add(
        self, path: str, stamp: Stamp, digest: bytes, rule: tuple[str, ...] | None = None
    ) -> None:
        """Append a row."""
        if rule is not None:
            self.rules[len(self)] = rule
        last = self._tables[-1] if self._tables else None
        if not isinstance(last, _GrowingTable):
            last = _GrowingTable()
            self._tables.append(last)
        last.paths.append(path)
        last.stamps.extend(stamp)
        last.digests.extend(digest)

    def add_files(self, paths: Sequence[str], stamps: Buffer, digests: Buffer) -> None:
        """Append many files; the columns are not copied, and must not change any more."""
        self._tables.append(_Table(paths, stamps, digests))

    def contents(self) -> dict[str, bytes]:
        """Return the hash of each path's content."""
        return {path: digest for path, _, digest in self._in_order()}

    @functools.cached_property
    def identity(self) -> str:
        """32 hex digits of paths and contents, not of stamps, because copying changes these."""
        hashed = hashlib.sha256()
        for path, row, digest in self._in_order():
            hashed.update(f"{path}\0".encode(errors="surrogateescape") + digest)
            if row in self.rules:
                hashed.update("\0".join(("", *self.rules[row])).encode())
        return hashed.hexdigest()[:32]

    def _in_order(self) -> Iterator[tuple[str, int, bytes]]:
        """Yield path, row and hash of all rows in the order of the paths; few are objects."""
        parts, before = [], 0
        for table in self._tables:
            starts = range(0, len(table.paths), _PART)
            parts += [table.in_order(start, before) for start in starts]
            before += len(table.paths)
        return heapq.merge(*parts)


class _Collector:
    """Collects recorded files; ``close`` computes the hashes that are still missing."""

    def __init__(self, places: Iterable[str]) -> None:
        self.places = tuple(place.rstrip(os.sep) + os.sep for place in places)
        self.exact = {place.rstrip(os.sep) for place in places}
        self.inputs = Inputs()
        self.known: set[str] = set()
        self.pending: dict[str, Stamp] = {}

    def opened(self, path: str) -> None:
        """Record a file that Python opens, if it lies in one of the places."""
        if (
            (path.startswith(self.places) or path in self.exact)
            and not path.endswith(_CODE)
            and path not in self.pending
        ):
            with contextlib.suppress(OSError):  # it is just being created, or is not a file
                self.pending[path] = stamps.stamp(path)

    def close(self) -> None:
        """Compute the hashes of files that were only opened."""
        if not self.pending:
            return
        left = {
            staging.original(path): (path, before)
            for path, before in self.pending.items()
            if os.path.isfile(path)  # noqa: PTH113
        }
        for place in itertools.chain(self.known, self.inputs.iterate_paths()):
            left.pop(place, None)
        digests = contents([path for path, _ in left.values()])
        for (place, (path, before)), digest in zip(left.items(), digests, strict=True):
            settled = _stamp(path) == before
            self.inputs.add(place, stamp_of(path) or _NO_STAMP, digest if settled else UNSETTLED)


_active: list[_Collector] = []
_doubting: list[bool] = []
_naming: list[bool] = []
_thread = threading.local()


@contextlib.contextmanager
def collected(places: Iterable[str] = ()) -> Iterator[Inputs]:
    """Yield the files that are read inside the block; complete when the block ends.

    Args:
        places: absolute paths of files and folders; every file opened below them is recorded.
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
    """Read and hash every file again inside the block, even if its stamp is unchanged."""
    _doubting.append(True)
    try:
        yield
    finally:
        _doubting.pop()


def is_doubting() -> bool:
    """Return whether contents must be read again although their stamps are known."""
    return bool(_doubting)


@contextlib.contextmanager
def naming() -> Iterator[None]:
    """Do without everything but the names of files inside the block, where that suffices."""
    _naming.append(True)
    try:
        yield
    finally:
        _naming.pop()


def names_suffice(verify: str) -> bool:
    """Return whether files need not be looked at; the data set is then not used to compute."""
    return bool(_naming) and verify == "off"


def note_files(places: Sequence[str], file_stamps: Buffer, digests: Buffer) -> None:
    """Record files whose hashes are already known.

    Args:
        places: absolute; for a copy, its original (see ``originals``).
        file_stamps: stamps of the original files, as ``stamps_of`` returns them.
        digests: hashes of their contents, ``DIGEST_BYTES`` per file.
    """
    for collector in _active:
        known = collector.known.union(collector.inputs.iterate_paths())
        if known.isdisjoint(places) and _all_differ(places):
            collector.inputs.add_files(places, file_stamps, digests)
            continue
        for row, place in enumerate(places):
            if place not in known:
                known.add(place)
                stamp = Stamp(*_NUMBERS.unpack_from(file_stamps, _NUMBERS.size * row))
                digest = bytes(digests[DIGEST_BYTES * row : DIGEST_BYTES * (row + 1)])
                collector.inputs.add(place, stamp, digest)


def _all_differ(texts: Sequence[str]) -> bool:
    """Return whether all hashes of the texts differ, which takes less memory than a set."""
    import numpy as np  # launchers import this module, but never call this function

    hashes = np.sort(np.fromiter(map(hash, texts), np.int64, len(texts)))
    return bool((hashes[1:] != hashes[:-1]).all())


def originals(paths: Iterable[str]) -> list[str]:
    """Return the absolute path of each file, for a copy that of its original."""
    return [staging.original(os.path.abspath(path)) for path in paths]  # noqa: PTH100


def note_file(path: str | Path) -> None:
    """Record a file that is about to be read, or that would be read if it existed."""
    place = staging.source_of(os.path.abspath(path))  # noqa: PTH100
    original = staging.original(place)
    for collector in _active:
        if original in collector.known:
            continue
        stamp = _stamp(place)
        if stamp is not None:
            collector.pending.setdefault(place, stamp)
        else:
            collector.known.add(original)
            collector.inputs.add(original, _NO_STAMP, ABSENT)


def is_file(path: str | Path) -> bool:
    """Return whether a file exists, and record the answer, because the data depend on it."""
    note_file(path)
    return os.path.isfile(path)  # noqa: PTH113


def note_folder(
    path: str | Path, suffixes: Sequence[str], names: Sequence[str] | None = None
) -> None:
    """Record a folder whose entries are listed, so that added and removed files are detected.

    Args:
        path: the folder.
        suffixes: suffixes of the files that count (see ``stamps.of_folder``).
        names: names of the files that count, if it was just listed and has no folders (``None``:
            it is listed here).
    """
    if not _active:
        return
    place = os.path.abspath(path)  # noqa: PTH100
    original = staging.original(place)
    key = "\0".join((original, *suffixes))  # a folder may be listed in several ways
    for collector in _active:
        if key not in collector.known:
            collector.known.add(key)
            with contextlib.suppress(OSError):  # the code that lists it reports the error
                stamp = stamp_of(place) or _NO_STAMP
                if names is None:
                    digest = stamps.of_folder(place, suffixes)
                else:
                    digest = stamps.of_names(names)
                collector.inputs.add(original, stamp, digest, tuple(suffixes))


def stamp_of(path: str) -> Stamp | None:
    """Return the stamp of a file or folder, for a copy that of its original; None if missing."""
    return staging.stamp(path) or _stamp(staging.original(path))


def stamps_of(paths: Iterable[str]) -> bytes:
    """Return the stamps of files, for a copy those of its originals.

    Returns:
        Four signed numbers of 8 bytes per file, in the computer's byte order; all -1 if the file is
        missing.
    """
    numbers = array("q")
    for path in paths:
        numbers.extend(stamp_of(path) or _NO_STAMP)
    return numbers.tobytes()


def contents(paths: Sequence[str]) -> list[bytes]:
    """Return the hash of every file; files with changed stamps are read in threads."""
    cache = Remembered("contents", originals(paths), stamps_of(paths), len(paths))
    if (facts := cache.get()) is None:
        with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
            facts = {"digests": b"".join(pool.map(_content, paths))}
        cache.keep(facts)
    return [
        facts["digests"][start : start + DIGEST_BYTES]
        for start in range(0, DIGEST_BYTES * len(paths), DIGEST_BYTES)
    ]


class Remembered:
    """Cached facts about a list of files, stored under ``$XDG_CACHE_HOME`` (``~/.cache``).

    They are valid while no path and no stamp changes. A damaged cache file counts as missing.

    Args:
        kind: name of the facts.
        places: absolute paths of the files; for a copy, its original (see ``originals``).
        file_stamps: their stamps (see ``stamps_of``); if a file is missing nothing is stored.
        digests: number of hashes among the facts.
    """

    def __init__(self, kind: str, places: Iterable[str], file_stamps: Buffer, digests: int) -> None:
        digest = hashlib.sha256(kind.encode() + b"\0")
        digest.update(file_stamps)
        places = iter(places)
        while some := list(itertools.islice(places, 4096)):
            digest.update("".join(f"{place}\0" for place in some).encode(errors="surrogateescape"))
        folder = own_folder("XDG_CACHE_HOME", ".cache") / "ssl_transfer"
        self.path = folder / "verified" / digest.hexdigest()[:32]
        pieces = (
            file_stamps[start : start + _PIECE] for start in range(0, len(file_stamps), _PIECE)
        )
        self.sure = not any(_NUMBERS.pack(*_NO_STAMP) in bytes(piece) for piece in pieces)
        self.digests = digests

    def get(self) -> dict[str, Any] | None:
        """Return the cached facts; None if there are none, or inside ``doubting``."""
        if is_doubting() or not self.sure:
            return None
        try:
            head, _, digests = self.path.read_bytes().partition(b"\n")
            if len(digests) != DIGEST_BYTES * self.digests:
                raise ValueError("a part is missing")
            return {**json.loads(head), "digests": digests}
        except (OSError, ValueError, TypeError) as error:
            log.debug("no cached facts, or a damaged cache file (%s)", error)
            return None

    def keep(self, known: Mapping[str, Any]) -> None:
        """Store the facts: plain JSON, but ``digests``, which are the hashes of the contents."""
        if not self.sure:
            return
        head = json.dumps({key: value for key, value in known.items() if key != "digests"})
        try:
            write_atomically(self.path, head.encode() + b"\n" + known["digests"])
        except OSError as error:
            log.info("%d hashes of files cannot be cached (%s)", self.digests, error)


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
    """Install the audit hook that sees every file that this process opens."""
    # Python calls the hook thousands of times per second, for imports and attributes, too.
    sys.addaudithook(
        lambda event, arguments: _opened(arguments) if event == "open" and _active else None
    )


def ignore_opening() -> None:
    """Let files that this thread opens not be recorded: the caller records them itself."""
    _thread.ignores = True


def _opened(arguments: tuple[Any, ...]) -> None:
    path, _, flags = arguments
    if getattr(_thread, "ignores", False):
        return
    if isinstance(path, str | bytes | os.PathLike) and flags & os.O_ACCMODE != os.O_WRONLY:
        place = os.path.abspath(os.fsdecode(path))  # noqa: PTH100
        for collector in _active:
            collector.opened(place)
