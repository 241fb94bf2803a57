"""What no run below an outputs folder needs any more, and what stays there.

Records, predictions, kept encoders and heads of finished runs always stay, and so does everything
of a run that a live process or job has claimed. A run that was interrupted keeps its checkpoint,
because the same command continues it. Only files that this project wrote are considered: the run id
in a record or failure must be that of its folder.
"""

import dataclasses
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from ssl_transfer.datasets.decoded import DATASET
from ssl_transfer.features.array_file import stamp_file, stored_identity
from ssl_transfer.features.statistics import statistics_identity
from ssl_transfer.features.store import PARTIAL
from ssl_transfer.runs import products
from ssl_transfer.runs.record import SCHEMA
from ssl_transfer.system import claims
from ssl_transfer.system.files import Unreadable, read_json

State = Literal["live", "waiting", "finished", "interrupted", "failed", "unreadable"]

QUIET_SECONDS = 3600.0
"""Age at which a temporary file belongs to no process that is still writing it."""

_NOT_RUNS = {"sweeps", "features", "decoded", ".cache"}
_RESUMING = ("checkpoint.pt", "progress.json")
_OF_RUNS = (products.RECORD, "failure.json", "metrics.jsonl", claims.NAME, *_RESUMING)
_TEMPORARY = re.compile(r"\.(?!claim\.).+\.[0-9a-f]{8}\.tmp")


