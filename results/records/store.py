"""The records and failures in the folders of runs."""

import functools
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from results.errors import ResultsError
from results.records.descriptions import Metric, Run, run_of
from results.records.validity import require_valid


def read_runs(outputs: Path, places: Iterable[str] | None = None) -> tuple[list[Run], list[str]]:
    """Return the runs below an outputs folder, and a sentence for each unusable file.

    Args:
        outputs: the folder that runs write to.
        places: folders of runs relative to ``outputs``; None reads all.
    """
    runs, problems = [], []
    folders = all_folders(outputs) if places is None else (outputs / place for place in places)
    for folder in folders:
        try:
            document = load_document(folder)
        except ResultsError as error:
            problems.append(str(error))
            continue
        if document is not None:
            runs.append(run_of(document, str(folder)))
    return runs, problems


def merged(runs: Iterable[Run]) -> tuple[list[Run], list[str]]:
    """Return every run once, and a sentence for each folder that contradicts another one.

    Of several folders with the same run, a finished one has priority, then the latest, then the
    first. Folders with equal scores are copies and do not contradict each other.
    """
    by_id: dict[str, Run] = {}
    problems = []
    for run in runs:
        other = by_id.setdefault(run.run_id, run)
        if other is run:
            continue
        kept, dropped = (run, other) if _priority(run) > _priority(other) else (other, run)
        by_id[run.run_id] = kept
        if _finished(run) and _finished(other) and _scores(run) != _scores(other):
            problems.append(
                f"`{dropped.folder}` was skipped: `{kept.folder}` holds the same run with other "
                "scores; remove one of them."
            )
    return list(by_id.values()), problems


def _finished(run: Run) -> bool:
    return run.description.status == "finished"


def _priority(run: Run) -> tuple[bool, str]:
    return _finished(run), run.started


def _scores(run: Run) -> dict[Metric, str]:
    """Return the scores of a run as texts, which are equal for NaN, too."""
    return {one: repr(value) for one, value in zip(run.metrics, run.values, strict=True)}


class Documents(Mapping[str, Mapping[str, Any]]):
    """Run id -> its record or failure, which is read when it is asked for.

    Args:
        runs: the runs by id.

    Raises:
        ResultsError: on access, if the file was damaged or replaced in the meantime.
    """

    def __init__(self, runs: Mapping[str, Run]) -> None:
        self._runs = runs
        self._read = functools.lru_cache(maxsize=256)(self._load)

    def __getitem__(self, run_id: str) -> Mapping[str, Any]:
        return self._read(run_id)

    def __contains__(self, run_id: object) -> bool:
        return run_id in self._runs

    def __iter__(self) -> Iterator[str]:
        return iter(self._runs)

    def __len__(self) -> int:
        return len(self._runs)

    def _load(self, run_id: str) -> Mapping[str, Any]:
        folder = Path(self._runs[run_id].folder)
        document = load_document(folder)
        if document is None or document["run_id"] != run_id:
            raise ResultsError(
                f"`{folder}` must hold run {run_id}, but its files were replaced while they were "
                "read; start the command again."
            )
        return document


class Folders(Mapping[str, Path]):
    """Run id -> the folder of its files."""

    def __init__(self, runs: Mapping[str, Run]) -> None:
        self._runs = runs

    def __getitem__(self, run_id: str) -> Path:
        return Path(self._runs[run_id].folder)

    def __iter__(self) -> Iterator[str]:
        return iter(self._runs)

    def __len__(self) -> int:
        return len(self._runs)


def all_folders(outputs: Path) -> Iterator[Path]:
    """Yield the folder of every run below an outputs folder, in alphabetical order."""
    for protocol in sorted(os.scandir(outputs), key=lambda entry: entry.name):
        if protocol.is_dir() and protocol.name != "sweeps":
            for run in sorted(os.scandir(protocol), key=lambda entry: entry.name):
                if run.is_dir():
                    yield Path(run)


def load_document(folder: Path) -> dict[str, Any] | None:
    """Return a folder's record, else its failure, else None.

    Raises:
        ResultsError: if the file is damaged or newer than this code.
    """
    for name in ("record.json", "failure.json"):
        path = folder / name
        try:
            document = json.loads(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (ValueError, OSError, RecursionError) as error:
            raise ResultsError(f"`{path}` was skipped: it is damaged ({error}).") from error
        require_valid(document, path)
        return dict(document)
    return None
