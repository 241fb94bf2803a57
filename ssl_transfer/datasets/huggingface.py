"""Sets of the library ``datasets`` of Hugging Face: saved to disk, or as Parquet with images."""

import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssl_transfer.config.ranges import Text
from ssl_transfer.datasets import list_tables, named_files
from ssl_transfer.datasets.arrow_files import Stored, read_arrow
from ssl_transfer.datasets.base import Dataset
from ssl_transfer.datasets.labels import labels_of, texts
from ssl_transfer.datasets.nearest import nearest
from ssl_transfer.datasets.reader import reader, some
from ssl_transfer.datasets.rows import RowOptions, Rows, TargetKind, dataset_of, stable_names
from ssl_transfer.datasets.split_folders import SPLITS, meaning
from ssl_transfer.system import inputs

log = logging.getLogger(__name__)

USUAL = {
    "image": ("image", "img", "picture", "photo", "jpg", "png", "webp"),
    "label": (*list_tables.LABEL_COLUMNS, "labels", "cls"),
    "group": (),
    "domain": (),
}
"""Names that the column of each role usually has, in any case."""
_SHARD = re.compile(r"-\d+-of-\d+$")
_LISTS = ("Sequence", "List", "LargeList")  # features of several values


@reader
def huggingface(
    options: RowOptions,
    path: Text,
    train: str | None = None,
    val: str | None = None,
    test: str | None = None,
    columns: Mapping[str, str | None] | None = None,
    target: TargetKind | None = None,
) -> Dataset:
    """Return the images of a set of the library ``datasets``, which is not needed to read it.

    The order of the rows has no effect: samples are ordered by class and then by the name of their
    file, or by row if no names are stored, as in class folders.

    Args:
        options: shared options.
        path: what ``save_to_disk`` wrote, of a ``Dataset`` or a ``DatasetDict``; or a Parquet file,
            or a folder of Parquet files (``data/train-00000-of-00002.parquet``, …), whose images
            are stored as bytes.
        train: name of the stored split to train on (``None``: recognised by its name; if there is
            only one split, splits are made of it as by ``image_folder``).
        val: likewise (``none``: a seeded share of the training images).
        test: likewise, e.g. ``validation`` if the test labels are secret.
        columns: column of each role: ``image``; ``label``; ``group`` and ``domain`` (see
            ``image_table``). ``None``: the column with the feature ``Image`` or ``ClassLabel``, or
            with a usual name; no groups and no domains.
        target: ``class``, ``classes`` or ``values`` (``None``: ``classes`` if labels are lists,
            else ``class``).

    Raises:
        ValueError: if there is no such set, a split or a column is missing, or an image does not
            decode.
    """
    place = Path(path).expanduser()
    stored_splits = _splits(place, {"train": train, "val": val, "test": test})
    roles = _Roles({role: name for role, name in (columns or {}).items() if name is not None})
    problems: list[str] = []
    rows = _rows(stored_splits, roles, target, problems)
    named_files.refuse(f"the rows of `{options.name}`", problems)
    return dataset_of(options, rows, place if place.is_dir() else place.parent)


def _splits(place: Path, named: Mapping[str, str | None]) -> dict[str, list[Path]]:
    """Return the files of each split; of a single pool, those of ``train`` alone."""
    stored = _stored(place)
    if len(stored) == 1 and not any(named.values()):
        return {"train": next(iter(stored.values()))}
    chosen: dict[str, list[Path]] = {}
    taken = set()
    for key in SPLITS:
        name = named[key]
        if name == list_tables.UNUSED:
            continue
        if name is not None and name not in stored:
            raise ValueError(
                f"`dataset.{key}` must be null or a split of `{place}`, which are "
                f"{some(list(stored))}, but is `{name}`."
            )
        usual = [other for other in stored if meaning(other)[0] == key]
        if name is None and len(usual) > 1:
            raise ValueError(
                f"`{place}` must have one split for {key}, but has {some(usual)}; name one by "
                f"dataset.{key}."
            )
        if name is not None or (usual and usual[0] not in named.values()):
            taken.add(name or usual[0])
            chosen[key] = stored[name or usual[0]]
    if "train" not in chosen:
        raise ValueError(
            f"`{place}` must have a split to train on, but has {some(list(stored))}; name one by "
            "dataset.train."
        )
    if left := [name for name in stored if name not in taken]:
        log.warning("the splits %s of `%s` are not read", some(left), place)
    return chosen


def _stored(place: Path) -> dict[str, list[Path]]:
    """Return the files of each stored split by its name.

    Raises:
        ValueError: if nothing is stored there.
    """
    if place.is_file() and place.suffix.lower() == ".parquet":
        return {place.stem: [place]}
    for name in ("dataset_dict.json", "state.json"):
        inputs.note_file(place / name)
    if (place / "dataset_dict.json").is_file():
        names = _list_in(place / "dataset_dict.json", "splits")
        return {str(name): _arrow_files(place / str(name)) for name in names}
    if (place / "state.json").is_file():
        return {place.name: _arrow_files(place)}
    stored: dict[str, list[Path]] = {}
    for folder in [place, *sorted(p for p in place.rglob("*") if p.is_dir())]:
        if folder.is_dir():
            inputs.note_folder(folder, (".parquet",))
    for file in sorted(place.rglob("*.parquet")):
        name = _SHARD.sub("", file.stem)
        if meaning(name)[0] is None and meaning(file.parent.name)[0] is not None:
            name = file.parent.name  # train/0000.parquet
        stored.setdefault(name, []).append(file)
    if not stored:
        reason = "has neither" if place.exists() else f"does not exist{nearest(place)}"
        raise ValueError(
            "`dataset.path` must be a folder that `save_to_disk` wrote, or a Parquet file or a "
            f"folder of such files, but `{place}` {reason}; correct the path."
        )
    if all(meaning(name)[0] is None for name in stored):  # parts of one set
        return {place.name: [file for files in stored.values() for file in files]}
    return stored


