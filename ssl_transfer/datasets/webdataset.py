"""WebDataset shards: tar files in which the files of a sample have one name before the first dot.

https://github.com/webdataset/webdataset: ``train-0000.tar`` holds ``crow/1.jpg``, ``crow/1.cls``,
``crow/2.jpg``, …
"""

import dataclasses
import glob
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssl_transfer.datasets import list_tables, named_files, tar_shards
from ssl_transfer.datasets.base import Dataset
from ssl_transfer.datasets.labels import labels_of
from ssl_transfer.datasets.lists import names_in
from ssl_transfer.datasets.nearest import contents, existing_folder
from ssl_transfer.datasets.packed_files import Packed
from ssl_transfer.datasets.reader import reader, some
from ssl_transfer.datasets.rows import RowOptions, Rows, TargetKind, dataset_of, stable_names
from ssl_transfer.datasets.split_folders import SPLITS, meaning
from ssl_transfer.datasets.walk import EXTENSIONS
from ssl_transfer.system import inputs

log = logging.getLogger(__name__)

_KEY = re.compile(r"((?:.*/)?[^/.][^/.]*)\.([^/]+)")  # name before the first dot, and extension
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_DIGITS = re.compile(r"[-_.]?\d+$")
PATTERN = "'train-{0000..0009}.tar'"


@reader
def webdataset(
    options: RowOptions,
    root: str,
    train: str | None = None,
    val: str | None = None,
    test: str | None = None,
    image: str | None = None,
    label: str | None = None,
    label_key: str | None = None,
    classes: str | None = None,
    target: TargetKind | None = None,
) -> Dataset:
    """Return the images in tar files, which are read in place.

    The order of the members has no effect: samples are ordered by class and then by name, as in
    class folders.

    Args:
        options: shared options.
        root: folder of the tar files.
        train: the training shards below ``root``: a pattern such as ``train-{0000..0009}.tar``,
            ``train-*.tar`` or ``train/*.tar`` (``None``: the tar files whose own name or whose
            folder's name says so; if no name says any split, all form one pool, of which splits
            are made as by ``image_folder``).
        val: likewise (``none``: a seeded share of the training images).
        test: likewise, e.g. those of ``val`` if there are no test shards.
        image: extension of the images (``None``: the only image of each sample).
        label: extension of the labels (``None``: ``cls``, or with ``label_key`` ``json``); a file
            of labels holds a class number or the name of a class.
        label_key: the label's key in a JSON file; ``a.b`` is key ``b`` of the object ``a``.
        classes: file below ``root`` with one class name per line, in the order of the numbers
            (``None``: the labels are the names).
        target: ``class``, ``classes`` or ``values`` (``None``: ``classes`` if a label is a list,
            else ``class``).

    Raises:
        ValueError: if shards are missing or damaged, a sample lacks its image or label, or an image
            does not decode.
    """
    folder = existing_folder("dataset.root", root, "a folder of tar files")
    shards = _shards(folder, {"train": train, "val": val, "test": test})
    problems: list[str] = []
    names = tuple(names_in(folder / classes, problems)) if classes else None
    extensions = _Extensions(image, label or ("json" if label_key else "cls"))
    rows = _rows(shards, extensions, label_key, names, target, problems)
    named_files.refuse(f"the samples of `{options.name}`", problems)
    return dataset_of(options, rows, folder)


def _shards(folder: Path, patterns: Mapping[str, str | None]) -> dict[str, list[Path]]:
    """Return the tar files of each split; of a single pool, those of ``train`` alone."""
    shards: dict[str, list[Path]] = {}
    for key, pattern in patterns.items():
        if pattern not in (None, list_tables.UNUSED):
            shards[key] = list(_matching(folder, key, str(pattern)))
    every = _tar_files(folder)
    if not every:
        raise ValueError(
            f"`{folder}` must have tar files (.tar), but has none{contents(folder)}; correct "
            "dataset.root."
        )
    taken = {path for paths in shards.values() for path in paths}
    free = [path for path in every if path not in taken]
    by_name: dict[str | None, list[Path]] = {}
    for path in free:
        by_name.setdefault(_split_of(path, folder), []).append(path)
    if not shards and set(by_name) == {None}:
        return {"train": every}
    for key in SPLITS:
        if patterns[key] is None and key in by_name:
            shards[key] = by_name.pop(key)
    if left := [str(path.relative_to(folder)) for paths in by_name.values() for path in paths]:
        log.warning("the shards %s of `%s` are not read", some(left), folder)
    if not shards.get("train"):
        raise ValueError(
            f"`{folder}` must have shards to train on, but their names are "
            f"{some([str(path.relative_to(folder)) for path in every])}; name them by "
            f"dataset.train, e.g. dataset.train={PATTERN}."
        )
    return {key: shards[key] for key in SPLITS if key in shards}


def _tar_files(folder: Path) -> list[Path]:
    inputs.note_folder(folder, (".tar",))
    paths = sorted(path for path in folder.rglob("*.tar") if path.is_file())
    for place in {path.parent for path in paths} - {folder}:
        inputs.note_folder(place, (".tar",))
    return paths


def _split_of(path: Path, folder: Path) -> str | None:
    """Return the split that a shard's name, or else its folder's name, says."""
    split, _ = meaning(_DIGITS.sub("", path.stem))
    return split or (meaning(path.parent.name)[0] if path.parent != folder else None)


