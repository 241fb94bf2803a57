"""LMDB databases as they are: where the value of each key lies in ``data.mdb``.

The file is read without the library lmdb and is never written; no lock file is made. It is a tree
of pages: the format is that of ``struct MDB_page``, ``MDB_node``, ``MDB_db`` and ``MDB_meta`` in
https://github.com/LMDB/lmdb/blob/LMDB_0.9.31/libraries/liblmdb/mdb.c, version 1, as machines with
64 bits in little-endian order write it. A value that fits into no page lies in pages of its own,
one after another, so that each value is one part of the file.
"""

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path

from ssl_transfer.datasets.packed_files import Packed, indexed

FILE = "data.mdb"
_KIND = "values of an LMDB database, version 1"
_MAGIC, _VERSION = 0xBEEFC0DE, 1
_NO_PAGE = 2**64 - 1

_HEADER = struct.Struct("<QHHHH")  # number, padding, flags, end of the pointers, begin of the nodes
_META = struct.Struct("<IIQQ48s48sQQ")  # magic, version, address, size, two trees, last, change
_TREE = struct.Struct("<IHHQQQQQ")  # page size, flags, depth, three counts, entries, root
_NODE = struct.Struct("<HHHH")  # low and high half of the size, flags, length of the key
_BRANCH, _LEAF, _META_PAGE = 0x01, 0x02, 0x08  # flags of pages
_OWN_PAGES, _OTHER_KINDS = 0x01, 0x06  # flags of nodes: a large value; a tree, or several values
_SORTED_DUPLICATES = 0x04  # flag of a tree


def index(path: Path) -> Packed:
    """Return where the values of an LMDB database lie, by key.

    Args:
        path: the file ``data.mdb``.

    Raises:
        ValueError: if it is no such file, is truncated or damaged, or holds several values per key
            or several databases.
    """
    return indexed(path, _KIND, _indexed)


def _indexed(path: Path) -> Packed:
    try:
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            entries = list(_entries(content))
    except (OSError, ValueError, struct.error, IndexError) as error:
        raise ValueError(
            f"`{path}` must be a whole LMDB database with one value per key, but is not ({error}); "
            "copy it again."
        ) from error
    return Packed(path, [name for name, _ in entries], [span for _, span in entries])


def _entries(content: mmap.mmap) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield each key with the first byte and the number of bytes of its value."""
    page_size, root, count = _newest_tree(content)
    waiting = [] if root == _NO_PAGE else [root]
    seen = 0
    yielded = 0
    while waiting:
        page = waiting.pop() * page_size
        seen += 1
        if seen * page_size > len(content):
            raise ValueError("its pages form no tree")
        _, _, flags, end, _ = _HEADER.unpack_from(content, page)
        nodes = struct.unpack_from(f"<{(end - _HEADER.size) // 2}H", content, page + _HEADER.size)
        if flags & _BRANCH:
            waiting += [_child(content, page + node) for node in reversed(nodes)]
        elif flags & _LEAF:
            for node in nodes:
                yield _entry(content, page + node, page_size)
            yielded += len(nodes)
        else:
            raise ValueError(f"page {page // page_size} is no page of a tree")
    if yielded != count:
        raise ValueError(f"it states {count} entries, but has {yielded}")


def _newest_tree(content: mmap.mmap) -> tuple[int, int, int]:
    """Return the size of pages, and the root and the number of entries of the newest state."""
    page_size = 0
    newest = (-1, _NO_PAGE, 0)
    for number in range(2):
        start = number * page_size
        _, _, flags, _, _ = _HEADER.unpack_from(content, start)
        magic, version, _, _, free, main, _, change = _META.unpack_from(
            content, start + _HEADER.size
        )
        if not flags & _META_PAGE or magic != _MAGIC or version & 0xFFFF != _VERSION:
            raise ValueError("it does not begin as a database of LMDB 0.9")
        page_size = _TREE.unpack(free)[0]
        _, tree_flags, _, _, _, _, entries, root = _TREE.unpack(main)
        if tree_flags & _SORTED_DUPLICATES:
            raise ValueError("it has several values per key")
        newest = max(newest, (change, root, entries))
    return page_size, newest[1], newest[2]


def _child(content: mmap.mmap, node: int) -> int:
    low, high, top, _ = _NODE.unpack_from(content, node)
    return int(low | high << 16 | top << 32)


def _entry(content: mmap.mmap, node: int, page_size: int) -> tuple[str, tuple[int, int]]:
    low, high, flags, key_size = _NODE.unpack_from(content, node)
    start = node + _NODE.size
    key, size = content[start : start + key_size], low | high << 16
    name = key.decode("utf-8")
    start += key_size
    if flags & _OTHER_KINDS:
        raise ValueError(f"`{name}` is a database of its own, or has several values")
    if flags & _OWN_PAGES:
        (number,) = struct.unpack_from("<Q", content, start)
        start = number * page_size + _HEADER.size
    if start + size > len(content):
        raise ValueError("it ends too early")
    return name, (start, size)
