"""Lists of input files, kept once for all runs that read them, and their comparison with the disk.

<outputs>/inputs/<32 hex>    a list: one line of JSON, then its columns, compressed

The hex digits stand for paths and contents. Stamps are in the file, too, and are renewed when they
changed but no content did, so that copying or restoring files costs one reading.
"""

import dataclasses
import json
import logging
import os
import sys
import zlib
from array import array
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ssl_transfer.system import stamps
from ssl_transfer.system.files import write_atomically
from ssl_transfer.system.inputs import ABSENT, UNSETTLED, Inputs
from ssl_transfer.system.stamps import Stamp

log = logging.getLogger(__name__)

FOLDER = "inputs"
_HERE = "." + os.sep  # begins the path of what lies in the outputs, which may be moved
_NUMBERS = 4  # of a stamp


def save(listed: Inputs, outputs: Path) -> str:
    """Keep a list, unless the same one is there with the same stamps; return its identity.

    Where it cannot be kept, the log says so and the run goes on: its inputs are not compared later.

    Args:
        listed: the files.
        outputs: absolute folder of all runs.
    """
    path = _place(outputs, listed.identity)
    there = load(listed.identity, outputs) if path.exists() else None
    if there is None or sorted(_rows(there)) != sorted(_rows(listed)):
        _write(listed, outputs, listed.identity)
    return listed.identity


def load(identity: str, outputs: Path) -> Inputs | None:
    """Return a list; None if there is none, or a damaged one."""
    path = _place(outputs, identity)
    try:
        head, _, body = path.read_bytes().partition(b"\n")
        facts = json.loads(head)
        columns = zlib.decompress(body)
        lengths = [facts["paths"], facts["stamps"], facts["digests"]]
        if sum(lengths) != len(columns):
            raise ValueError("it lacks a part")
        names, numbers = columns[: lengths[0]], columns[lengths[0] : lengths[0] + lengths[1]]
        found = Inputs(digests=bytearray(columns[-lengths[2] :]))
        found.paths = [_absolute(name, outputs) for name in os.fsdecode(names).split("\0")]
        found.stamps.frombytes(numbers)
        if facts["byteorder"] != sys.byteorder:
            found.stamps.byteswap()
        found.rules = {int(row): tuple(rule) for row, rule in facts["rules"].items()}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zlib.error) as error:
        log.warning("`%s` is damaged (%s); what it lists is not compared", path, error)
        return None
    return found


@dataclasses.dataclass
class Comparison:
    """What became of a list's files.

    Args:
        changed: files with other content, and folders with other files in them.
        gone: files that are not there any more.
        unreachable: whether nothing of the list can be seen: it was not compared.
    """

    changed: list[str] = dataclasses.field(default_factory=list)
    gone: list[str] = dataclasses.field(default_factory=list)
    unreachable: bool = False

    @property
    def stale(self) -> bool:
        """Whether the files are not any more those that were read."""
        return bool(self.changed or self.gone) and not self.unreachable

    def describe(self) -> str:
        """Return what changed, with the first path."""
        parts = [f"{len(self.changed)} changed"] if self.changed else []
        parts += [f"{len(self.gone)} gone"] if self.gone else []
        return f"{', '.join(parts)}, first `{[*self.changed, *self.gone][0]}`"


class Comparer:
    """Compares lists with the disk, each list and each file once.

    Args:
        outputs: absolute folder of all runs.
    """

    def __init__(self, outputs: Path) -> None:
        self.outputs = outputs
        self.known: dict[str, Comparison] = {}
        self.seen: dict[str, Stamp | None] = {}

    def compare(self, identity: str) -> Comparison:
        """Return what became of the files of a list."""
        if identity not in self.known:
            listed = load(identity, self.outputs)
            known = Comparison(unreachable=True) if listed is None else self._compare(listed)
            self.known[identity] = known
        return self.known[identity]

    def _compare(self, listed: Inputs) -> Comparison:
        found, seen, numbers = Comparison(), self.seen, listed.stamps
        differing, files = [], 0
        for row, path in enumerate(listed.paths):
            if path not in seen:
                try:
                    seen[path] = stamps.stamp(path)
                except (FileNotFoundError, NotADirectoryError):
                    seen[path] = None
                except OSError as error:  # no right to look, a server that does not answer
                    log.debug("%s", error)
                    return Comparison(unreachable=True)
            now, start = seen[path], _NUMBERS * row
            if now is None:
                if listed.digest_of(row) != ABSENT:
                    found.gone.append(path)
                continue
            files += row not in listed.rules
            if (
                numbers[start + 3] != now.inode
                or numbers[start + 2] != now.changed
                or numbers[start] != now.size
                or numbers[start + 1] != now.modified
            ):
                differing.append(row)
        if not files and found.gone:  # nothing but empty folders: a disk that is not mounted
            return Comparison(unreachable=True)
        self._look_into(listed, differing, found)
        return found

    def _look_into(self, listed: Inputs, rows: Sequence[int], found: Comparison) -> None:
        """Read what has another stamp; renew the list's stamps if only these changed."""
        with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
            digests = list(pool.map(lambda row: _content(listed, row), rows))
        for row, digest in zip(rows, digests, strict=True):
            path = listed.paths[row]
            if digest != listed.digest_of(row):
                found.changed.append(path)
            elif (now := self.seen[path]) is not None:
                listed.stamps[_NUMBERS * row : _NUMBERS * (row + 1)] = array("q", now)
        if rows and not found.changed:
            _write(listed, self.outputs, listed.identity)


def _content(listed: Inputs, row: int) -> bytes:
    """Return the hash of a row's content as it is now; one that equals none if it is unreadable."""
    path = listed.paths[row]
    try:
        if row in listed.rules:
            return stamps.of_folder(path, listed.rules[row])
        return stamps.of_file(path)
    except OSError as error:
        log.debug("%s", error)
        return UNSETTLED


def _rows(listed: Inputs) -> list[tuple[str, Stamp]]:
    return [(path, listed.stamp_of(row)) for row, path in enumerate(listed.paths)]


def _place(outputs: Path, identity: str) -> Path:
    return outputs / FOLDER / identity


def _absolute(name: str, outputs: Path) -> str:
    return str(outputs / name) if name.startswith(_HERE) else name


def _write(listed: Inputs, outputs: Path, identity: str) -> None:
    base = f"{outputs}{os.sep}"
    names = [
        _HERE + path.removeprefix(base) if path.startswith(base) else path for path in listed.paths
    ]
    columns = [os.fsencode("\0".join(names)), listed.stamps.tobytes(), bytes(listed.digests)]
    facts = {
        "schema": 1,
        "files": len(listed),
        "byteorder": sys.byteorder,
        **dict(zip(("paths", "stamps", "digests"), map(len, columns), strict=True)),
        "rules": listed.rules,
    }
    content = json.dumps(facts).encode() + b"\n" + zlib.compress(b"".join(columns), 1)
    try:
        write_atomically(_place(outputs, identity), content)
    except OSError as error:
        log.info("the list of %d input files cannot be kept (%s)", len(listed), error)
