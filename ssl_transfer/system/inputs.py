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
"""Hash of a file that changed while it was read; it equals the hash of no content."""
ABSENT = b"\0" * DIGEST_BYTES
"""Hash of a file that did not exist; the data change if it appears."""
_NO_STAMP = Stamp(-1, -1, -1, -1)
_CODE = (".py", ".pyc", ".so", ".pyd")  # files that Python opens to import modules


@dataclasses.dataclass(eq=False)
class Inputs:
    """Files and listed folders, stored in columns: a set of images may have a million rows.

    Args:
        paths: absolute paths, without duplicates.
        stamps: four numbers per row (see ``Stamp``).
        digests: ``DIGEST_BYTES`` per row: hash of a file's content, or of a folder's names.
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
        """32 hex digits of paths and contents, not of stamps, because copying changes these."""
        digest = hashlib.sha256()
        for row in sorted(range(len(self)), key=self.paths.__getitem__):
            digest.update(self.paths[row].encode(errors="surrogateescape") + b"\0")
            digest.update(self.digest_of(row))
            if row in self.rules:
                digest.update("\0".join(("", *self.rules[row])).encode())
        return digest.hexdigest()[:32]


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


def note_files(
    paths: Sequence[str], file_stamps: Sequence[Stamp], digests: Sequence[bytes]
) -> None:
    """Record files whose hashes are already known.

    Args:
        paths: absolute or relative; for a copy, its original is recorded.
        file_stamps: stamps of the original files.
        digests: hashes of their contents.
    """
    for collector in _active:
        for path, stamp, digest in zip(paths, file_stamps, digests, strict=True):
            place = staging.original(os.path.abspath(path))  # noqa: PTH100 - ten times as fast
            if place not in collector.known:
                collector.known.add(place)
                collector.inputs.add(place, stamp, digest)


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


def note_folder(path: str | Path, suffixes: Sequence[str]) -> None:
    """Record a folder whose entries are listed, so that added and removed files are detected.

    Args:
        path: the folder.
        suffixes: suffixes of the files that count (see ``stamps.of_folder``).
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
                digest = stamps.of_folder(place, suffixes)
                stamp = stamp_of(place) or _NO_STAMP
                collector.inputs.add(original, stamp, digest, tuple(suffixes))


def stamp_of(path: str) -> Stamp | None:
    """Return the stamp of a file or folder, for a copy that of its original; None if missing."""
    return staging.stamp(path) or _stamp(staging.original(path))


def contents(paths: Sequence[str]) -> list[bytes]:
    """Return the hash of every file; files with changed stamps are read in threads."""
    file_stamps = [stamp_of(os.path.abspath(path)) for path in paths]  # noqa: PTH100
    cache = Remembered("contents", paths, file_stamps)
    if (facts := cache.get()) is not None:
        return list(facts["digests"])
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        digests = list(pool.map(_content, paths))
    cache.keep({"digests": digests})
    return digests


class Remembered:
    """Cached facts about a list of files, stored under ``$XDG_CACHE_HOME`` (``~/.cache``).

    They are valid while no path and no stamp changes. A damaged cache file counts as missing.

    Args:
        kind: name of the facts.
        paths: the files; for a copy, its original counts.
        file_stamps: their stamps; if one is None nothing is stored.
        digests: number of hashes among the facts (``None``: one per file).
    """

    def __init__(
        self,
        kind: str,
        paths: Sequence[str],
        file_stamps: Sequence[Stamp | None],
        digests: int | None = None,
    ) -> None:
        digest = hashlib.sha256(kind.encode())
        for path, stamp in zip(paths, file_stamps, strict=True):
            place = staging.original(os.path.abspath(path))  # noqa: PTH100
            digest.update(f"{place}\0{stamp}\n".encode(errors="surrogateescape"))
        folder = own_folder("XDG_CACHE_HOME", ".cache") / "ssl_transfer"
        self.path = folder / "verified" / f"{digest.hexdigest()[:32]}.json"
        self.sure = None not in file_stamps
        self.digests = len(paths) if digests is None else digests

    def get(self) -> dict[str, Any] | None:
        """Return the cached facts; None if there are none, or inside ``doubting``."""
        if is_doubting() or not self.sure:
            return None
        try:
            known = dict(json.loads(self.path.read_text()))
            whole = bytes.fromhex(known["digests"])
            if len(whole) != DIGEST_BYTES * self.digests:
                raise ValueError("it belongs to other files")
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.debug("no cached facts, or a damaged cache file (%s)", error)
            return None
        known["digests"] = [
            whole[start : start + DIGEST_BYTES] for start in range(0, len(whole), DIGEST_BYTES)
        ]
        return known

    def keep(self, known: Mapping[str, Any]) -> None:
        """Store the facts; ``digests`` are the hashes of the contents."""
        if not self.sure:
            return
        text = json.dumps({**known, "digests": b"".join(known["digests"]).hex()})
        try:
            write_atomically(self.path, text.encode())
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


def _opened(arguments: tuple[Any, ...]) -> None:
    path, _, flags = arguments
    if isinstance(path, str | bytes | os.PathLike) and flags & os.O_ACCMODE != os.O_WRONLY:
        place = os.path.abspath(os.fsdecode(path))  # noqa: PTH100
        for collector in _active:
            collector.opened(place)