def _arrow_files(folder: Path) -> list[Path]:
    inputs.note_file(folder / "state.json")
    files = _list_in(folder / "state.json", "_data_files")
    return [folder / str(file.get("filename")) for file in files if isinstance(file, Mapping)]


def _list_in(path: Path, key: str) -> list[Any]:
    """Return a list in a JSON file that ``save_to_disk`` wrote; it is not empty."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))[key]
        if not isinstance(values, list) or not values:
            raise ValueError(f"`{key}` is no list of names")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"`{path}` must be the file that `save_to_disk` wrote, but cannot be read "
            f"({type(error).__name__}: {error}); save the set again."
        ) from error
    return values


class _Roles:
    """The columns of a set, chosen from what the files have.

    Args:
        named: columns that the user named, by role.
    """

    def __init__(self, named: Mapping[str, str]) -> None:
        if unknown := [role for role in named if role not in USUAL]:
            raise ValueError(
                f"`dataset.columns` must map some of {list(USUAL)} to columns, but maps "
                f"{some(unknown)}; correct it."
            )
        self.named = named

    def columns(self, file: Path, header: list[str], features: Mapping[str, Any]) -> dict[str, str]:
        """Return the column of each role that a file has.

        Raises:
            ValueError: if one is missing.
        """
        kinds = {"image": "Image", "label": "ClassLabel"}
        problems: list[str] = []
        columns = {}
        for role, usual in USUAL.items():
            by_kind = [n for n in header if role in kinds and _kind(features, n) == kinds[role]]
            if role in self.named:
                wanted: Sequence[str] = (self.named[role],)
            else:
                wanted = by_kind if len(by_kind) == 1 else usual
            optional = role in ("group", "domain") and role not in self.named
            key = f"dataset.columns.{role}"
            place = list_tables.column(file, header, wanted, key, problems, optional=optional)
            if place is not None:
                columns[role] = header[place]
        if problems:
            raise ValueError(f"`{file.parent}` must have the columns of a set: {problems[0]}.")
        return columns


def _kind(features: Mapping[str, Any], name: str) -> Any:
    feature = features.get(name)
    return feature.get("_type") if isinstance(feature, Mapping) else None


def _rows(
    splits: Mapping[str, Sequence[Path]],
    roles: _Roles,
    target: TargetKind | None,
    problems: list[str],
) -> Rows:
    """Return the rows of all splits."""
    parts: list[Stored] = []
    values: dict[str, list[Any]] = {}
    names: tuple[str, ...] | None = None
    numbers: list[int] = []
    for key, files in splits.items():
        for file in files:
            stored = read_arrow(file, roles.columns)
            parts.append(stored)
            numbers += [SPLITS.index(key)] * len(stored.files)
            for role, column in stored.columns.items():
                if role == "label":
                    names, column = _named(column, stored.features.get(role))
                values.setdefault(role, []).extend(column)
    ends = np.cumsum([len(part.files) for part in parts])

    def place(row: int) -> str:
        number = int(np.searchsorted(ends, row, side="right"))
        return (
            f"{parts[number].source.name}: row {row - ends[number] + len(parts[number].files) + 1}"
        )

    labels, kind, columns = labels_of({"label": values["label"]}, target, place, problems)
    split_numbers = np.array(numbers, dtype=np.int64) if len(splits) > 1 else None
    files_of = [name for part in parts for name in part.files]
    if any(not name for name in files_of):
        files_of = [f"{row:08d}" for row in range(len(files_of))]
    return Rows(
        names=stable_names([str(name) for name in files_of], labels, split_numbers),
        paths=[part.path for part in parts for _ in part.files],
        labels=labels,
        target=kind,
        place=place,
        spans=np.concatenate([part.spans for part in parts]),
        classes=columns or names,
        splits=split_numbers,
        **{
            f"{role}s": texts(role, values[role], place, problems)
            for role in ("group", "domain")
            if role in values
        },
    )


def _named(column: list[Any], feature: Any) -> tuple[tuple[str, ...] | None, list[Any]]:
    """Return the names of the classes, if ``datasets`` stores them, and the labels as names."""
    if isinstance(feature, Mapping) and feature.get("_type") in _LISTS:
        feature = feature.get("feature")
    if not isinstance(feature, Mapping) or feature.get("_type") != "ClassLabel":
        return None, column
    names = tuple(map(str, feature.get("names") or ()))

    def name(value: Any) -> Any:
        if isinstance(value, list):
            return [name(part) for part in value]
        known = isinstance(value, int) and 0 <= value < len(names)
        return names[value] if known else None  # -1: a secret label

    return names, [name(value) for value in column]
