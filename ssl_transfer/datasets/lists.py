"""Annotation files: one ``name class_number`` per line."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ssl_transfer.datasets.base import Dataset
from ssl_transfer.datasets.files import Listing, inspect_files
from ssl_transfer.datasets.reader import Options, assemble, reader, some

PROBLEMS_SHOWN = 5


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of an annotation file.

    Args:
        name: the image, as written.
        target: its class number.
        place: annotation file and line number, for messages.
    """

    name: str
    target: int
    place: str


@reader
def image_list(
    options: Options,
    root: str,
    train: str,
    test: str,
    val: str | None = None,
    classes: str | None = None,
    images: str = ".",
) -> Dataset:
    """Return the images that annotation files name.

    A line is ``name class_number``, split at its last blank, so that names with blanks work. Empty
    lines are skipped; there are no comments, since a name may begin with any character. Class
    numbers run from 0 without gaps.

    Args:
        options: shared options.
        root: folder that the other paths are relative to (absolute ones stay).
        train: annotation file.
        test: annotation file.
        val: annotation file (``None``: a validation split is made from ``train``).
        classes: file with one class name per line, in the order of the numbers (``None``: the
            numbers are the names).
        images: folder that names in annotation files are relative to.

    Raises:
        ValueError: with the first problems of all files, each with file and line.
    """
    base = Path(root).expanduser()
    if not base.is_dir():
        raise ValueError(
            f"`dataset.root` must be a folder, but `{base}` "
            f"{'is a file' if base.exists() else 'does not exist'}; correct the path."
        )
    written = {"train": train, "val": val, "test": test}
    problems: list[str] = []
    lines = {key: list(_parse(base / file, key, problems)) for key, file in written.items() if file}
    names = _class_names(lines, base / classes if classes else None, problems)
    _find_repeated(lines, problems)
    folder = base / images
    for line in (line for part in lines.values() for line in part):
        if not (folder / line.name).is_file():
            problems.append(f"{line.place}: there is no file `{folder / line.name}`")
    _refuse(options, problems)
    listings = {
        key: Listing(
            paths=[str(folder / line.name) for line in part],
            names=[line.name for line in part],
            targets=np.array([line.target for line in part], dtype=np.int64),
        )
        for key, part in lines.items()
    }
    files = inspect_files(options, listings)
    return assemble(
        options,
        classes=names,
        train=files.splits["train"],
        test=files.splits["test"],
        val=files.splits.get("val"),
        content=files.content,
        facts=files.facts,
    )


def _read(path: Path, what: str) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        reason = "does not exist" if not path.exists() else f"cannot be read ({error.strerror})"
    except UnicodeDecodeError as error:
        reason = f"is not UTF-8 text ({error.reason} at byte {error.start})"
    raise ValueError(f"`{what}` must be a text file, but `{path}` {reason}; correct the path.")


def _parse(path: Path, key: str, problems: list[str]) -> Iterator[Line]:
    """Yield the lines of an annotation file that can be understood; note the others."""
    empty = True
    for number, text in enumerate(_read(path, f"dataset.{key}"), start=1):
        if not text.strip():
            continue
        empty = False
        place = f"{path.name}:{number}"
        fields = text.strip().rsplit(maxsplit=1)
        if len(fields) < 2 or not fields[1].removeprefix("-").isdecimal():
            problems.append(f"{place}: no class number at the end of {text.strip()!r}")
        else:
            yield Line(fields[0], int(fields[1]), place)
    if empty:
        problems.append(f"{path.name}: no lines")


def _class_names(
    lines: dict[str, list[Line]], path: Path | None, problems: list[str]
) -> tuple[str, ...]:
    """Return the classes' names; note numbers outside of them and classes without a sample."""
    present = {line.target for line in lines["train"]}
    if path is None:
        names = tuple(str(number) for number in range(max(present, default=-1) + 1))
        known = "the numbers of the training lines"
    else:
        names = tuple(text.strip() for text in _read(path, "dataset.classes") if text.strip())
        known = f"the lines of {path.name}"
    for line in (line for part in lines.values() for line in part):
        if not 0 <= line.target < len(names):
            problems.append(
                f"{line.place}: class number {line.target} is out of range "
                f"(0 to {len(names) - 1}, by {known})"
            )
    missing = [names[number] for number in range(len(names)) if number not in present]
    if missing and lines["train"]:
        hint = "" if path else " (numbers start at 0 and have no gaps, or give dataset.classes)"
        problems.append(f"no training line has class {some(missing)}{hint}")
    return names


def _find_repeated(lines: dict[str, list[Line]], problems: list[str]) -> None:
    seen: dict[str, Line] = {}
    for line in (line for part in lines.values() for line in part):
        first = seen.setdefault(os.path.normpath(line.name), line)
        if first is not line:
            problems.append(f"{line.place}: `{line.name}` is named in {first.place} already")


def _refuse(options: Options, problems: Sequence[str]) -> None:
    if not problems:
        return
    more = len(problems) - PROBLEMS_SHOWN
    shown = "; ".join(problems[:PROBLEMS_SHOWN]) + (f"; and {more} more" if more > 0 else "")
    raise ValueError(
        f"the annotation files of `{options.name}` must name each image once, with its class "
        f"number, but they do not: {shown}."
    )
