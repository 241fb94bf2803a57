"""Lists of input files, stored once for all runs that read them, and compared with the disk.

<outputs>/inputs/<32 hex>    a list: one line of JSON, then its columns, compressed

The hex digits are a hash of paths and contents. The file also holds the stamps. If only stamps
changed, they are updated, so that copied or restored files are read only once more.
"""

import dataclasses
import hashlib
import itertools
import json
import logging
import os
import sys
import zlib
from array import array
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, NamedTuple

from ssl_transfer.system import stamps
from ssl_transfer.system.files import replace_atomically
from ssl_transfer.system.inputs import ABSENT, UNSETTLED, Buffer, Inputs
from ssl_transfer.system.stamps import DIGEST_BYTES, Stamp

log = logging.getLogger(__name__)

FOLDER = "inputs"
_HERE = "." + os.sep  # prefix of paths inside the outputs folder, which may be moved
_NUMBERS = 4  # per stamp
MOST_SEEN = 100_000
"""Number of files whose stamps a ``Comparer`` remembers."""
_BLOCK = 1 << 16  # bytes of names, or names, that are objects at once
_CHUNK = 1 << 20  # bytes of a list that are unpacked at once


def save(inputs: Inputs, outputs: Path) -> str:
    """Write a list unless it exists with the same stamps; return its identity.

    If it cannot be written, that is logged and the run continues; its inputs are then not compared
    later.

    Args:
        inputs: the files.
        outputs: absolute folder of all runs.
    """
    if _stored_hash(_place(outputs, inputs.identity)) != _hash(_content(inputs, outputs)):
        _write(inputs, outputs, inputs.identity)
    return inputs.identity


class _Stored(NamedTuple):
    """The columns of a list as they are stored: names separated by zero bytes, stamps, hashes."""

    rules: Mapping[int, tuple[str, ...]]
    names: bytes
    stamps: "array[int]"
    digests: bytes

    def paths(self, outputs: Path) -> Iterator[str]:
        """Yield the absolute path of each row; few of them are objects at once."""
        start, end = 0, -1
        while end < len(self.names):
            end = self.names.find(b"\0", start + _BLOCK)
            end = end if end != -1 else len(self.names)
            for name in os.fsdecode(self.names[start:end]).split("\0"):
                yield str(outputs / name) if name.startswith(_HERE) else name
            start = end + 1

    def digest_of(self, row: int) -> bytes:
        """Return the hash of a row's content."""
        return self.digests[DIGEST_BYTES * row : DIGEST_BYTES * (row + 1)]

    def inputs(self, outputs: Path) -> Inputs:
        """Return the list with its paths as objects."""
        inputs = Inputs(dict(self.rules))
        inputs.add_files(list(self.paths(outputs)), self.stamps.tobytes(), self.digests)
        return inputs


def load(identity: str, outputs: Path) -> Inputs | None:
    """Return a list; None if it is missing or damaged."""
    stored = _read(_place(outputs, identity))
    return None if stored is None else stored.inputs(outputs)


def _read(path: Path) -> _Stored | None:
    """Return the columns of a list; None if it is missing or damaged."""
    try:
        with path.open("rb") as file:
            facts, body = json.loads(file.readline()), file.read()
        unpacking, parts = zlib.decompressobj(), []
        for size in (facts[key] for key in ("paths", "stamps", "digests")):
            parts.append(unpacking.decompress(body, size) if size else b"")
            body = unpacking.unconsumed_tail
            if len(parts[-1]) != size:
                raise ValueError("a part is missing")
        if unpacking.decompress(body) or not unpacking.eof:
            raise ValueError("it does not end where it should")
        names, numbers, digests = parts
        stamps_read = array("q", numbers)
        if facts["byteorder"] != sys.byteorder:
            stamps_read.byteswap()
        rules = {int(row): tuple(rule) for row, rule in facts["rules"].items()}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zlib.error) as error:
        log.warning("`%s` is damaged (%s); what it lists is not compared", path, error)
        return None
    return _Stored(rules, names, stamps_read, digests)


@dataclasses.dataclass
class Comparison:
    """How a list's files differ from those on the disk.

    Args:
        changed: files with other content, and folders with other entries.
        gone: files that no longer exist.
        unreachable: whether no file can be reached, so that nothing was compared.
    """

    changed: list[str] = dataclasses.field(default_factory=list)
    gone: list[str] = dataclasses.field(default_factory=list)
    unreachable: bool = False

    @property
    def stale(self) -> bool:
        """Whether the files differ from those that were read."""
        return bool(self.changed or self.gone) and not self.unreachable

    def describe(self) -> str:
        """Return the numbers of changed and missing files, with the first path."""
        parts = [f"{len(self.changed)} changed"] if self.changed else []
        parts += [f"{len(self.gone)} gone"] if self.gone else []
        return f"{', '.join(parts)}, first `{[*self.changed, *self.gone][0]}`"


