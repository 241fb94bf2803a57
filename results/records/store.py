"""The records and failures in the folders of runs, of which unchanged ones are not read again."""

import contextlib
import functools
import hashlib
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from results.errors import ResultsError
from results.records.columns import Entry, Stamp, Unusable, pack, unpack
from results.records.descriptions import Metric, Run, run_of
from results.records.finished_records import FinishedRecords
from results.records.validity import require_valid

CACHE = ".runs.cache"
"""File in an outputs folder with what was read of its runs."""
_FILES = ("record.json", "failure.json")
_WORTH_KEEPING = 200
"""Number of files read anew from which the cache is written."""
_WORTH_A_PROCESS = 5000
"""Number of files to read from which a second process, which needs 0.1 s to start, saves time."""
SETTLED_NS = 2_000_000_000
"""Age of a file from which a further change has another time in the coarsest file systems."""


def read_runs(
    outputs: Path, places: Iterable[str] | None = None, files: "Files | None" = None
) -> tuple[list[Run], list[str]]:
    """Return the runs below an outputs folder, and a sentence for each unusable file.

    Args:
        outputs: the folder that runs write to.
        places: folders of runs relative to ``outputs``; None reads all.
        files: what ``stamps_of`` returned a moment ago, which saves asking again.
    """
    base = str(outputs)
    known = {} if places is not None else _cached(outputs)
    if files is None:
        files = stamps_of(outputs) if places is None else list(_stamped(base, places))
    changed = [
        (file, stamp)
        for file, stamp in files
        if (entry := known.get(file)) is None or entry.stamp != stamp
    ]
    fresh, faults = _read_all(base, changed)
    problems = [faults[file] for file, _ in files if file in faults]
    entries = [
        entry
        for file, stamp in files
        if (entry := fresh.get(file) or known.get(file)) is not None and file not in faults
    ]
    if places is None and len(fresh) >= _WORTH_KEEPING:
        _keep(outputs, entries)
    return [entry.run for entry in entries], problems


def _places(outputs: str) -> Iterator[str]:
    """Yield the folder of every run, relative to the outputs folder, in alphabetical order."""
    for protocol in sorted(os.scandir(outputs), key=lambda entry: entry.name):
        if protocol.is_dir() and protocol.name != "sweeps":
            with os.scandir(protocol) as runs:
                names = sorted(run.name for run in runs if run.is_dir())
            yield from (f"{protocol.name}/{name}" for name in names)


