"""Lists and removes what no run needs any more below an outputs folder.

Records, predictions, kept encoders and heads of finished runs are never removed, and nothing of a
run that a live process or job has claimed. Runs that were interrupted keep their checkpoints: the
same command continues them.
"""

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from launchers.sweep import count, say
from ssl_transfer.datasets.decoded import DATASET
from ssl_transfer.system import claims

_NOT_RUNS = {"sweeps", "features", "decoded", ".cache"}
_RESUMING = ("checkpoint.pt", "progress.json", "failure.json")


@dataclasses.dataclass(frozen=True)
class Leftover:
    """Something that may be removed.

    Args:
        kind: why nobody needs it.
        paths: the files or folders.
        folder: the run's folder, which must not be claimed; None for shared files.
    """

    kind: str
    paths: tuple[Path, ...]
    folder: Path | None = None

    @property
    def size(self) -> int:
        """The number of bytes."""
        return sum(_size(path) for path in self.paths)


def clean(outputs: Path, *, remove: bool) -> int:
    """Print the leftovers below an outputs folder by kind, with sizes; return the exit code.

    Args:
        outputs: folder of all runs.
        remove: whether to remove them; otherwise they are only listed.
    """
    if not outputs.is_dir():
        say(f"error: `--outputs` must be the folder of all runs, but `{outputs}` does not exist.")
        return 2
    runs = list(_run_folders(outputs))
    live = [folder for folder in runs if claims.is_alive(folder / claims.NAME)]
    found = [part for folder in runs if folder not in live for part in _of_run(folder)]
    if not live:  # a run that is working may read features that no record names yet
        read = [pair for folder in runs if (pair := _weights_and_data(folder))]
        found += _unused_features(outputs / "features", set(read))
        found += _unused_pixels(outputs / "decoded", {str(data)[:32] for _, data in read})
    for kind in dict.fromkeys(part.kind for part in found):
        of_kind = [part for part in found if part.kind == kind]
        say(f"{_shown(sum(part.size for part in of_kind)):>10}  {kind} ({len(of_kind)})")
        for part in of_kind[:5]:
            say(f"{'':12}{part.paths[0]}")
        if len(of_kind) > 5:
            say(f"{'':12}… and {len(of_kind) - 5} more")
    total = sum(part.size for part in found)
    removed = sum(_removed(part) for part in found) if remove else 0
    for line in _kept(outputs, runs, live):
        say(line)
    if remove:
        say(f"removed {_shown(removed)}")
    else:
        say(f"{_shown(total)} could be removed; add --yes to remove it" if found else
            "nothing to remove")  # fmt: skip
    return 0


def _run_folders(outputs: Path) -> Iterator[Path]:
    for protocol in sorted(os.scandir(outputs), key=lambda entry: entry.name):
        if protocol.is_dir(follow_symlinks=False) and protocol.name not in _NOT_RUNS:
            for run in sorted(os.scandir(protocol), key=lambda entry: entry.name):
                if run.is_dir(follow_symlinks=False) and _is_run(Path(run)):
                    yield Path(run)


def _is_run(folder: Path) -> bool:
    names = ("record.json", "metrics.jsonl", claims.NAME, *_RESUMING)
    return any((folder / name).exists() for name in names)


def _of_run(folder: Path) -> Iterator[Leftover]:
    """Yield what may be removed of a run that nobody has claimed."""
    if (folder / "record.json").is_file():
        paths = [folder / name for name in _RESUMING if (folder / name).exists()]
        paths += [*folder.glob(".checkpoint.pt.*.tmp"), *folder.glob(".progress.json.*.tmp")]
        if paths:
            yield Leftover("files of finished runs for a resumption", tuple(paths), folder)
    elif (folder / "failure.json").is_file():
        yield Leftover("folders of failed runs, which have no record", (folder,), folder)


def _unused_pixels(stores: Path, used: set[str]) -> Iterator[Leftover]:
    """Yield the stores of decoded images all of whose data sets are in no record."""
    for store in sorted(path for path in stores.glob("*") if (path / "pixels").is_file()):
        names = [path.name.removeprefix(DATASET) for path in store.glob(f"{DATASET}*")]
        if names and not used & set(names) and not claims.is_alive(store / claims.NAME):
            yield Leftover("decoded images of data that no record names", (store,))


def _unused_features(store: Path, used: set[tuple[Any, Any]]) -> Iterator[Leftover]:
    """Yield the stored features that belong to no record's weights and data."""
    for path in sorted(store.glob("*.npy")):
        identity = _identity(path)
        if identity is not None and (identity.get("weights"), identity.get("data")) not in used:
            yield Leftover("features of weights and data that no record names", (path,))


def _weights_and_data(folder: Path) -> tuple[Any, Any] | None:
    try:
        record = json.loads((folder / "record.json").read_bytes())
        return record["weights_sha256"], record["data"]["fingerprint"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _identity(path: Path) -> dict[str, Any] | None:
    """Return the identity at the end of a stored array; None if it cannot be read."""
    try:
        with path.open("rb") as file:
            return _trailer(file)
    except (OSError, ValueError, KeyError, RecursionError):
        return None


def _trailer(file: IO[bytes]) -> dict[str, Any]:
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError("another version of arrays")
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    file.seek(int(np.prod(shape, dtype=np.int64)) * dtype.itemsize, os.SEEK_CUR)
    return dict(json.loads(file.read()))


def _removed(part: Leftover) -> int:
    """Remove a leftover unless somebody has claimed its run meanwhile; return the bytes."""
    if part.folder is not None and not claims.try_claim(part.folder):
        return 0
    size = part.size
    try:
        for path in part.paths:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    finally:
        if part.folder is not None and part.folder.is_dir():
            claims.release(part.folder)
    return size


def _kept(outputs: Path, runs: Sequence[Path], live: Sequence[Path]) -> Iterator[str]:
    """Yield a line for everything large that stays, with the reason."""
    if live:
        yield (
            f"{'':12}{count(len(live), 'run')} in progress: nothing of these, no features and no "
            "decoded images are listed"
        )
    interrupted = [
        folder for folder in runs
        if folder not in live and not any((folder / name).exists()
                                          for name in ("record.json", "failure.json"))
    ]  # fmt: skip
    if interrupted:
        size = _shown(sum(map(_size, interrupted)))
        yield f"{size:>10}  stays: {count(len(interrupted), 'interrupted run')}, which can go on"
    unnamed = [path.parent for path in outputs.glob("decoded/*/pixels")
               if not any(path.parent.glob(f"{DATASET}*"))]  # fmt: skip
    if unnamed:  # of older code
        yield (
            f"{_shown(sum(map(_size, unnamed))):>10}  stays: {len(unnamed)} stores of decoded "
            f"images in {outputs / 'decoded'} do not name their data set; missing ones are made "
            "again"
        )


def _size(path: Path) -> int:
    if not path.is_dir():
        return path.lstat().st_size if path.exists() else 0
    return sum(file.lstat().st_size for file in path.rglob("*") if not file.is_dir())


def _shown(size: int) -> str:
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} B"
