"""The feature store: arrays on disk by identity, computed once and shared by all processes."""

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_transfer.features.array_file import Rows, Summary, opened, summarise, verified
from ssl_transfer.features.partial_array import (
    Compute,
    NotStored,
    PartialArray,
    claimed_by_all,
    collect,
)
from ssl_transfer.system import distributed
from ssl_transfer.system.files import discard

log = logging.getLogger(__name__)

PARTIAL = ".partial"
"""Suffix of the folder of an array that is not complete."""


class FeatureStore:
    """A store of arrays by their identity, one file each, shared by all runs and processes.

    A file that is damaged or has another identity is computed again. If the folder is not writable
    or the disk is full, an array that fits into memory is computed whenever it is needed.

    Args:
        folder: folder of the files; created with the first file.
        doubt: whether to verify the contents of every file once in this process, also if its stamp
            is unchanged.
    """

    def __init__(self, folder: Path, *, doubt: bool = False) -> None:
        self.folder, self.doubt = folder, doubt

    def path(self, identity: Mapping[str, Any]) -> Path:
        """Return the file of the array with this ``identity`` (plain JSON)."""
        text = json.dumps(identity, sort_keys=True)
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.npy"

    def get(
        self, identity: Mapping[str, Any], samples: int, compute: Compute
    ) -> tuple[Rows, Summary]:
        """Return the array with this identity, memory-mapped and read-only, and its summary.

        With several processes, all processes call this method, and each computes a share of the
        rows that are missing.

        Args:
            identity: everything that the values depend on, plain JSON.
            samples: number of rows.
            compute: computes the rows of given samples.

        Raises:
            OSError: if the array can neither be stored nor held in memory.
        """
        path = self.path(identity)
        stored = self._read_together(path, identity, samples)
        if stored is None and self._store(path, identity, samples, compute):
            stored = self._read_together(path, identity, samples)
        if stored is not None:
            return stored
        rows = collect(compute, samples)
        rows.setflags(write=False)
        return rows, summarise(rows)

    def _read_together(
        self, path: Path, identity: Mapping[str, Any], samples: int
    ) -> tuple[Rows, Summary] | None:
        """Return the array in an intact file, if all processes can read it."""
        stored = self._read(path, identity, samples) if distributed.is_main() else None
        if not distributed.broadcast_object(stored is not None):
            return None
        if stored is None:  # not the first process, whose verification left the stamp
            stored = self._read(path, identity, samples)
        return None if distributed.any_true(stored is None) else stored

    def _read(
        self, path: Path, identity: Mapping[str, Any], samples: int
    ) -> tuple[Rows, Summary] | None:
        """Return the array in an intact file with its summary."""
        try:
            rows, facts = opened(path)
            digest = facts.pop("sha256")
            if facts != json.loads(json.dumps(identity)):
                differing = sorted(key for key in identity if facts.get(key) != identity[key])
                raise ValueError(f"it holds other features ({', '.join(differing)})")
            if len(rows) != samples:
                raise ValueError(f"it has {len(rows)} rows for {samples} images")
            return rows, verified(path, rows, digest, doubt=self.doubt)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, EOFError, ValueError, KeyError) as error:
            log.warning("`%s` is damaged (%s) and will be computed again", path, error)
            return None

    def _store(
        self, path: Path, identity: Mapping[str, Any], samples: int, compute: Compute
    ) -> bool:
        """Compute the array into its file; return whether the file may be there now."""
        partial = PartialArray(path.with_suffix(PARTIAL), identity, samples)

        def finished() -> bool:
            return path.is_file() and self._read(path, identity, samples) is not None

        try:
            with claimed_by_all(partial.folder, finished) as ours:
                if ours:
                    partial.fill(compute)
                    if distributed.is_main():
                        discard(path)  # a damaged file
                        partial.complete(path)
                    distributed.barrier()
        except NotStored as error:
            if distributed.is_main():
                log.warning("features are not kept, and are computed whenever needed: %s", error)
            return False
        return True