def _stamped(outputs: str, places: Iterable[str]) -> Iterator[tuple[str, Stamp]]:
    """Yield the record, else the failure, of each folder that has one, with its stamp."""
    for place in places:
        for name in _FILES:
            file = f"{place}/{name}"
            try:
                stat = os.stat(f"{outputs}/{file}")  # noqa: PTH116 - Path costs more than the call
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError:
                yield file, (-1, 0, 0, 0)  # reading it names the reason
                break
            yield file, (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
            break


Files = Sequence[tuple[str, Stamp]]
"""Records or failures, relative to an outputs folder, with their stamps."""


def stamps_of(outputs: Path) -> Files:
    """Return the record, else the failure, of each run below an outputs folder, with its stamp."""
    return list(_stamped(str(outputs), _places(str(outputs))))


def _read_all(outputs: str, files: Files) -> tuple[dict[str, Entry], dict[str, str]]:
    """Return the entries of files, and a sentence for each unusable one."""
    if len(files) < _WORTH_A_PROCESS or (os.cpu_count() or 1) < 2:
        return _read(outputs, files)
    half = len(files) // 2
    with _Helper(outputs, files[half:]) as helper:
        entries, problems = _read(outputs, files[:half])
        others, further = helper.result()
    return {**entries, **others}, {**problems, **further}


def _read(outputs: str, files: Files) -> tuple[dict[str, Entry], dict[str, str]]:
    reader = FinishedRecords()
    entries, problems = {}, {}
    for file, stamp in files:
        folder = f"{outputs}/{file.rpartition('/')[0]}"
        run = None
        if file.endswith(_FILES[0]) and stamp[0] > 0:
            content = _content(f"{outputs}/{file}", stamp[0])
            run = reader.read(content, folder)
        if run is None:
            try:
                document = load_document(Path(folder))
            except ResultsError as error:
                problems[file] = str(error)
                continue
            if document is None:  # it was removed in the meantime
                continue
            run = run_of(document, folder)
            run = run._replace(description=reader.share(run.description))
        entries[file] = Entry(file, stamp, run)
    return entries, problems


def _content(path: str, size: int) -> bytes:
    """Return the content of a file of known size; nothing if it cannot be read or is longer."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return b""
    try:
        content = os.read(descriptor, size + 1)
    except OSError:
        return b""
    finally:
        os.close(descriptor)
    return content if len(content) == size else b""


class _Helper:
    """Another process that reads a part of the files.

    It exchanges bytes by pipes. Unlike ``multiprocessing`` it neither copies this process nor
    imports its main module, so a script needs no protection against that.
    """

    def __init__(self, outputs: str, files: Files) -> None:
        self._outputs, self._files = outputs, files
        root = str(Path(__file__).resolve().parents[2])
        code = (
            "import sys; sys.path.insert(0, sys.argv[1]); "
            "from results.records.store import help_reading; help_reading(sys.argv[2])"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, root, outputs],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def __enter__(self) -> "_Helper":
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError), self._process.stdin as pipe:
            pipe.write(json.dumps(self._files).encode())
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def result(self) -> tuple[dict[str, Entry], dict[str, str]]:
        """Return what the process has read; if it failed, read the files here."""
        assert self._process.stdout is not None
        with self._process.stdout as pipe:
            answer = pipe.read()
        length = int.from_bytes(answer[:8], "little")
        try:
            entries = unpack(answer[8 + length :], self._outputs)
            problems = json.loads(answer[8 : 8 + length])
        except ValueError:
            return _read(self._outputs, self._files)
        return {entry.file: entry for entry in entries}, problems


def help_reading(outputs: str) -> None:
    """Read the files that the standard input names, and write them to the standard output."""
    files = [(file, tuple(stamp)) for file, stamp in json.load(sys.stdin.buffer)]
    entries, problems = _read(outputs, files)
    text = json.dumps(problems).encode()
    block = pack(list(entries.values()))
    sys.stdout.buffer.write(b"".join([len(text).to_bytes(8, "little"), text, block]))


def caches_of(outputs: Path, file: str) -> list[Path]:
    """Return the places of a cache: the outputs folder, else a folder of the user."""
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = hashlib.sha256(str(outputs.resolve()).encode()).hexdigest()[:32]
    return [outputs / file, user / "ssl_transfer" / "runs" / f"{name}{file}"]


def _cached(outputs: Path) -> dict[str, Entry]:
    """Return the entries of the cache by file; nothing if there is none that can be used."""
    for path in caches_of(outputs, CACHE):
        try:
            entries = unpack(path.read_bytes(), str(outputs))
        except (OSError, Unusable):
            continue
        return {entry.file: entry for entry in entries}
    return {}


def _keep(outputs: Path, entries: Sequence[Entry]) -> None:
    """Write the cache atomically, where that is possible."""
    # A file that was changed a moment ago may be changed again without getting another time.
    latest = time.time_ns() - SETTLED_NS
    block = pack([entry for entry in entries if max(entry.stamp[1:3]) < latest])
    write_cache(outputs, CACHE, block)


def write_cache(outputs: Path, file: str, block: bytes) -> None:
    """Write a cache atomically to the first of its places that takes it; else to none."""
    for path in caches_of(outputs, file):
        temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            if path.parent != outputs:
                path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(block)
            temporary.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            continue
        return


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


KEPT = 8192
"""Number of documents in memory: a report asks several times for those of all its runs."""


class Documents(Mapping[str, Mapping[str, Any]]):
    """Run id -> its record or failure, which is read when it is asked for.

    Args:
        runs: the runs by id.

    Raises:
        ResultsError: on access, if the file was damaged or replaced in the meantime.
    """

    def __init__(self, runs: Mapping[str, Run]) -> None:
        self._runs = runs
        self._read = functools.lru_cache(maxsize=KEPT)(self._load)

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
            content = path.read_bytes()
            document = json.loads(content)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (ValueError, OSError, RecursionError) as error:
            raise ResultsError(f"`{path}` was skipped: it is damaged ({error}).") from error
        require_valid(document, content, path)
        return dict(document)
    return None
