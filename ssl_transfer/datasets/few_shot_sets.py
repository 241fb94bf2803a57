"""Few-shot sets, whose test classes have no training images: Omniglot and miniImageNet."""

import collections
import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ssl_transfer.datasets.annotations import table_of
from ssl_transfer.datasets.base import Dataset
from ssl_transfer.datasets.files import Listing
from ssl_transfer.datasets.folder import class_listing
from ssl_transfer.datasets.layout import listing, published, require, torchvision_fetch
from ssl_transfer.datasets.reader import Options, reader, some
from ssl_transfer.datasets.walk import subfolders

Part = tuple[list[str], Listing]
"""The classes of a split, and its files with numbers among these classes."""

MINI_IMAGENET = {"train": 38_400, "val": 9_600, "test": 12_000, "classes": 100}


@reader
def omniglot(options: Options, root: str, download: bool = False) -> Dataset:
    """Return Omniglot: 1,623 handwritten characters of 50 alphabets, 20 drawings of each, top-1.

    The 964 characters of the 30 background alphabets train (a seeded, stratified share of their
    drawings validates), the 659 of the 20 evaluation alphabets are tested. No test class has a
    training image. Characters are not rotated into further classes. Lake et al. 2015,
    https://doi.org/10.1126/science.aab3050; https://github.com/brendenlake/omniglot

    Args:
        options: shared options.
        root: folder that holds ``omniglot-py``.
        download: whether torchvision may fetch what is missing.

    Raises:
        ValueError: if files are missing or damaged, or an image does not decode.
    """
    home, folders = "omniglot-py", {"train": "images_background", "test": "images_evaluation"}
    base = require(
        options,
        root,
        [f"{home}/{folder}" for folder in folders.values()],
        download=download,
        fetch=torchvision_fetch("Omniglot", {"background": True}, {"background": False}),
    )
    parts = {key: _characters(base / home / folder) for key, folder in folders.items()}
    expected = {"train": 19_280, "test": 13_180, "classes": 1623}
    return _disjoint(options, parts, expected)


def _characters(folder: Path) -> Part:
    """Return the characters (``alphabet/character``) and drawings below a folder of alphabets."""
    names = [
        f"{alphabet.name}/{character.name}"
        for alphabet in subfolders(folder)
        for character in subfolders(alphabet)
    ]
    if not names:
        raise ValueError(
            f"`{folder}` must have a folder per alphabet with a folder per character, but has "
            "none; unpack the archive again."
        )
    return names, class_listing(folder, names, folder.parent)


@reader
def miniimagenet(options: Options, root: str, download: bool = False) -> Dataset:
    """Return miniImageNet: photographs of 100 classes of ImageNet, 600 of each, top-1.

    The splits of Ravi and Larochelle 2017 (https://openreview.net/forum?id=rJY0-Kcll): 64 classes
    train, 16 validate and 20 are tested. No test class has a training image. Vinyals et al. 2016,
    https://arxiv.org/abs/1606.04080. Two layouts are recognised: the lists ``train.csv``,
    ``val.csv`` and ``test.csv`` of https://github.com/twitter-research/meta-learning-lstm beside
    ``images`` (with or without class folders), or folders ``train``, ``val`` and ``test`` with a
    folder per class each.

    Args:
        options: shared options.
        root: folder that holds one of the two layouts.
        download: fetches nothing: the set must be fetched by hand. The key is for sweeps over sets.

    Raises:
        ValueError: if files are missing or damaged, or an image does not decode.
    """
    keys = ("train", "val", "test")
    by_folder = (Path(root).expanduser() / "train").is_dir()
    needed = list(keys) if by_folder else ["images", *(f"{key}.csv" for key in keys)]
    source = (
        "the lists: data/miniImagenet of https://github.com/twitter-research/meta-learning-lstm"
    )
    source += "; the images: ImageNet's, by these names, or folders train, val and test"
    base = require(options, root, needed, download=download, source=source)
    parts = {
        key: _class_folders(base / key) if by_folder else _listed(base, f"{key}.csv")
        for key in keys
    }
    facts = {"layout": "folders" if by_folder else "lists"}
    return _disjoint(options, parts, MINI_IMAGENET, facts)


def _class_folders(folder: Path) -> Part:
    names = [path.name for path in subfolders(folder)]
    if not names:
        raise ValueError(f"`{folder}` must have a folder per class, but has none; unpack it again.")
    return names, class_listing(folder, names, folder)


def _listed(base: Path, file: str) -> Part:
    """Return the classes and images of a list with lines ``filename,label``."""
    columns = ("filename", "label")

    def parse(row: dict[str, str]) -> tuple[str, str]:
        name, label = row["filename"], row["label"]
        if not (name and label):
            raise ValueError("an empty cell")
        return name, label

    pairs = table_of(base / file, columns, "an image and its class", parse)
    names = sorted({label for _, label in pairs})
    nested = all((base / "images" / name).is_dir() for name in names)
    files = [f"{label}/{name}" if nested else name for name, label in pairs]
    return names, listing(base / "images", files, [names.index(label) for _, label in pairs])


def _disjoint(
    options: Options,
    parts: Mapping[str, Part],
    expected: Mapping[str, int],
    facts: Mapping[str, object] | None = None,
) -> Dataset:
    """Return the dataset of splits with classes of their own, numbered in the order of names."""
    classes = sorted({name for names, _ in parts.values() for name in names})
    count = collections.Counter(name for names, _ in parts.values() for name in names)
    if shared := [name for name in classes if count[name] > 1]:
        raise ValueError(
            f"a class of `{options.name}` must be in one split, but {some(shared)} "
            f"{'is' if len(shared) == 1 else 'are'} in several; unpack the archive again."
        )
    number = {name: label for label, name in enumerate(classes)}
    listings = {}
    for key, (names, part) in parts.items():
        numbers = np.array([number[name] for name in names], dtype=np.int64)
        listings[key] = dataclasses.replace(part, targets=numbers[part.targets])
    return published(options, classes, listings, expected=expected, disjoint=True, facts=facts)
