"""Faces with landmarks or attributes: 300-W and CelebA."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import numpy as np
from jaxtyping import Float64, Int64

from ssl_transfer.config.ranges import Range
from ssl_transfer.datasets.annotations import REMEDY, numbered_lines, rows_of
from ssl_transfer.datasets.base import Dataset, Split
from ssl_transfer.datasets.files import Listing
from ssl_transfer.datasets.images import SizedImages
from ssl_transfer.datasets.landmarks import checked_files, cut, face_squares, landmark_dataset
from ssl_transfer.datasets.layout import listing, published, require, torchvision_fetch
from ssl_transfer.datasets.reader import Options, reader
from ssl_transfer.system import inputs

Value = TypeVar("Value")

POINTS = 68
# The mark-up of iBUG: right and left are those of the person; the numbers are the official ones.
_PARTS = (
    ("jaw", 17),
    ("right_brow", 5),
    ("left_brow", 5),
    ("nose", 9),
    ("right_eye", 6),
    ("left_eye", 6),
    ("mouth", 20),
)
LANDMARKS_300W = tuple(
    f"{part}_{number}"
    for number, part in enumerate((part for part, count in _PARTS for _ in range(count)), start=1)
)
"""Part of the face and official number of each landmark."""
OUTER_EYE_CORNERS = ("right_eye_37", "left_eye_46")
# Folder and extension of the images; the folders of the challenge's test set come first.
TESTED_300W = (("01_Indoor", ".png"), ("02_Outdoor", ".png"))
TRAINED_300W = (("afw", ".jpg"), ("helen/trainset", ".jpg"), ("lfpw/trainset", ".png"))

LANDMARKS_CELEBA = ("lefteye", "righteye", "nose", "leftmouth", "rightmouth")
SIZE_CELEBA = (178, 218)
PARTITION_CELEBA = ("train", "val", "test")
IMAGES_CELEBA = {"train": 162_770, "val": 19_867, "test": 19_962}
ATTRIBUTES = 40


@reader
def faces_300w(
    options: Options,
    root: str,
    split_rule: Literal["invariances", "official"] = "invariances",
    margin: Annotated[float, Range(0, cap=10)] = 0.0,
    unrounded_shift: bool = False,
    download: bool = False,
) -> Dataset:
    """Return 300-W: photographs of faces with 68 landmarks, each cut to the square of its face.

    Sagonas et al. 2016, https://doi.org/10.1016/j.imavis.2016.01.002. The square is that of the
    true landmarks (see ``face_squares``), so that errors are not comparable with those of methods
    that start from a detected box.

    Args:
        options: shared options.
        root: folder that holds ``01_Indoor`` and ``02_Outdoor`` and, for ``official``, ``afw``,
            ``helen/trainset`` and ``lfpw/trainset``.
        split_rule: ``invariances`` divides the 600 images of the challenge's test set into 180
            training, 180 validation and 240 test images, as Ericsson et al. 2021
            (https://arxiv.org/abs/2111.11398); the 600 faces are from 399 photographs, some of
            which are therefore in two splits. ``official`` tests all 600, and trains and validates
            on the 3,148 images of AFW, HELEN and LFPW.
        margin: share of the square's side to add on each of its sides; 0 as published.
        unrounded_shift: whether landmarks are measured from the unrounded corner of the square, as
            published, up to half a pixel beside the corner of the image.
        download: fetches nothing: the set must be fetched by hand. The key is for sweeps over sets.

    Raises:
        ValueError: if files are missing or damaged, or an image does not decode.
    """
    folders = TESTED_300W + (TRAINED_300W if split_rule == "official" else ())
    base = require(
        options,
        root,
        [folder for folder, _ in folders],
        download=download,
        source="https://ibug.doc.ic.ac.uk/resources/300-W/",
    )
    tested = _pts_listing(base, TESTED_300W)
    if split_rule == "official":
        listings = {"train": _pts_listing(base, TRAINED_300W), "test": tested}
        expected = {"train": 3148, "test": 600}
    else:
        listings = {key: tested.keep(part) for key, part in seed_0_parts(len(tested.paths)).items()}
        expected = {"train": 180, "val": 180, "test": 240}
    files = checked_files(options, LANDMARKS_300W, listings, expected)
    splits = {}
    for key, split in files.splits.items():
        boxes, corners = face_squares(split.targets.astype(np.float64), margin)
        _require_area(split, boxes[:, 2] - boxes[:, 0])
        splits[key] = cut(split, boxes, corners if unrounded_shift else None)
    return landmark_dataset(
        options,
        LANDMARKS_300W,
        files,
        splits,
        normaliser=OUTER_EYE_CORNERS,
        facts={
            "split_rule": split_rule,
            "margin": margin,
            "unrounded_shift": unrounded_shift,
        },
    )


def seed_0_parts(count: int) -> dict[str, Int64[np.ndarray, " part"]]:
    """Return the positions of 30 % training, 30 % validation and 40 % test images.

    numpy's legacy generator with seed 0 shuffles all positions (``generate_dataset_splits`` of
    datasets/faces_in_the_wild_300w.py in https://github.com/linusericsson/ssl-invariances).
    """
    order = np.arange(count)
    np.random.RandomState(0).shuffle(order)
    first, second = int(count * 0.3), int(count * 0.6)
    return {"train": order[:first], "val": order[first:second], "test": order[second:]}


def _pts_listing(base: Path, folders: Sequence[tuple[str, str]]) -> Listing:
    """Return the images of all ``.pts`` files in these folders, with their landmarks."""
    names, targets = [], []
    for folder, extension in folders:
        inputs.note_folder(base / folder, [".pts"])
        for path in sorted((base / folder).glob("*.pts")):
            names.append(f"{folder}/{path.stem}{extension}")
            targets.append(points_of(path, POINTS).reshape(-1))
    if not names:
        raise ValueError(
            f"`{base / folders[0][0]}` must hold files of landmarks (*.pts), but has none; unpack "
            "the archive again."
        )
    return Listing([str(base / name) for name in names], names, np.stack(targets))


def points_of(path: Path, count: int) -> Float64[np.ndarray, "count 2"]:
    """Return the landmarks in a ``.pts`` file.

    The file has the lines ``version: 1``, ``n_points: 68`` and ``{``, one line ``x y`` per
    landmark, and ``}`` (https://github.com/yinguobing/facial-landmark-dataset/issues/1).

    Args:
        path: the file.
        count: number of landmarks that it must have.

    Raises:
        ValueError: naming the first invalid line.
    """
    lines = numbered_lines(path)
    head = ["version: 1", f"n_points: {count}", "{"]
    end = len(head) + count
    fixed = zip([*lines[: len(head)], *lines[end : end + 1]], [*head, "}"], strict=False)
    for (number, line), text in fixed:
        if " ".join(line.split()) != text:
            raise _invalid(path, number, line, f"`{text}`")
    points = [_point(path, number, line) for number, line in lines[len(head) : end]]
    if len(lines) != end + 1:
        raise ValueError(
            f"`{path}` must have {end + 1} lines that are not empty, of which {count} are "
            f"landmarks, but has {len(lines)}; {REMEDY}."
        )
    return np.array(points, dtype=np.float64)


def _point(path: Path, number: int, line: str) -> tuple[float, float]:
    """Return the two numbers of a line."""
    try:
        x, y = map(_finite, line.split())
    except ValueError as error:
        raise _invalid(path, number, line, "two numbers") from error
    return x, y


def _invalid(path: Path, number: int, line: str, form: str) -> ValueError:
    return ValueError(f"line {number} of `{path}` must be {form}, but is {line!r}; {REMEDY}.")


def _require_area(split: Split, sides: Int64[np.ndarray, " images"]) -> None:
    flat = np.flatnonzero(sides < 1).tolist()
    if flat:
        raise ValueError(
            f"the landmarks of an image must span a square, but those of `{split.names[flat[0]]}` "
            "are all at one place; correct its annotation."
        )


@reader
def celeba_landmarks(options: Options, root: str, download: bool = False) -> Dataset:
    """Return CelebA with five landmarks: 202,599 aligned and cropped faces of 178x218 px.

    Official partition. Liu et al. 2015, https://arxiv.org/abs/1411.7766

    Args:
        options: shared options.
        root: folder that holds ``celeba``.
        download: whether torchvision may fetch what is missing; Google Drive often refuses.

    Raises:
        ValueError: if files are missing or damaged, or an image does not decode.
    """
    table = "list_landmarks_align_celeba.txt"
    base = _require_celeba(options, root, table, download=download)
    columns = [f"{name}_{axis}" for name in LANDMARKS_CELEBA for axis in "xy"]
    form = "`image x y …` with ten finite numbers"
    names, places = _celeba_table(base / table, columns, form, _finite)
    parts = _celeba_parts(base, names)
    listings = {
        key: Listing(
            paths=[str(base / "img_align_celeba" / names[i]) for i in part],
            names=[names[i] for i in part],
            targets=np.array([places[i] for i in part], dtype=np.float64),
        )
        for key, part in parts.items()
    }
    files = checked_files(options, LANDMARKS_CELEBA, listings, IMAGES_CELEBA)
    return landmark_dataset(
        options,
        LANDMARKS_CELEBA,
        files,
        {key: _of_one_size(split) for key, split in files.splits.items()},
        normaliser=("lefteye", "righteye"),
        facts={},
    )


@reader
def celeba_attributes(options: Options, root: str, download: bool = False) -> Dataset:
    """Return CelebA with 40 attributes: 202,599 aligned and cropped faces, 11-point mAP.

    Every image shows or does not show each attribute. Official partition. Liu et al. 2015,
    https://arxiv.org/abs/1411.7766

    Args:
        options: shared options; an image may have several attributes, so ``labels_per_class`` and
            ``test_per_class`` must be null.
        root: folder that holds ``celeba``.
        download: whether torchvision may fetch what is missing; Google Drive often refuses.

    Raises:
        ValueError: if files are missing or damaged, or an image does not decode.
    """
    table = "list_attr_celeba.txt"
    base = _require_celeba(options, root, table, download=download)
    attributes = _headings(base / table)
    form = f"`image mark …` with {len(attributes)} marks of 1 or -1"
    names, marks = _celeba_table(base / table, attributes, form, {"1": 1, "-1": 0}.__getitem__)
    parts = _celeba_parts(base, names)
    listings = {
        key: listing(
            base / "img_align_celeba",
            [names[i] for i in part],
            np.array([marks[i] for i in part], dtype=np.int64),
        )
        for key, part in parts.items()
    }
    return published(
        options,
        attributes,
        listings,
        expected={**IMAGES_CELEBA, "classes": ATTRIBUTES},
        metric="map_11_point",
    )


def _require_celeba(options: Options, root: str, table: str, *, download: bool) -> Path:
    """Return the folder of CelebA's files, in torchvision's layout."""
    needed = [f"celeba/{name}" for name in ("img_align_celeba", table, "list_eval_partition.txt")]
    base = require(
        options,
        root,
        needed,
        download=download,
        fetch=torchvision_fetch("CelebA", {"split": "all"}),
        source="https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
    )
    return base / "celeba"


def _headings(path: Path) -> list[str]:
    """Return the second line of a table of CelebA: the names of its columns."""
    lines = numbered_lines(path)
    if len(lines) < 3:
        raise ValueError(
            f"`{path}` must have a line with the number of images, one with the names of the "
            f"columns and one per image, but has {len(lines)} lines; {REMEDY}."
        )
    return lines[1][1].split()


def _celeba_table(
    path: Path, columns: Sequence[str], form: str, parse: Callable[[str], Value]
) -> tuple[list[str], list[list[Value]]]:
    """Return the images of a table of CelebA, and the values of each.

    Args:
        path: the file: the number of images, the names of the columns, and one line per image.
        columns: names that the columns must have.
        form: description of a valid line, for the message.
        parse: parses one cell; it raises ``ValueError`` or ``KeyError`` for an invalid cell.

    Raises:
        ValueError: naming the first invalid line, or if the number of images differs.
    """
    headings = _headings(path)
    if headings != list(columns):
        raise ValueError(
            f"line 2 of `{path}` must be the columns {list(columns)}, but is {headings}; {REMEDY}."
        )
    names, rows = [], []
    (_, count), _, *lines = numbered_lines(path)
    for number, line in lines:
        name, *cells = line.split()
        try:
            row = [parse(cell) for cell in cells]
        except (ValueError, KeyError):
            row = []
        if len(row) != len(columns):
            raise _invalid(path, number, line, form)
        names.append(name)
        rows.append(row)
    if count != str(len(names)):
        raise ValueError(
            f"line 1 of `{path}` must be the number of images that follow, {len(names)}, but is "
            f"{count!r}; {REMEDY}."
        )
    return names, rows


def _celeba_parts(base: Path, names: Sequence[str]) -> dict[str, list[int]]:
    """Return the positions of each split's images among ``names``, by the official partition."""
    path = base / "list_eval_partition.txt"
    position = {name: number for number, name in enumerate(names)}

    def parse(line: str) -> tuple[int, str]:
        name, part = line.split()
        return position[name], PARTITION_CELEBA[("0", "1", "2").index(part)]

    rows = rows_of(path, "`image part`, an image of the other list and a part of 0, 1 or 2", parse)
    if len(rows) != len(names):
        raise ValueError(
            f"`{path}` must have one line for each of {len(names)} images, but has {len(rows)}; "
            f"{REMEDY}."
        )
    return {key: [number for number, part in rows if part == key] for key in PARTITION_CELEBA}


def _finite(text: str) -> float:
    number = float(text)
    if not np.isfinite(number):
        raise ValueError(text)
    return number


def _of_one_size(split: Split) -> Split:
    """Return a split of aligned faces with their published size, checked when they are decoded."""
    sizes = np.tile(np.array(SIZE_CELEBA, dtype=np.int64), (len(split), 1))
    return dataclasses.replace(split, images=SizedImages(split.images, sizes), sizes=sizes)