class Comparer:
    """Compares lists with the disk; looks at each list and each file only once.

    Of very many files, only the first ``MOST_SEEN`` are remembered, which bounds the memory.

    Every file is looked at, because a file that is overwritten in place leaves the times of its
    folder as they were.

    Args:
        outputs: absolute folder of all runs.
    """

    def __init__(self, outputs: Path) -> None:
        self.outputs = outputs
        self.known: dict[str, Comparison] = {}
        self.seen: dict[str, Stamp | None] = {}

    def compare(self, identity: str) -> Comparison:
        """Return how the files of a list differ from those on the disk."""
        if identity not in self.known:
            stored = _read(_place(self.outputs, identity))
            self.known[identity] = (
                Comparison(unreachable=True) if stored is None else self._compare(identity, stored)
            )
        return self.known[identity]

    def _compare(self, identity: str, stored: _Stored) -> Comparison:
        comparison, known = Comparison(), zip(*[iter(stored.stamps)] * _NUMBERS, strict=True)
        differing: dict[int, tuple[str, Stamp]] = {}
        files = 0
        paths = zip(stored.paths(self.outputs), known, strict=True)
        for row, (path, before) in enumerate(paths):
            try:
                now = self._stamp(path)
            except OSError as error:  # no permission, or a server that does not answer
                log.debug("%s", error)
                return Comparison(unreachable=True)
            if now is None:
                if stored.digest_of(row) != ABSENT:
                    comparison.gone.append(path)
                continue
            files += row not in stored.rules
            if now != before:
                differing[row] = path, now
        if not files and comparison.gone:  # only empty folders: the disk is not mounted
            return Comparison(unreachable=True)
        comparison.changed += _changed(stored, differing)
        if differing and not comparison.changed:
            for row, (_, now) in differing.items():
                stored.stamps[_NUMBERS * row : _NUMBERS * (row + 1)] = array("q", now)
            _write(stored.inputs(self.outputs), self.outputs, identity)
        return comparison

    def _stamp(self, path: str) -> Stamp | None:
        """Return a file's stamp; None if there is no such file."""
        if path in self.seen:
            return self.seen[path]
        try:
            now = stamps.of(os.stat(path))  # noqa: PTH116
        except (FileNotFoundError, NotADirectoryError):
            now = None
        if len(self.seen) < MOST_SEEN:
            self.seen[path] = now
        return now


def _changed(stored: _Stored, differing: Mapping[int, tuple[str, Stamp]]) -> list[str]:
    """Return which files with other stamps have other contents."""
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        rows = [(path, stored.rules.get(row)) for row, (path, _) in differing.items()]
        digests = pool.map(lambda row: _present_hash(*row), rows)
        return [
            path
            for (row, (path, _)), digest in zip(differing.items(), digests, strict=True)
            if digest != stored.digest_of(row)
        ]


def _present_hash(path: str, rule: tuple[str, ...] | None) -> bytes:
    """Return the hash of a row's present content; ``UNSETTLED`` if it cannot be read."""
    try:
        return stamps.of_file(path) if rule is None else stamps.of_folder(path, rule)
    except OSError as error:
        log.debug("%s", error)
        return UNSETTLED


def _place(outputs: Path, identity: str) -> Path:
    return outputs / FOLDER / identity


def _content(inputs: Inputs, outputs: Path) -> Iterator[Buffer]:
    """Yield the pieces of a list before its columns are compressed, first the line of JSON."""
    sizes = [sum(map(len, _names(inputs, outputs))), 8 * _NUMBERS * len(inputs)]
    columns = dict(
        zip(("paths", "stamps", "digests"), [*sizes, DIGEST_BYTES * len(inputs)], strict=True)
    )
    facts = {
        "schema": 1,
        "files": len(inputs),
        "byteorder": sys.byteorder,
        **columns,
        "rules": inputs.rules,
    }
    yield json.dumps(facts).encode() + b"\n"
    yield from _names(inputs, outputs)
    yield from inputs.columns()


def _names(inputs: Inputs, outputs: Path) -> Iterator[bytes]:
    """Yield the pieces of all paths with zero bytes between them."""
    base = f"{outputs}{os.sep}"
    paths, begun = inputs.iterate_paths(), False
    while some := list(itertools.islice(paths, _BLOCK)):
        names = [
            _HERE + path.removeprefix(base) if path.startswith(base) else path for path in some
        ]
        yield b"\0" * begun + os.fsencode("\0".join(names))
        begun = True


def _hash(content: Iterable[Buffer]) -> bytes:
    digest = hashlib.blake2b()
    for piece in content:
        digest.update(piece)
    return digest.digest()


def _stored_hash(path: Path) -> bytes | None:
    """Return the hash of a list as ``_content`` yields it; None if it is missing or damaged."""
    try:
        with path.open("rb") as file:
            digest, unpacking = hashlib.blake2b(file.readline()), zlib.decompressobj()
            while chunk := file.read(_CHUNK):
                digest.update(unpacking.decompress(chunk))
    except (OSError, zlib.error) as error:
        log.debug("no list at `%s`, or a damaged one (%s)", path, error)
        return None
    return digest.digest() if unpacking.eof else None


def _write(inputs: Inputs, outputs: Path, identity: str) -> None:
    def fill(file: IO[bytes]) -> None:
        content, packing = _content(inputs, outputs), zlib.compressobj(1)
        file.write(next(content))
        file.writelines(map(packing.compress, content))
        file.write(packing.flush())

    try:
        replace_atomically(_place(outputs, identity), fill)
    except OSError as error:
        log.info("the list of %d input files cannot be kept (%s)", len(inputs), error)
