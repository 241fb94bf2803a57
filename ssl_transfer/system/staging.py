"""Data on a node's own disk: a dataset is copied there once and then read from there.

<stage>/ssl_transfer/<16 hex>/<name of the root>   the copy; gets this name when it is complete
                              claim.json           exists while a process copies

The hex digits are a hash of the dataset's path and of the names and stamps of all its files, so a
changed dataset gets a new copy. Listing the files costs no more than reading the dataset in its
original place would. Each use of a copy first compares it with that list, because clusters clean
scratch disks file by file, and a node that crashed may have left empty files.
"""

import dataclasses
import hashlib
import json
import logging
import operator
import os
import shutil
import stat
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ssl_transfer.system import claims, stamps
from ssl_transfer.system.stamps import Stamp

log = logging.getLogger(__name__)

THREADS = 16
"""Files copied in parallel: for small files on a network, latency is the bottleneck."""
CHUNK = 1 << 20  # bytes between two checks for a stop and updates of the progress bar
_BATCH_FILES, _BATCH_BYTES = 64, 64 << 20
_BLOCK = 4096  # bytes that the smallest file occupies

_copies: dict[str, "_Copy"] = {}  # by the path of the copy
_sources: dict[str, str] = {}  # file that was made from another -> that file


@dataclasses.dataclass(frozen=True)
class File:
    """A file of a dataset.

    Args:
        path: relative to the root (empty: the root is the file).
        stamp: the file's stamp.
    """

    path: str
    stamp: Stamp


