"""LMDB databases of encoded images, one for each class and split, as LSUN is published."""

import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ssl_transfer.config.ranges import Text
from ssl_transfer.datasets import lmdb_files
from ssl_transfer.datasets.base import Dataset
from ssl_transfer.datasets.lmdb_files import FILE
from ssl_transfer.datasets.nearest import contents, existing_folder
from ssl_transfer.datasets.packed_files import Packed
from ssl_transfer.datasets.reader import reader, some
from ssl_transfer.datasets.rows import RowOptions, Rows, dataset_of, stable_names
from ssl_transfer.datasets.split_folders import SPLITS
from ssl_transfer.system import inputs

log = logging.getLogger(__name__)

_NAME = re.compile(r"(?P<label>.+?)(?:_(?P<split>train|val|test))?(?:_lmdb)?")


@reader
def lmdb_classes(
    options: RowOptions,
    root: str,
    train: Text = "train",
    val: Text = "val",
    test: Text = "test",
) -> Dataset:
    """Return the images in LMDB databases, which are read in place, without the library lmdb.

    A database is a folder with ``data.mdb``. Its name is ``<class>_<split>_lmdb`` or
    ``<class>_lmdb``, with or without ``_lmdb``; its keys name the images, its values are encoded
    images. The order of the keys has no effect: samples are ordered by class and then by name, as
    in class folders.

    Args:
        options: shared options.
        root: folder of the databases.
        train: split in the names of the databases to train on. If no name has a split, all form
            one pool, of which splits are made as by ``image_folder``.
        val: likewise (``none``, or no such database: a seeded share of the training images).
        test: likewise, e.g. ``val`` if the labels of the test images are secret.

    Raises:
        ValueError: if databases are missing or damaged, or an image does not decode.
    """
    folder = existing_folder("dataset.root", root, "a folder of LMDB databases")
    databases = _chosen(folder, {"train": train, "val": val, "test": test})
    return dataset_of(options, _rows(databases), folder)


class _Database(NamedTuple):
    """A database: the class of its images, its split (``None``: one pool), and its content."""

    label: str
    split: int | None
    images: Packed


def _chosen(folder: Path, named: Mapping[str, str]) -> list[_Database]:
    """Return the databases of all splits."""
    inputs.note_folder(folder, ("",))
    files = sorted(folder.glob(f"*/{FILE}"))
    if not files:
        raise ValueError(
            f"`{folder}` must have LMDB databases, folders `<class>_<split>_lmdb` with {FILE}, but "
            f"has none{contents(folder)}; correct dataset.root."
        )
    read = list(_read(files, {word: key for key, word in named.items()}))
    if left := [file.parent.name for file in files if file not in {b.images.path for b in read}]:
        log.warning("the databases %s of `%s` are not read", some(left), folder)
    if all(database.split not in (None, 0) for database in read):
        raise ValueError(
            f"`{folder}` must have databases to train on, named `<class>_{named['train']}_lmdb`, "
            f"but has {some([file.parent.name for file in files])}; name their split by "
            "dataset.train."
        )
    return read


def _read(files: list[Path], split_of: Mapping[str, str]) -> Iterator[_Database]:
    """Yield the databases that have a class and a split that is used."""
    names = {file: match for file in files if (match := _NAME.fullmatch(file.parent.name))}
    one_pool = all(match["split"] is None for match in names.values())
    for file, match in names.items():
        key = split_of.get(match["split"] or "")
        if one_pool or key is not None:
            number = None if key is None else SPLITS.index(key)
            yield _Database(match["label"], number, lmdb_files.index(file))


def _rows(databases: list[_Database]) -> Rows:
    labels = [(database.label,) for database in databases for _ in database.images.names]
    splits = None
    if all(database.split is not None for database in databases):
        each = [np.full(len(d.images.names), d.split, dtype=np.int64) for d in databases]
        splits = np.concatenate(each)
    keys = [name for database in databases for name in database.images.names]
    paths = [str(database.images.path) for database in databases for _ in database.images.names]
    spans = [span for database in databases for span in database.images.spans]
    return Rows(
        names=stable_names(keys, labels, splits),
        paths=paths,
        labels=labels,
        target="class",
        place=lambda row: f"{Path(paths[row]).parent.name}: {keys[row]}",
        spans=np.array(spans, dtype=np.int64).reshape(-1, 2),
        splits=splits,
    )