def _matching(folder: Path, key: str, pattern: str) -> Iterator[Path]:
    """Yield the files that a pattern names, sorted."""
    for part in _expanded(pattern):
        names = sorted(glob.glob(part, root_dir=folder))  # noqa: PTH207 - may be absolute
        paths = [folder / name for name in names if (folder / name).is_file()]
        if not paths:
            raise ValueError(
                f"`dataset.{key}` must name tar files below `{folder}`, but there is no `{part}`"
                f"{contents(folder)}; correct it, e.g. dataset.{key}={PATTERN}."
            )
        yield from paths


def _expanded(pattern: str) -> list[str]:
    """Return a pattern with each ``{0000..0009}`` replaced by its numbers."""
    match = _RANGE.search(pattern)
    if match is None:
        return [pattern]
    first, last = match.groups()
    numbers = [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
    before, after = pattern[: match.start()], pattern[match.end() :]
    return [before + number + rest for number in numbers for rest in _expanded(after)]


@dataclasses.dataclass(frozen=True)
class _Extensions:
    """Which member of a sample is what.

    Args:
        image: extension of the image (``None``: any that is an image's).
        label: extension of the label.
    """

    image: str | None
    label: str

    def is_image(self, extension: str) -> bool:
        """Return whether a member is an image that counts."""
        if self.image is not None:
            return extension == self.image.lower()
        return f".{extension}".endswith(EXTENSIONS)


@dataclasses.dataclass(frozen=True)
class _Sample:
    """The image and the label of one sample: where they lie in its shard."""

    name: str
    image: tuple[int, int]
    label: tuple[int, int]


def _samples(shard: Packed, extensions: _Extensions, problems: list[str]) -> Iterator[_Sample]:
    """Yield the samples of a shard that are complete; add others to ``problems``."""
    images: dict[str, dict[str, tuple[int, int]]] = {}
    labels: dict[str, tuple[int, int]] = {}
    for name, span in zip(shard.names, shard.spans, strict=True):
        match = _KEY.fullmatch(name.removeprefix("./"))
        if match is None:
            continue  # hidden, or without an extension: no part of a sample
        key, extension = match[1], match[2].lower()
        if extensions.is_image(extension):
            images.setdefault(key, {})[match[2]] = span
        if extension == extensions.label.lower():
            labels[key] = span
    place = shard.path.name
    for key, of_key in images.items():
        if len(of_key) > 1:
            problems.append(
                f"{place}: `{key}` has several images ({some(list(of_key))}): name the extension "
                "of one by dataset.image"
            )
        elif key not in labels:
            problems.append(f"{place}: `{key}` has no label, `{key}.{extensions.label}`")
        else:
            ((extension, span),) = of_key.items()
            yield _Sample(f"{key}.{extension}", span, labels[key])
    if labels and not images:
        problems.append(f"{place}: no images, but labels, such as `{next(iter(labels))}`")


def _rows(
    shards: Mapping[str, Sequence[Path]],
    extensions: _Extensions,
    label_key: str | None,
    names: tuple[str, ...] | None,
    target: TargetKind | None,
    problems: list[str],
) -> Rows:
    """Return the samples of all shards."""
    samples: list[_Sample] = []
    values: list[Any] = []
    paths: list[str] = []
    numbers: list[int] = []
    passed = 0
    for key, files in shards.items():
        for file in files:
            shard = tar_shards.index(file)
            passed += shard.passed
            of_shard = list(_samples(shard, extensions, problems))
            samples += of_shard
            paths += [str(file)] * len(of_shard)
            numbers += [SPLITS.index(key)] * len(of_shard)
            for sample, data in zip(
                of_shard, shard.read([sample.label for sample in of_shard]), strict=True
            ):
                place = f"{file.name}: {sample.name}"
                values.append(_named(_label(data, label_key, place, problems), names))
    if passed:
        log.warning("%d links and other special members of tar files are not read", passed)

    def place_of(row: int) -> str:
        return f"{Path(paths[row]).name}: {samples[row].name}"

    if not samples and not problems:
        problems.append("there are no images in the shards")
    if problems:
        return Rows((), (), (), "class", place_of)
    labels, kind, columns = labels_of({"label": values}, target, place_of, problems)
    splits = np.array(numbers, dtype=np.int64) if len(shards) > 1 else None
    spans = np.array([sample.image for sample in samples], dtype=np.int64).reshape(-1, 2)
    return Rows(
        names=stable_names([sample.name for sample in samples], labels, splits),
        paths=paths,
        labels=labels,
        target=kind,
        place=place_of,
        spans=spans,
        classes=columns or names,
        splits=splits,
    )


def _label(data: bytes, key: str | None, place: str, problems: list[str]) -> Any:
    """Return the label in a member's bytes; None, with a message, if there is none."""
    try:
        text = data.decode("utf-8-sig").strip()
        if key is None:
            return text
        value = json.loads(text)
        for part in key.split("."):
            value = value[part]
    except (ValueError, KeyError, TypeError) as error:
        what = "its label" if key is None else f"the key `{key}` of its JSON"
        problems.append(f"{place}: {what} cannot be read ({type(error).__name__}: {error})")
        return None
    return value


def _named(label: Any, names: tuple[str, ...] | None) -> Any:
    """Return a label as the name of its class, if it is the number of one."""
    if names is None or label is None:
        return label
    if isinstance(label, list):
        return [_named(part, names) for part in label]
    text = str(label)
    known = text not in names and text.isdecimal() and int(text) < len(names)
    return names[int(text)] if known else label
