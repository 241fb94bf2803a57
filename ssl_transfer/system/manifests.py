"""Lists of input files, stored once for all runs that read them, and compared with the disk.

<outputs>/inputs/<32 hex>    a list: one line of JSON, then its columns, compressed

The hex digits are a hash of paths and contents. The file also holds the stamps. If only stamps
changed, they are updated, so that copied or restored files are read only once more.
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
_HERE = "." + os.sep  # prefix of paths inside the outputs folder, which may be moved
_NUMBERS = 4  # per stamp


def save(inputs: Inputs, outputs: Path) -> str:
    """Write a list unless it exists with the same stamps; return its identity.

    If it cannot be written, that is logged and the run continues; its inputs are then not compared
    later.

    Args:
        inputs: the files.
        outputs: absolute folder of all runs.
    """
    stored = load(inputs.identity, outputs)
    if stored is None or stored.all_stamps() != inputs.all_stamps():
        _write(inputs, outputs, inputs.identity)
    return inputs.identity


def load(identity: str, outputs: Path) -> Inputs | None:
    """Return a list; None if it is missing or damaged."""
    path = _place(outputs, identity)
    try:
        head, _, body = path.read_bytes().partition(b"\n")
        facts = json.loads(head)
        columns = zlib.decompress(body)
        lengths = [facts["paths"], facts["stamps"], facts["digests"]]
        if sum(lengths) != len(columns):
            raise ValueError("a part is missing")
        names, numbers = columns[: lengths[0]], columns[lengths[0] : lengths[0] + lengths[1]]
        stamps_read = array("q", numbers)
        if facts["byteorder"] != sys.byteorder:
            stamps_read.byteswap()
        inputs = Inputs({int(row): tuple(rule) for row, rule in facts["rules"].items()})
        paths = [_absolute(name, outputs) for name in os.fsdecode(names).split("\0")]
        inputs.add_files(paths, stamps_read.tobytes(), columns[sum(lengths[:2]) :])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zlib.error) as error:
        log.warning("`%s` is damaged (%s); what it lists is not compared", path, error)
        return None
    return inputs


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
            inputs = load(identity, self.outputs)
            comparison = Comparison(unreachable=True) if inputs is None else self._compare(inputs)
            self.known[identity] = comparison
        return self.known[identity]

    def _compare(self, inputs: Inputs) -> Comparison:
        comparison, seen, numbers = Comparison(), self.seen, inputs.stamps
        differing, files = [], 0
        for row, path in enumerate(inputs.paths):
            if path not in seen:
                try:
                    seen[path] = stamps.stamp(path)
                except (FileNotFoundError, NotADirectoryError):
                    seen[path] = None
                except OSError as error:  # no permission, or a server that does not answer
                    log.debug("%s", error)
                    return Comparison(unreachable=True)
            now, start = seen[path], _NUMBERS * row
            if now is None:
                if inputs.digest_of(row) != ABSENT:
                    comparison.gone.append(path)
                continue
            files += row not in inputs.rules
            if (
                numbers[start + 3] != now.inode
                or numbers[start + 2] != now.changed
                or numbers[start] != now.size
                or numbers[start + 1] != now.modified
            ):
                differing.append(row)
        if not files and comparison.gone:  # only empty folders: the disk is not mounted
            return Comparison(unreachable=True)
        self._look_into(inputs, differing, comparison)
        return comparison

    def _look_into(self, inputs: Inputs, rows: Sequence[int], comparison: Comparison) -> None:
        """Read the files with other stamps; update the list if only their stamps changed."""
        with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
            digests = list(pool.map(lambda row: _content(inputs, row), rows))
        for row, digest in zip(rows, digests, strict=True):
            path = inputs.paths[row]
            if digest != inputs.digest_of(row):
                comparison.changed.append(path)
            elif (now := self.seen[path]) is not None:
                inputs.stamps[_NUMBERS * row : _NUMBERS * (row + 1)] = array("q", now)
        if rows and not comparison.changed:
            _write(inputs, self.outputs, inputs.identity)


def _content(inputs: Inputs, row: int) -> bytes:
    """Return the hash of a row's present content; ``UNSETTLED`` if it cannot be read."""
    path = inputs.paths[row]
    try:
        if row in inputs.rules:
            return stamps.of_folder(path, inputs.rules[row])
        return stamps.of_file(path)
    except OSError as error:
        log.debug("%s", error)
        return UNSETTLED


def _place(outputs: Path, identity: str) -> Path:
    return outputs / FOLDER / identity


def _absolute(name: str, outputs: Path) -> str:
    return str(outputs / name) if name.startswith(_HERE) else name


def _write(inputs: Inputs, outputs: Path, identity: str) -> None:
    base = f"{outputs}{os.sep}"
    names = [
        _HERE + path.removeprefix(base) if path.startswith(base) else path for path in inputs.paths
    ]
    columns = [os.fsencode("\0".join(names)), inputs.stamps.tobytes(), bytes(inputs.digests)]
    facts = {
        "schema": 1,
        "files": len(inputs),
        "byteorder": sys.byteorder,
        **dict(zip(("paths", "stamps", "digests"), map(len, columns), strict=True)),
        "rules": inputs.rules,
    }
    content = json.dumps(facts).encode() + b"\n" + zlib.compress(b"".join(columns), 1)
    try:
        write_atomically(_place(outputs, identity), content)
    except OSError as error:
        log.info("the list of %d input files cannot be kept (%s)", len(inputs), error)
