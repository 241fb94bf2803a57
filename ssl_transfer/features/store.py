"""The feature store: arrays on disk by identity, computed once and shared by all processes."""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ssl_transfer.features.array_file import (
    EXTRACTION,
    Rows,
    Summary,
    opened,
    summarise,
    verified,
)
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

Use = dict[str, Any]
"""What a run's use of an array cost, in seconds of wall time times processes.

``key`` identifies the array and ``images`` is its number of rows. ``seconds`` is the cost of its
extraction, by whichever run, on the kind of ``device`` that is called ``device_name``; None if
unknown. ``spent`` is what the present run spent on getting the array: extraction, waiting for
another run, and reading.
``reused`` says whether the array was there before.
"""


class FeatureStore:
    """A store of arrays by their identity, one file each, shared by all runs and processes.

    A file that is damaged or has another identity is computed again. If the folder is not writable
    or the disk is full, an array that fits into memory is computed whenever it is needed.

    Args:
        folder: folder of the files; created with the first file.
        doubt: whether to verify the contents of every file once in this process, also if its stamp
            is unchanged.
        device: kind of device that computes the arrays.
        device_name: name of that processor or card (``None``: unknown).
        note: called with the cost of each use of an array.
    """

    def __init__(
        self,
        folder: Path,
        *,
        doubt: bool = False,
        device: str = "cpu",
        device_name: str | None = None,
        note: Callable[[Use], object] = lambda use: None,
    ) -> None:
        self.folder, self.doubt, self.note = folder, doubt, note
        self.device, self.device_name = device, device_name

    def path(self, identity: Mapping[str, Any]) -> Path:
        """Return the file of the array with this ``identity`` (plain JSON)."""
        text = json.dumps(identity, sort_keys=True)
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.npy"

    def note_use_of(self, identity: Mapping[str, Any], samples: int) -> None:
        """Note that a run uses what was computed from an array earlier, without reading it."""
        self._note(self.path(identity), samples, self._extraction(self.path(identity)), 0.0)

    def _note(
        self, path: Path, samples: int, extraction: Mapping[str, Any], spent: float,
        *, reused: bool = True,
    ) -> None:  # fmt: skip
        cost = {key: extraction.get(key) for key in ("seconds", "device", "device_name")}
        spent = round(spent * distributed.world_size(), 3)
        self.note({"key": path.stem, "images": samples, **cost, "spent": spent, "reused": reused})

    def _extraction(self, path: Path) -> Mapping[str, Any]:
        """Return what the extraction of a stored array cost; {} if it is unknown."""
        try:
            return dict(opened(path)[1].get(EXTRACTION) or {})
        except (OSError, EOFError, ValueError, TypeError):
            return {}

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
        path, began = self.path(identity), time.monotonic()
        stored = self._read_together(path, identity, samples)
        reused = stored is not None
        if stored is None and (extraction := self._store(path, identity, samples, compute)):
            stored = self._read_together(path, identity, samples)
            reused = "device" not in extraction
        if stored is not None:
            spent = time.monotonic() - began
            self._note(path, samples, self._extraction(path), spent, reused=reused)
            return stored
        start = time.monotonic()
        rows = collect(compute, samples)
        extraction = self._cost(time.monotonic() - start)
        self._note(path, samples, extraction, time.monotonic() - began, reused=False)
        rows.setflags(write=False)
        return rows, summarise(rows)

    def _cost(self, seconds: float | None) -> dict[str, Any]:
        """Return the cost of an extraction that all processes worked on for so long."""
        total = None if seconds is None else round(seconds * distributed.world_size(), 3)
        return {"seconds": total, "device": self.device, "device_name": self.device_name}

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
            facts.pop(EXTRACTION, None)
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
    ) -> dict[str, Any]:
        """Compute the array into its file, unless another run does.

        Returns:
            What it cost this run; ``{"waited": True}`` if another run computed it; {} if there is
            no file.
        """
        partial = PartialArray(path.with_suffix(PARTIAL), identity, samples)

        def finished() -> bool:
            return path.is_file() and self._read(path, identity, samples) is not None

        extraction: dict[str, Any] = {"waited": True}
        try:
            with claimed_by_all(partial.folder, finished) as ours:
                if ours:
                    start = time.monotonic()
                    computed = partial.fill(compute)
                    # Nobody knows how long an extraction took that was interrupted.
                    whole = computed == samples
                    extraction = self._cost(time.monotonic() - start if whole else None)
                    if distributed.is_main():
                        discard(path)  # a damaged file
                        partial.complete(path, extraction)
                    distributed.barrier()
        except NotStored as error:
            if distributed.is_main():
                log.warning("features are not kept, and are computed whenever needed: %s", error)
            return {}
        return extraction
