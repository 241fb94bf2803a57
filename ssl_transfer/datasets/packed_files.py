"""Files that hold many others: where the bytes of each lie, found once and then remembered."""

import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from ssl_transfer.system import inputs, lfs


@dataclasses.dataclass(frozen=True)
class Packed:
    """The files in a file.

    Args:
        path: the file.
        names: names of the files in it, in its order.
        spans: first byte and number of bytes of each.
        passed: number of its parts that are not read, such as links.
    """

    path: Path
    names: list[str]
    spans: list[tuple[int, int]]
    passed: int = 0

    def read(self, spans: list[tuple[int, int]]) -> Iterator[bytes]:
        """Yield the bytes of parts of the file."""
        with self.path.open("rb", buffering=0) as file:
            for start, size in spans:
                yield os.pread(file.fileno(), size, start)


def indexed(path: Path, kind: str, index: Callable[[Path], Packed]) -> Packed:
    """Return where the files in a file lie; kept in the user's cache folder until it changes.

    Args:
        path: the file.
        kind: names ``index`` and its version.
        index: finds them.
    """
    inputs.note_file(path)
    lfs.refuse_pointer(path)
    place = os.path.abspath(path)  # noqa: PTH100
    stamp = inputs.stamps_of([place])
    remembered = inputs.Remembered(kind, inputs.originals([place]), stamp, digests=0)
    known = remembered.get()
    if known is None:
        packed = index(path)
        known = {"names": packed.names, "spans": packed.spans, "passed": packed.passed}
        remembered.keep({"digests": b"", **known})
        return packed
    return Packed(
        path, known["names"], [(start, size) for start, size in known["spans"]], known["passed"]
    )
