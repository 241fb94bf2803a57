"""Find the image files below a folder, and note the other entries."""

import collections
import dataclasses
import logging
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from PIL import features

from ssl_transfer.system import inputs
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
    paths, seen = [], set()
    for path, number in sorted(_files(folder, left_out)):
        if links_once and number is not None and number in seen:
            left_out.add(path, "further names of the same file", lost=False)
        else:
            paths.append(path)
            seen.add(number)
    return paths


def _files(folder: Path, left_out: LeftOut) -> Iterator[tuple[str, tuple[int, int] | None]]:
    """Yield the image files below a folder with their numbers in the file system."""
    visited = set()
    for place, folders, names in os.walk(
        folder, followlinks=True, onerror=lambda error: _note_closed(error, left_out)
    ):
        visited.add(os.path.realpath(place))
        inputs.note_folder(place, EXTENSIONS)
        folders[:] = sorted(_entered(place, folders, visited, left_out))
        for name in names:
            if is_junk(name):
                continue
            path = os.path.join(place, name)  # noqa: PTH118 - faster than Path
            if not _is_image(name):
                _note_other(path, left_out)
                continue
            try:
                status = os.stat(path)  # noqa: PTH116
            except OSError as error:
                broken = os.path.islink(path)  # noqa: PTH114
                reason = "links that lead nowhere" if broken else f"files: {error.strerror}"
                left_out.add(path, reason)
                continue
            if not stat.S_ISREG(status.st_mode):
                left_out.add(path, "things that are no files")
                continue
            yield path, (status.st_dev, status.st_ino) if status.st_ino else None


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
