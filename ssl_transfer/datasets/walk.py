"""Find the image files below a folder, and note the other entries."""

import collections
import dataclasses
import itertools
import logging
import operator
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int64
from PIL import features

from ssl_transfer.system import inputs
from ssl_transfer.system.known_folders import KnownFolders
from ssl_transfer.system.stamps import FOLDERS_ONLY, JUNK, is_junk

log = logging.getLogger(__name__)


def _extensions() -> tuple[str, ...]:
    """Return the extensions of the formats that the installed Pillow decodes, in lower case.

    The list excludes formats of programs, documents and films, although Pillow opens some of them
    (EPS starts Ghostscript), and PFM, whose pixels are floating-point numbers.
    """
    always = (
        ".jpg .jpeg .jpe .jfif .png .apng .gif .bmp .dib .ppm .pgm .pbm .pnm .tif .tiff .tga .pcx "
        ".sgi .ras .qoi .dds .psd .ico"
    )
    optional = {
        "webp": ".webp",
        "avif": ".avif .avifs",
        "jpg_2000": ".jp2 .j2k .jpc .jpf .jpx .j2c",
    }
    # Pillow warns of a feature name that this version does not know.
    known = features.get_supported()
    names = always.split()
    for feature, more in optional.items():
        names += more.split() * (feature in known)
    return tuple(names)


EXTENSIONS = _extensions()

# Files that often lie beside images on purpose.
_NOTES = frozenset(
    {".txt", ".md", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".html", ".ini",
     ".db", ".log", ".pdf", ".rst", ".sha256", ".md5"}
)  # fmt: skip


@dataclasses.dataclass
class LeftOut:
    """The files and folders that a reader skipped, for one log message.

    Args:
        root: folder that the names are relative to.
        names: names of the skipped files and folders, by reason.
        lost: whether a user would expect some of them to be read.
    """

    root: Path
    names: dict[str, list[str]] = dataclasses.field(
        default_factory=lambda: collections.defaultdict(list)
    )
    lost: bool = False

    def add(self, path: str | Path, reason: str, *, lost: bool = True) -> None:
        """Add a skipped path."""
        self.names[reason].append(Path(os.path.relpath(path, self.root)).as_posix())
        self.lost |= lost

    def __str__(self) -> str:
        parts = [
            f"{reason}: {len(names)} ({_first(sorted(names))})"
            for reason, names in self.names.items()
        ]
        return "; ".join(parts)

    def tell(self, name: str) -> None:
        """Log all skipped paths in one message: a warning if samples may be missing."""
        if self.names:
            level = logging.WARNING if self.lost else logging.INFO
            log.log(level, "`%s`: not read: %s", name, self)


def _first(names: list[str], limit: int = 2) -> str:
    return ", ".join(f"`{name}`" for name in names[:limit]) + ", …" * (len(names) > limit)


def subfolders(folder: Path) -> list[Path]:
    """Return the folders in a folder, sorted, without hidden ones and those of operating systems.

    Raises:
        ValueError: if the folder cannot be opened.
    """
    inputs.note_folder(folder, (FOLDERS_ONLY, *EXTENSIONS))
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if not is_junk(entry.name) and entry.is_dir()]
    except OSError as error:
        raise ValueError(
            f"`{folder}` must be a folder that can be opened, but cannot ({error.strerror}); give "
            "yourself the right to read it."
        ) from error
    return [folder / name for name in sorted(names)]


def has_images(folder: Path) -> bool:
    """Return whether an image lies directly in a folder."""
    with os.scandir(folder) as entries:
        return any(_is_image(entry.name) for entry in entries)


def _is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


def images_below(folder: Path, left_out: LeftOut, *, links_once: bool = False) -> list[str]:
    """Return the image files below a folder, sorted; links are followed, but not in circles.

    Args:
        folder: where to look, at any depth.
        left_out: collects the skipped paths.
        links_once: whether to use only the first of several names of one file.
    """
    paths, _ = images_and_stamps(folder, left_out, KnownFolders(None), links_once=links_once)
    return paths