@dataclasses.dataclass(frozen=True)
class Leftover:
    """Something that may be removed.

    Args:
        kind: what it is and why nobody needs it.
        paths: the files or folders.
        folder: the run's folder, which must not be claimed; None for shared files.
    """

    kind: str
    paths: tuple[Path, ...]
    folder: Path | None = None

    @property
    def size(self) -> int:
        """The number of bytes."""
        return sum(map(size_of, self.paths))


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The folder of a run.

    Args:
        path: the folder.
        state: ``live`` if a process or job has claimed it, ``waiting`` if a sweep with a live run
            contains it, ``finished`` with a record, ``failed`` with a failure only, ``interrupted``
            if the same command continues it, ``unreadable`` if its record or failure cannot be
            read.
        record: the record, if the run is finished.
        gave_up: whether the last attempt failed for a reason that lies in the run itself.
    """

    path: Path
    state: State
    record: dict[str, Any] | None = None
    gave_up: bool = False

    @property
    def weights_and_data(self) -> set[tuple[str, str]]:
        """The fingerprints of the weights that the run read, each with that of its data."""
        record = self.record or {}
        weights = [record.get("weights_sha256")]
        for key in ("members_sha256", "first_stage_sha256"):
            several = record.get(key)
            weights += several if isinstance(several, list) else []
        # Mean and covariance of whitened features may be those of a further data set.
        facts = [record.get("data"), record.get("statistics_of")]
        data = [part.get("fingerprint") for part in facts if isinstance(part, dict)]
        return {(str(one), str(other)) for one in weights for other in data}


@dataclasses.dataclass(frozen=True)
class Survey:
    """All leftovers below an outputs folder, and the rest.

    Args:
        runs: every run's folder.
        leftovers: what may be removed.
    """

    runs: list[RunFolder]
    leftovers: list[Leftover]

    def of(self, state: State) -> list[RunFolder]:
        """Return the runs in a state."""
        return [run for run in self.runs if run.state == state]


def survey(outputs: Path) -> Survey:
    """Return what lies below an outputs folder; nothing is changed."""
    runs = [look(folder) for folder in _run_folders(outputs)]
    live = {run.path for run in runs if run.state == "live"}
    waiting = set(_beside(outputs, live)) - live
    runs = [
        RunFolder(run.path, "waiting")
        if run.path in waiting and run.state in ("failed", "interrupted")
        else run
        for run in runs
    ]
    found = [part for run in runs for part in of_run(run)]
    if not live:  # a run that is working may use files that no record names yet
        finished = [run for run in runs if run.state == "finished"]
        read = set().union(*(run.weights_and_data for run in finished))
        found += _unused_features(outputs / "features", read)
        found += _unused_pixels(outputs / "decoded", {data[:32] for _, data in read})
        found += _abandoned_features(outputs / "features")
        for pattern in ("features/.*.tmp", "features/*/.*.tmp", "decoded/*/.*.tmp"):
            found += _unfinished(outputs.glob(pattern))
    return Survey(runs, found)


def look(folder: Path, *, is_claimed: bool = False) -> RunFolder:
    """Return the state of a run's folder.

    Args:
        folder: the folder.
        is_claimed: whether this process has claimed it, so that the claim says nothing.
    """
    if not is_claimed and claims.is_alive(folder / claims.NAME):
        return RunFolder(folder, "live")
    try:
        record, failure = _own(folder / products.RECORD), _own(folder / "failure.json")
    except Unreadable:
        return RunFolder(folder, "unreadable")
    gave_up = failure is not None and failure.get("stage") != "check"
    if record is not None and not products.is_half_replaced(folder):
        return RunFolder(folder, "finished", record, gave_up)
    # A full disk or a lost process is a failure that the same command resumes from.
    is_resumable = not gave_up and any((folder / name).exists() for name in _RESUMING)
    if record is not None or failure is None or is_resumable:
        return RunFolder(folder, "interrupted")
    return RunFolder(folder, "failed", gave_up=gave_up)


def of_run(run: RunFolder) -> Iterator[Leftover]:
    """Yield what may be removed of one run."""
    folder = run.path
    if run.state == "failed":
        resumable = any((folder / name).exists() for name in _RESUMING)
        rest = ", with progress that retry=true would resume" if resumable else ""
        yield Leftover(f"folders of failed runs{rest}", (folder,), folder)
        return
    if run.state == "finished":
        paths = [folder / name for name in _RESUMING if (folder / name).exists()]
        if paths:
            yield Leftover("checkpoints of finished runs", tuple(paths), folder)
        again = [folder / name for name in ("failure.json", products.ANEW)]
        paths = [path for path in again if path.exists()]
        if paths and run.gave_up:
            kind = "repetitions of finished runs that failed"
            yield Leftover(kind, tuple(paths), folder)
    if run.state in ("finished", "interrupted"):
        yield from _unfinished(folder.glob(".*.tmp"), folder)


def _run_folders(outputs: Path) -> Iterator[Path]:
    for protocol in sorted(os.scandir(outputs), key=lambda entry: entry.name):
        if protocol.is_dir(follow_symlinks=False) and protocol.name not in _NOT_RUNS:
            for run in sorted(os.scandir(protocol), key=lambda entry: entry.name):
                if run.is_dir(follow_symlinks=False) and any(
                    (Path(run) / name).exists() for name in _OF_RUNS
                ):
                    yield Path(run)


def _own(path: Path) -> dict[str, Any] | None:
    """Return the record or failure at a path; None if there is none.

    Raises:
        Unreadable: if it is damaged or belongs to another folder, e.g. of another program.
    """
    document = read_json(path, schema=SCHEMA)
    if document is not None:
        identifier = document.get("run_id")
        if not isinstance(identifier, str) or not path.parent.name.endswith(f"_{identifier[:8]}"):
            raise Unreadable(f"`{path}` does not belong to its folder")
    return document


def _beside(outputs: Path, live: set[Path]) -> Iterator[Path]:
    """Yield the folders of all runs of the sweeps that have a live run."""
    for path in outputs.glob("sweeps/*/sweep.json") if live else ():
        try:
            facts = json.loads(path.read_bytes())
            places = {outputs / place for place in (*facts["folders"], *facts["required"].values())}
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            continue
        if places & live:
            yield from places


def _unfinished(paths: Iterator[Path], folder: Path | None = None) -> Iterator[Leftover]:
    """Yield the temporary files that nobody has written to for a long time."""
    for path in sorted(paths):
        if _TEMPORARY.fullmatch(path.name) and _age(path) > QUIET_SECONDS:
            yield Leftover("incomplete files of processes that were killed", (path,), folder)


def _age(path: Path) -> float:
    try:
        return time.time() - path.lstat().st_mtime
    except OSError:
        return 0.0


def _unused_pixels(stores: Path, used: set[str]) -> Iterator[Leftover]:
    """Yield the stores of decoded images all of whose data sets are in no record."""
    for store in sorted(path for path in stores.glob("*") if (path / "pixels").is_file()):
        names = [path.name.removeprefix(DATASET) for path in store.glob(f"{DATASET}*")]
        if names and not used & set(names) and not claims.is_alive(store / claims.NAME):
            yield Leftover("decoded images of data that no record names", (store,))


def _abandoned_features(store: Path) -> Iterator[Leftover]:
    """Yield the features whose extraction was interrupted and has not gone on for a long time."""
    for folder in sorted(store.glob(f"*{PARTIAL}")):
        newest = min((_age(path) for path in folder.glob("*")), default=_age(folder))
        if newest > QUIET_SECONDS and not claims.is_alive(folder / claims.NAME):
            yield Leftover("incomplete features of processes that were killed", (folder,))


def _unused_features(store: Path, used: set[tuple[str, str]]) -> Iterator[Leftover]:
    """Yield the stored features, and their statistics, of no record's weights and data."""
    identities = {path: _identity(path, stored_identity) for path in store.glob("*.npy")}
    statistics = store.glob("statistics/*.npz")
    identities |= {path: _identity(path, statistics_identity) for path in statistics}
    for path, identity in sorted(identities.items()):
        if identity is not None and (str(identity["weights"]), str(identity["data"])) not in used:
            paths = [file for file in (path, stamp_file(path)) if file.exists()]
            yield Leftover("features of weights and data that no record names", tuple(paths))


def _identity(path: Path, read: Callable[[Path], dict[str, Any]]) -> dict[str, Any] | None:
    """Return the identity in a file of the feature store; None if it is no such file."""
    try:
        identity = read(path)
    except (OSError, ValueError, TypeError, EOFError, RecursionError):
        return None
    return identity if {"weights", "data"} <= identity.keys() else None


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder; what has gone counts as nothing."""
    if path.is_symlink() or not path.is_dir():
        return _file_size(path)
    return sum(_file_size(file) for file in path.rglob("*") if not file.is_dir())


def _file_size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0
