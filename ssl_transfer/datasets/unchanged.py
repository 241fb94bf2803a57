"""Comparison of image files with what was known of them when their data set was built.

The stamps of files in unchanged folders are taken from an earlier run (see
``ssl_transfer.system.known_folders``), so that a file that was overwritten in place is only noticed
when it is read, or when results that were computed from it are about to be used in its place.
"""

import contextlib
import mmap
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from ssl_transfer.system import known_folders, stamps
from ssl_transfer.system.stamps import Stamp

Digests = UInt8[np.ndarray, "_ 16"]
"""Hash of each file's content (see ``stamps.of_bytes``), or of its stamp."""

Numbers = Int64[np.ndarray, "_ 4"]
"""Stamp of each file (see ``stamps.Stamp``)."""


class Known:
    """What is known of image files; processes that are forked share which of them were compared.

    Args:
        numbers: stamp of each file.
        digests: what identifies each file.
        root: the folder whose list is removed if a file has changed (see ``known_folders.forget``).
        by_content: whether ``digests`` are hashes of contents; otherwise a file has also changed if
            only its times have.
    """

    def __init__(self, numbers: Numbers, digests: Digests, root: str, *, by_content: bool) -> None:
        self.numbers, self.digests, self.root = numbers, digests, root
        self.by_content = by_content
        self._compared = mmap.mmap(-1, max(1, len(numbers)))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_compared": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._compared = mmap.mmap(-1, max(1, len(self.numbers)))

    def require(self, index: int, path: str, status: os.stat_result, content: bytes) -> None:
        """Compare a file that was just read.

        Args:
            index: its row.
            path: where it lies.
            status: from after it was read.
            content: all bytes of the file.

        Raises:
            OSError: if it has changed.
        """
        if stamps.of(status) != tuple(self.numbers[index].tolist()):
            self._refuse_unless(stamps.of_bytes(content), index, path)
        self._compared[index] = 1

    def require_unread(self, index: int, path: str) -> None:
        """Compare a file in whose place its decoded pixels are used, once in this process.

        Raises:
            OSError: if it has changed, or is missing.
        """
        if self._compared[index]:
            return
        if stamps.stamp(path) != Stamp(*self.numbers[index].tolist()):
            self._refuse_unless(stamps.of_file(path), index, path)
        self._compared[index] = 1

    def require_all(self, paths: Sequence[str]) -> None:
        """Compare all files, in whose place features are used, once in this process.

        Raises:
            OSError: naming a file that has changed, or is missing.
        """
        if self._compared.find(b"\0", 0, len(self.numbers)) == -1:
            return
        for index, path in enumerate(paths):
            self.require_unread(index, path)

    def _refuse_unless(self, digest: bytes, index: int, path: str) -> None:
        """Raise OSError if a file with another stamp does not have its known content.

        It is no ValueError, so that the run is tried again without ``retry=true``.
        """
        if self.by_content and self.digests[index].tobytes() == digest:
            return
        with contextlib.suppress(OSError):
            known_folders.forget(self.root)
        raise OSError(
            f"`{path}` must stay as it was when its data set was listed, but was changed in place; "
            "the same command lists all files again and reads the new ones."
        )
