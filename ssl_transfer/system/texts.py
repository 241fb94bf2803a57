"""Many texts in one block of memory: a million paths as objects would take 150 MB per process."""

import itertools
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np
from jaxtyping import Int64

_ERRORS = "surrogateescape"  # names of files need not be valid UTF-8
_BLOCK = 4096  # texts that are objects at once


class Texts(Sequence[str]):
    """A sequence of texts that are stored in one ``bytes`` object.

    A process that is forked shares the memory, because reading a text changes no reference count
    inside of it. A selection shares the memory of the whole.

    Args:
        data: all texts in UTF-8, without zero bytes; usually a zero byte follows each text.
        starts: first byte of each text in ``data``.
        ends: end of each text in ``data``.
        prefix: common beginning of all texts, which ``data`` does not contain.
    """

    def __init__(
        self,
        data: bytes,
        starts: Int64[np.ndarray, " texts"],
        ends: Int64[np.ndarray, " texts"],
        prefix: str = "",
    ) -> None:
        self.data, self.starts, self.ends, self.prefix = data, starts, ends, prefix

    @classmethod
    def of(cls, texts: Iterable[str], prefix: str = "") -> "Texts":
        """Return these texts, each of them after ``prefix``."""
        data, sizes = bytearray(), array("q")
        texts_left = iter(texts)
        while some := list(itertools.islice(texts_left, _BLOCK)):
            block = "".join(f"{text}\0" for text in some).encode(errors=_ERRORS)
            sizes.extend(map(len, some if block.isascii() else block.split(b"\0")[:-1]))
            data += block
        ends = np.cumsum(np.array(sizes, np.int64) + 1)
        starts = np.concatenate([np.zeros(1, np.int64), ends[:-1]])[: len(ends)]
        return cls(bytes(data), starts, ends - 1, prefix)

    @classmethod
    def joined(cls, tables: Sequence["Texts"], prefix: str = "") -> "Texts":
        """Return the texts of several tables without their own prefixes, after a common one."""
        blocks = {id(table.data): table.data for table in tables}
        sizes = itertools.accumulate(map(len, blocks.values()), initial=0)
        offset = dict(zip(blocks, sizes, strict=False))
        data = tables[0].data if len(blocks) == 1 else b"".join(blocks.values())
        parts = [np.stack([t.starts, t.ends]) + offset[id(t.data)] for t in tables]
        starts, ends = np.concatenate([np.zeros((2, 0), np.int64), *parts], axis=1)
        return cls(data, starts, ends, prefix)

    def __len__(self) -> int:
        return len(self.starts)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> "Texts": ...
    def __getitem__(self, index: int | slice) -> "str | Texts":
        if isinstance(index, slice):
            return Texts(self.data, self.starts[index], self.ends[index], self.prefix)
        start, end = int(self.starts[index]), int(self.ends[index])
        return self.prefix + self.data[start:end].decode(errors=_ERRORS)

    def __iter__(self) -> Iterator[str]:
        for part in range(0, len(self), _BLOCK):  # a list of all texts would take 100 MB
            starts, ends = (column[part : part + _BLOCK] for column in (self.starts, self.ends))
            if (starts[1:] == ends[:-1] + 1).all():  # in one piece: four times as fast
                block = self.data[starts[0] : ends[-1]].decode(errors=_ERRORS).split("\0")
            else:
                bounds = zip(starts.tolist(), ends.tolist(), strict=True)
                block = [self.data[start:end].decode(errors=_ERRORS) for start, end in bounds]
            yield from map(self.prefix.__add__, block) if self.prefix else block

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str | bytes):
            return NotImplemented
        return len(self) == len(other) and all(map(str.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, itertools.islice(self, 3)))
        return f"<{len(self)} texts: {shown}{', …' * (len(self) > 3)}>"

    def pick(self, indices: Int64[np.ndarray, " picked"]) -> "Texts":
        """Return the texts at ``indices``."""
        return Texts(self.data, self.starts[indices], self.ends[indices], self.prefix)

    def after(self, prefix: str) -> "Texts":
        """Return the same texts with another common beginning."""
        return Texts(self.data, self.starts, self.ends, prefix)


def pick(texts: Sequence[str], indices: Int64[np.ndarray, " picked"]) -> Sequence[str]:
    """Return the texts at ``indices``, of any sequence."""
    if isinstance(texts, Texts):
        return texts.pick(indices)
    return [texts[index] for index in indices.tolist()]


def joined(parts: Sequence[Sequence[str]]) -> Sequence[str]:
    """Return the texts of several sequences, one after the other."""
    tables = [part for part in parts if isinstance(part, Texts)]
    if len(tables) < len(parts) or not tables:
        return [text for part in parts for text in part]
    if len({table.prefix for table in tables}) == 1:
        return Texts.joined(tables, tables[0].prefix)
    common = os.path.commonprefix([table.prefix for table in tables])  # noqa: RUF071 - cut below
    folder = common[: common.rfind(os.sep) + 1]
    return Texts.of((text[len(folder) :] for table in tables for text in table), folder)


def pieces(texts: Sequence[str], separator: str) -> Iterator[str]:
    """Yield the pieces of ``separator.join(texts)``, so that the whole never is in memory."""
    begun = False
    texts_left = iter(texts)
    while some := list(itertools.islice(texts_left, _BLOCK)):
        yield separator * begun + separator.join(some)
        begun = True