@dataclasses.dataclass
class Tree:
    """The folders and files below a dataset's root, links followed; paths are relative to it.

    Args:
        folders: parents come first.
        files: each file once, even if it has several names.
        more_names: other name of a file -> its name in ``files``.
        links: other name of a folder -> its name in ``folders``.
    """

    folders: list[str] = dataclasses.field(default_factory=list)
    files: list[File] = dataclasses.field(default_factory=list)
    more_names: dict[str, str] = dataclasses.field(default_factory=dict)
    links: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def space(self) -> int:
        """Bytes that a copy takes."""
        blocks = sum(-(-file.stamp.size // _BLOCK) for file in self.files) + len(self.folders)
        return blocks * _BLOCK

    def digest(self, source: Path) -> str:
        """Return 16 hex digits for this tree at this place."""
        hasher = hashlib.sha256(json.dumps(str(source)).encode())
        for file in sorted(self.files, key=lambda file: file.path):
            hasher.update(json.dumps(dataclasses.astuple(file)).encode())
        others = [self.folders, self.more_names.items(), self.links.items()]
        hasher.update(json.dumps([sorted(names) for names in others]).encode())
        return hasher.hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class _Copy:
    """A copy that this process uses: its source, and the stamps of the source's files."""

    source: str
    stamps: Mapping[str, Stamp]


def staged(
    node: Mapping[str, Any], stage: str, *, progress_bar: bool = True, doubt: bool = False
) -> dict[str, Any]:
    """Copy a dataset's ``root`` to the stage and return the dataset's node with the copy's path.

    If several processes of a computer call this, one copies and the others wait. A node without a
    ``root`` that exists is returned unchanged.

    Args:
        node: the dataset's keys, all resolved.
        stage: a folder on the computer's own disk, created if missing.
        progress_bar: whether to draw a progress bar if copying takes longer than two seconds.
        doubt: whether to compare the bytes of an existing copy with those of the source.

    Raises:
        OSError: in one sentence, before anything is copied if there is not enough space.
    """
    root = node.get("root")
    if not isinstance(root, str):
        return dict(node)
    source = Path(os.path.abspath(Path(root).expanduser()))  # noqa: PTH100 - `..` has no name
    place = Path(stage).expanduser().absolute()
    inside = source.resolve().is_relative_to(place.resolve())
    if inside or not source.exists():  # the code that reads the data reports a missing root
        return dict(node)
    if place.resolve().is_relative_to(source.resolve()):
        raise OSError(
            f"`paths.stage` must not lie inside the data it is for, but `{place}` lies in "
            f"`{source}`; choose another folder."
        )
    tree = look(source)
    copy = place / "ssl_transfer" / tree.digest(source) / (source.name or "root")
    if not _is_whole(copy, tree) or (doubt and not _is_equal(source, copy, tree)):
        try:
            _copy_once(source, copy, tree, progress_bar=progress_bar)
        except NoSpace:
            raise
        except OSError as error:
            raise OSError(
                f"`{source}` must be readable and `{place}` writable to copy the data there, but "
                f"copying failed ({error}); repair that, choose another folder as `paths.stage`, "
                "or set paths.stage=null."
            ) from error
    file_stamps = {file.path: file.stamp for file in tree.files}
    file_stamps |= {name: file_stamps[first] for name, first in tree.more_names.items()}
    _copies[str(copy)] = _Copy(str(source), file_stamps)
    # Downloads belong into the original root, not onto a disk that will be cleaned.
    offline = {"download": False} if "download" in node else {}
    return {**node, "root": str(copy), **offline}


class NoSpace(OSError):
    """The stage has too little space for a dataset."""


def made_from(path: str, source: str) -> None:
    """Let a file count as the file that it was made from, whose content it has in another form."""
    _sources[path] = source


def source_of(path: str) -> str:
    """Return the file that a file was made from by this project; other paths unchanged."""
    return _sources.get(path, path)


def original(path: str) -> str:
    """Return the source of a path in a copy that this process uses; other paths unchanged."""
    path = source_of(path)
    for copy, known in _copies.items():
        if path.startswith(copy) and path[len(copy) : len(copy) + 1] in ("", os.sep):
            return known.source + path[len(copy) :]
    return path


def stamp(path: str) -> Stamp | None:
    """Return the stamp of the source of a file in a copy; None for other files."""
    path = source_of(path)
    for copy, known in _copies.items():
        if path.startswith(copy) and path[len(copy) : len(copy) + 1] in ("", os.sep):
            return known.stamps.get(path[len(copy) + 1 :])
    return None


def look(source: Path) -> Tree:
    """Return the tree of ``source``, a folder or a file.

    If a folder or file appears again under another name, for example through a link, only the
    other name is stored. So circular links end, and a copy has the same names as the source.
    """
    tree = Tree()
    status = source.stat()
    if stat.S_ISREG(status.st_mode):
        tree.files.append(File("", stamps.of(status)))
        return tree
    first_names = {_identity(status): ""}
    tree.folders.append("")
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        for path, status in _entries(source, folder):
            identity = _identity(status)
            first = first_names.setdefault(identity, path) if status.st_ino else path
            if stat.S_ISDIR(status.st_mode):
                if first == path:
                    tree.folders.append(path)
                    waiting.append(path)
                else:
                    tree.links[path] = first
            elif first == path:
                tree.files.append(File(path, stamps.of(status)))
            else:
                tree.more_names[path] = first
    return tree


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _entries(source: Path, folder: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the folders and files in a folder, sorted, without broken links."""
    try:
        with os.scandir(source / folder) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
    except PermissionError:
        return  # e.g. `lost+found`; code that reads the data cannot list it either
    for entry in entries:
        try:
            status = entry.stat()
        except OSError:
            continue
        if stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode):
            yield f"{folder}/{entry.name}" if folder else entry.name, status


def _is_whole(copy: Path, tree: Tree) -> bool:
    """Return whether a copy has all folders, and all files with the right sizes."""
    names = {**tree.more_names, **{file.path: file.path for file in tree.files}}
    sizes = {file.path: file.stamp.size for file in tree.files}
    base = str(copy)
    try:
        # For a million files, joined text is several times as fast as Path.
        return all(
            os.stat(f"{base}/{name}" if name else base).st_size == sizes[first]  # noqa: PTH116
            for name, first in names.items()
        ) and all((copy / name).is_dir() for name in (*tree.folders, *tree.links))
    except OSError:
        return False


def _is_equal(source: Path, copy: Path, tree: Tree) -> bool:
    """Return whether every file of a copy equals its source; remove files that differ."""

    def same(file: File) -> bool:
        pair = (str(place / file.path) for place in (source, copy))
        equal = bool(operator.eq(*map(stamps.of_file, pair)))
        if not equal:  # a copy that lacks a file is made again
            log.warning("`%s` differs from its source", copy / file.path)
            (copy / file.path).unlink()
        return equal

    with ThreadPoolExecutor(THREADS) as pool:
        return all(list(pool.map(same, tree.files)))


def _copy_once(source: Path, copy: Path, tree: Tree, *, progress_bar: bool) -> None:
    """Make a copy unless another process of the computer does.

    Raises:
        OSError: if copying fails; the incomplete copy is removed.
    """
    folder = copy.parent

    def say_waiting(owner: dict[str, Any]) -> None:
        log.info("waiting for %s, which copies `%s` here", claims.describe(owner), source)

    with claims.claimed(
        folder, finished=lambda: _is_whole(copy, tree), waiting=say_waiting, alone=True
    ) as ours:
        if not ours:
            return
        if copy.exists():
            log.warning("`%s` is no longer complete and is copied again", copy)
            copy.rename(_draft(copy))
        for leftover in folder.glob(".*.copy.tmp"):  # the claim excludes other processes
            _remove(leftover)
        _refuse_too_large(source, folder, tree)
        began, draft = time.monotonic(), _draft(copy)
        try:
            _fill(source, draft, tree, progress_bar=progress_bar)
            try:
                draft.rename(copy)
            except OSError:
                # On a shared disk another computer may have taken over the claim as dead.
                if not _is_whole(copy, tree):
                    raise
        finally:
            _remove(draft)
        size = tqdm.format_sizeof(sum(file.stamp.size for file in tree.files), "B")
        log.info("copied `%s` (%s) to `%s` in %.0f s", source, size, copy, time.monotonic() - began)


def _draft(copy: Path) -> Path:
    return copy.with_name(f".{uuid.uuid4().hex[:8]}.copy.tmp")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _refuse_too_large(source: Path, folder: Path, tree: Tree) -> None:
    free = shutil.disk_usage(folder).free
    if free < tree.space:
        needed, left = (tqdm.format_sizeof(count, "B") for count in (tree.space, free))
        raise NoSpace(
            f"`paths.stage` must have room for `{source}` ({needed}), but the disk of "
            f"`{folder.parent}` has {left} free; remove older copies there, choose a larger disk, "
            "or set paths.stage=null."
        )


def _fill(source: Path, target: Path, tree: Tree, *, progress_bar: bool) -> None:
    """Copy a tree to ``target``, which does not exist."""
    for name in tree.folders:
        (target / name).mkdir()
    stop, lock = threading.Event(), threading.Lock()
    with tqdm(
        total=sum(file.stamp.size for file in tree.files),
        desc=f"copying {source.name}",
        unit="B",
        unit_scale=True,
        disable=not progress_bar,
        leave=False,
        delay=2.0,
        mininterval=0.5 if sys.stderr.isatty() else 60.0,
    ) as bar:

        def advance(count: int) -> None:
            if stop.is_set():
                raise InterruptedError("copying was stopped")
            with lock:
                bar.update(count)

        def copy_batch(files: Sequence[File]) -> None:
            for file in files:
                _copy_file(source / file.path, target / file.path, file, advance)

        with ThreadPoolExecutor(THREADS) as pool:
            jobs = [pool.submit(copy_batch, batch) for batch in _batches(tree.files)]
            try:
                for job in wait(jobs, return_when=FIRST_EXCEPTION).done:
                    job.result()
            finally:  # stops the other threads, also after a signal
                stop.set()
                pool.shutdown(cancel_futures=True)
    for name, first in tree.more_names.items():
        try:
            os.link(target / first, target / name)
        except OSError:  # a file system without hard links
            shutil.copy2(target / first, target / name)
    for name, first in tree.links.items():
        (target / name).symlink_to(os.path.relpath(first or ".", os.path.dirname(name) or "."))  # noqa: PTH120


def _batches(files: Sequence[File]) -> Iterator[list[File]]:
    """Yield the files in batches: one future per file would take a gigabyte for a million."""
    batch: list[File] = []
    size = 0
    for file in files:
        batch.append(file)
        size += file.stamp.size
        if len(batch) == _BATCH_FILES or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    yield batch


def _copy_file(source: Path, target: Path, file: File, advance: Callable[[int], None]) -> None:
    """Copy one file with its modification time.

    Raises:
        OSError: if it cannot be copied, or changed since it was listed.
    """
    copied = 0
    with source.open("rb", buffering=0) as reading, target.open("xb") as writing:
        while chunk := reading.read(CHUNK):
            writing.write(chunk)
            copied += len(chunk)
            advance(len(chunk))
    if copied != file.stamp.size or stamps.of(source.stat()) != file.stamp:
        raise OSError(f"`{source}` changed while it was copied")
    os.utime(target, ns=(file.stamp.modified, file.stamp.modified))
