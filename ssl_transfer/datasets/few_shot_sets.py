"""Few-shot sets, whose test classes have no training images: Omniglot and miniImageNet."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

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

TRAINED_DRAWERS = 10
"""People 1 to 10 of the 20 who drew each character train in ``split_rule=drawers``."""

MINI_IMAGENET = {"train": 38_400, "val": 9_600, "test": 12_000, "classes": 100}


@reader
def omniglot(
    options: Options,
    root: str,
    download: bool = False,
    split_rule: Literal["drawers"] | None = None,
    alphabets: list[str] | None = None,
) -> Dataset:
    """Return Omniglot: 1,623 handwritten characters of 50 alphabets, 20 drawings of each, top-1.

    The 964 characters of the 30 background alphabets train (a seeded, stratified share of their
    drawings validates), the 659 of the 20 evaluation alphabets are tested. No test class has a
    training image. Characters are not rotated into further classes. Lake et al. 2015,
    https://doi.org/10.1126/science.aab3050; https://github.com/brendenlake/omniglot

    Args:
        options: shared options.
        root: folder that holds ``omniglot-py``.
        download: whether torchvision may fetch what is missing.
        split_rule: ``drawers`` makes an ordinary classification task of the background characters:
            drawings 1 to 10 of each train, 11 to 20, which are other people's, are tested.
        alphabets: background alphabets whose characters that task has (``None``: all 30).

    Raises:
        ValueError: if files are missing or damaged, or an image does not decode.
    """
    home, folders = "omniglot-py", {"train": "images_background", "test": "images_evaluation"}
    if alphabets is not None and split_rule is None:
        raise ValueError(
            f"`dataset.alphabets` must be null without dataset.split_rule=drawers, but is "
            f"{alphabets}; set the rule, or leave the alphabets out."
        )
    if split_rule is not None:
        del folders["test"]
    sets = {"train": {"background": True}, "test": {"background": False}}
    base = require(
        options,
        root,
        [f"{home}/{folder}" for folder in folders.values()],
        download=download,
        fetch=torchvision_fetch("Omniglot", *(sets[key] for key in folders)),
    )
    if split_rule is not None:
        return _of_drawers(options, base / home / folders["train"], alphabets)
    parts = {key: _characters(base / home / folder) for key, folder in folders.items()}
    expected = {"train": 19_280, "test": 13_180, "classes": 1623}
    return _disjoint(options, parts, expected)


def _of_drawers(options: Options, folder: Path, alphabets: Sequence[str] | None) -> Dataset:
    """Return the task of the background characters, tested on the drawings of other people."""
    known = [alphabet.name for alphabet in subfolders(folder)]
    if alphabets is not None and (unknown := sorted(set(alphabets) - set(known))):
        raise ValueError(
            f"`dataset.alphabets` must name folders in `{folder}` ({some(known, 30)}), but "
            f"{some(unknown)} {'is' if len(unknown) == 1 else 'are'} none; correct the names."
        )
    names, everything = _characters(folder, alphabets)
    # A file is called 0001_01.png: number of the character, number of the person.
    person = np.array([int(Path(name).stem.rpartition("_")[2]) for name in everything.names])
    listings = {
        "train": everything.keep(np.flatnonzero(person <= TRAINED_DRAWERS)),
        "test": everything.keep(np.flatnonzero(person > TRAINED_DRAWERS)),
    }
    expected = {"train": 9640, "test": 9640, "classes": 964} if alphabets is None else {}
    facts = {"split_rule": "drawers"}
    return published(options, names, listings, expected=expected, facts=facts)


def _characters(folder: Path, alphabets: Sequence[str] | None = None) -> Part:
    """Return the characters (``alphabet/character``) and drawings below a folder of alphabets."""
    names = [
        f"{alphabet.name}/{character.name}"
        for alphabet in subfolders(folder)
        if alphabets is None or alphabet.name in alphabets
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