def images_and_stamps(
    folder: Path, left_out: LeftOut, known: KnownFolders, *, links_once: bool = False
) -> tuple[list[str], Int64[np.ndarray, "images 4"]]:
    """Return the image files below a folder, see ``images_below``, and their stamps.

    Args:
        folder: where to look, at any depth.
        left_out: collects the skipped paths.
        known: lists the folders.
        links_once: whether to use only the first of several names of one file.
    """
    parts = list(_in_each_folder(str(folder), left_out, known))
    paths = [path for part, _ in parts for path in part]
    rows = np.concatenate([np.empty((0, 4), np.int64), *(part for _, part in parts)])
    order = sorted(range(len(paths)), key=paths.__getitem__)
    inodes = rows[:, 3].tolist()
    if links_once and len(set(inodes)) < len(inodes):
        order = list(_named_once(order, paths, inodes, left_out))
    return [paths[row] for row in order], rows[np.array(order, np.int64)]


def _named_once(
    order: Sequence[int], paths: Sequence[str], inodes: Sequence[int], left_out: LeftOut
) -> Iterator[int]:
    """Yield the rows without those of further names of the same file."""
    first: dict[int, str] = {}
    for row in order:
        other = first.setdefault(inodes[row], paths[row])
        # Equal numbers may also be those of files on two devices.
        if inodes[row] and other != paths[row] and os.path.samefile(paths[row], other):  # noqa: PTH121
            left_out.add(paths[row], "further names of the same file", lost=False)
        else:
            yield row


def _in_each_folder(
    folder: str, left_out: LeftOut, known: KnownFolders
) -> Iterator[tuple[list[str], Int64[np.ndarray, "images 4"]]]:
    """Yield the image files that lie directly in each folder below one, with their stamps."""
    visited = set()
    waiting = [folder]
    while waiting:
        place = waiting.pop()
        try:
            entries = known.entries(place)
        except OSError as error:
            _note_closed(error, left_out)
            continue
        visited.add(os.path.realpath(place))
        inside = sorted(_entered(place, entries.folders, visited, left_out), reverse=True)
        waiting += [f"{place}{os.sep}{name}" for name in inside]
        is_image = [_is_image(name) for name in entries.files]
        images = list(itertools.compress(entries.files, is_image))
        inputs.note_folder(place, EXTENSIONS, None if entries.folders else images)
        for name in itertools.compress(entries.files, map(operator.not_, is_image)):
            if not is_junk(name):
                _note_other(f"{place}{os.sep}{name}", left_out)
        paths, rows = [f"{place}{os.sep}{name}" for name in images], entries.stamps[is_image]
        is_file = rows[:, 3] != -1
        for row in np.flatnonzero(~is_file).tolist():
            _note_no_file(paths[row], entries.errors.get(images[row]), left_out)
        yield list(itertools.compress(paths, is_file.tolist())), rows[is_file]


def _note_no_file(path: str, error: str | None, left_out: LeftOut) -> None:
    """Add what has the name of an image and is no file that can be read."""
    if error is None:
        left_out.add(path, "things that are no files")
    elif os.path.islink(path):  # noqa: PTH114
        left_out.add(path, "links that lead nowhere")
    else:
        left_out.add(path, f"files: {error}")


def _entered(
    place: str, folders: Iterable[str], visited: set[str], left_out: LeftOut
) -> Iterator[str]:
    """Yield the folders to enter."""
    for name in folders:
        path = os.path.join(place, name)  # noqa: PTH118
        if name.lower() in JUNK:
            left_out.add(path, "folders of the operating system", lost=False)
        elif name.startswith("."):
            continue
        elif os.path.realpath(path) in visited:
            left_out.add(path, "links to a folder that is read already", lost=False)
        else:
            yield name


def _note_closed(error: OSError, left_out: LeftOut) -> None:
    left_out.add(error.filename, f"folders that cannot be opened: {error.strerror}")


def _note_other(path: str, left_out: LeftOut) -> None:
    """Add a file without an image's extension to the skipped paths."""
    extension = os.path.splitext(path)[1].lower()  # noqa: PTH122
    if extension:
        left_out.add(path, f"`{extension}` files", lost=extension not in _NOTES)
    elif os.path.islink(path) and not os.path.exists(path):  # noqa: PTH110, PTH114
        left_out.add(path, "links that lead nowhere")
    else:
        left_out.add(path, "files without an extension")
