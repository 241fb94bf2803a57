"""Folders of images: one per class, as for torchvision's ``ImageFolder``, or without labels."""

import dataclasses
import logging
import os
import unicodedata
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np

from ssl_transfer import metrics
from ssl_transfer.config.ranges import Finite, ProperFraction, Range
from ssl_transfer.datasets.base import Dataset, fingerprint
from ssl_transfer.datasets.decoding import decoding_of
from ssl_transfer.datasets.duplicates import OnDuplicates, settle_duplicates
from ssl_transfer.datasets.files import Listing, inspect_files
from ssl_transfer.datasets.groups import group
from ssl_transfer.datasets.nearest import alike, contents, existing_folder
from ssl_transfer.datasets.reader import (
    Options,
    assemble,
    exclude,
    reader,
    refuse_label_limits,
    some,
)
from ssl_transfer.datasets.split_folders import Layout, find_splits
from ssl_transfer.datasets.splitting import hold_out
from ssl_transfer.datasets.walk import (
    EXTENSIONS,
    LeftOut,
    has_images,
    images_and_stamps,
    subfolders,
)
from ssl_transfer.system import inputs
from ssl_transfer.system.known_folders import KnownFolders
from ssl_transfer.system.texts import Texts

log = logging.getLogger(__name__)

ClassFolders = dict[str, Path]
"""Folder of each class by its name, in the order of the class numbers."""


@reader
def image_folder(
    options: Options,
    root: str,
    train_folder: str | None = None,
    val_folder: str | None = None,
    test_folder: str | None = None,
    class_depth: Annotated[int, Range(1, cap=100)] = 1,
    exclude_classes: list[str] | None = None,
    groups: str | None = None,
    on_duplicates: OnDuplicates = "error",
    test_fraction: ProperFraction = 0.2,
    value_range: Sequence[Finite] | None = None,
    metric: metrics.Name | None = None,
    extra_metrics: Sequence[metrics.Name] | None = None,
) -> Dataset:
    """Return the images of ``root``, classes being folders.

    Two layouts: ``root/train/<class>/…`` and ``root/test/<class>/…``, with or without ``root/val``,
    under the usual names of splits (see ``split_folders``); or only ``root/<class>/…``, from which
    a seeded, stratified share is held out for the test, and then for validation (by default 64 %
    train, 16 % val, 20 % test). Images may lie in subfolders of a class; links are followed, and
    several names of one file in a class count once; hidden files are ignored, and other files that
    are not images (``EXTENSIONS``, in upper or lower case) are counted and logged.

    Args:
        options: shared options.
        root: the dataset's folder.
        train_folder: folder of the training images relative to ``root`` (``None``: recognised by
            its name; ``.``: the folders in ``root`` are classes, whatever their names).
        val_folder: likewise.
        test_folder: likewise, e.g. ``val`` if a set has no test folder.
        class_depth: how deep the class folders lie: 2 for ``<family>/<class>/…``.
        exclude_classes: names of class folders that are not read.
        groups: which images show one object and stay together in every split that is made: a
            regular expression or a file (see ``groups.group``) (``None``: only copies stay
            together).
        on_duplicates: how to treat images whose bytes are in two of the given splits (see
            ``duplicates.settle_duplicates``).
        test_fraction: share of every class that is tested, where there is no test folder.
        value_range: see ``decoding.Decoding``.
        metric: primary score, which also selects classifiers (``None``: ``top1``).
        extra_metrics: further scores of the test split. Top-1, the mean over classes and, with more
            than five classes, top-5 are always recorded.

    Raises:
        ValueError: if the folders are not as described, or an image does not decode.
    """
    folder = existing_folder("dataset.root", root, "a folder with one folder per class")
    named = {"train": train_folder, "val": val_folder, "test": test_folder}
    layout = find_splits(folder, named, class_depth=class_depth)
    left_out, known = LeftOut(folder), known_folders(options, folder)
    for unread in layout.unread:
        left_out.add(unread, "folders beside the splits")
    parts = _class_folders(layout, class_depth, exclude_classes or (), left_out)
    classes = tuple(parts["train"])
    places = {key: [part.get(name) for name in classes] for key, part in parts.items()}
    listings = _listings(places, folder, left_out, known, links_once=True)
    known.save()
    del known  # it holds 60 MB per million files
    _require_every_class(options, parts["train"], listings["train"], left_out)
    left_out.tell(options.name)
    _warn_of_deeper_classes(options, layout, parts["train"], listings["train"])
    looked_at = inspect_files(options, listings, decoding_of(value_range))
    files = settle_duplicates(options.name, looked_at, on_duplicates)
    splits = group(options.name, files, groups, folder, classes)
    train, test = splits["train"], splits.get("test")
    if test is None:
        train_indices, test_indices = hold_out(
            train.targets, test_fraction, options.split_seed, "test", train.groups
        )
        train, test = train.subset(train_indices), train.subset(test_indices)
    places_read = {key: _relative([str(part)], folder)[0] for key, part in layout.folders.items()}
    return assemble(
        options,
        classes=classes,
        train=train,
        test=test,
        val=splits.get("val"),
        content=files.content,
        metric=metric,
        extra_metrics=extra_metrics,
        facts={
            **files.facts,
            "test": "own" if "test" in parts else f"seeded, {test_fraction}",
            "folders": places_read,
        },
    )


@reader
def unlabelled_folder(
    options: Options, root: str, value_range: Sequence[Finite] | None = None
) -> Dataset:
    """Return all images below ``root`` as a training split without labels, to pre-train on.

    Links, hidden files and other files are treated as by ``image_folder``. Validation and test
    splits are empty; no protocol accepts such a set as its task.

    Args:
        options: shared options; those that limit labels must be left out.
        root: the folder.
        value_range: see ``decoding.Decoding``.

    Raises:
        ValueError: if there is no image, or an image does not decode.
    """
    refuse_label_limits(options, "which has no labels")
    folder = existing_folder("dataset.root", root, "a folder of images")
    left_out, known = LeftOut(folder), known_folders(options, folder)
    listing = _listings({"train": [folder]}, folder, left_out, known, links_once=True)["train"]
    known.save()
    del known  # it holds 60 MB per million files
    if not len(listing.paths):
        passed = f" (not read: {left_out})" if left_out.names else ""
        raise ValueError(
            f"`{folder}` must have an image ({' '.join(EXTENSIONS[:6])} …) at some depth, but has "
            f"none{passed or contents(folder)}; correct dataset.root."
        )
    left_out.tell(options.name)
    listing = dataclasses.replace(listing, targets=np.full(len(listing.paths), -1))
    looked_at = inspect_files(options, {"train": listing}, decoding_of(value_range))
    files = settle_duplicates(options.name, looked_at, "warn")
    train = files.splits["train"]
    splits = {"train": train, "val": train.subset([]), "test": train.subset([])}
    sizes = {key: len(split) for key, split in splits.items()}
    return Dataset(
        name=options.name,
        classes=(),
        target="none",
        metric="top1",
        splits=splits,
        flip=options.flip,
        fingerprint=fingerprint((), splits, files.content),
        facts={"sizes": sizes, "num_classes": 0, "validation": "none", **files.facts},
    )


def _class_folders(
    layout: Layout, depth: int, excluded: Sequence[str], left_out: LeftOut
) -> dict[str, ClassFolders]:
    """Return the class folders of every split, by their names in the composed Unicode form.

    Raises:
        ValueError: if there are fewer than two training classes, another split has a class without
            training images, or an excluded name does not match any folder.
    """
    parts = {key: _named_folders(part, depth, left_out) for key, part in layout.folders.items()}
    known = sorted({name for part in parts.values() for name in part})
    for name in map(_composed, excluded):
        if name not in known:
            near = alike(name, known)
            raise ValueError(
                f"`dataset.exclude_classes` must name class folders, but `{name}` is none of "
                f"{some(known)}{f'; did you mean `{near}`?' if near else '; correct it.'}"
            )
    drop = set(map(_composed, excluded))
    parts = {
        key: {name: place for name, place in part.items() if name not in drop}
        for key, part in parts.items()
    }
    train = parts["train"]
    if len(train) < 2:
        raise ValueError(
            f"`{layout.folders['train']}` must have at least two class folders with images, but "
            f"has {f'only {some(list(train))}' if train else 'none'}"
            f"{contents(layout.folders['train'])}; put each class's images into its own, or "
            "pre-train without labels on dataset@method.pretrain_on=unlabelled_folder."
        )
    for key, part in parts.items():
        _require_known(key, part, train, layout)
    return parts


def _named_folders(part: Path, depth: int, left_out: LeftOut) -> ClassFolders:
    """Return the folders at a depth below a split's folder, by their paths relative to it."""
    level = [part]
    for _ in range(depth):
        for folder in level:
            if has_images(folder):
                left_out.add(folder, "folders with images beside the class folders")
        level = [inside for folder in level for inside in subfolders(folder)]
    class_folders: ClassFolders = {}
    for folder in level:
        name = _composed(folder.relative_to(part).as_posix())
        if name in class_folders:
            raise ValueError(
                f"`{part}` must have one folder per class, but has two whose names look alike and "
                f"are `{name}` in composed and in decomposed Unicode letters; join them."
            )
        class_folders[name] = folder
    return class_folders


def _composed(name: str) -> str:
    """Return a name with composed letters: macOS decomposes them in file names."""
    return unicodedata.normalize("NFC", name)


def _require_known(key: str, part: ClassFolders, train: ClassFolders, layout: Layout) -> None:
    """Refuse class folders of a split that training images do not have."""
    more = [name for name in part if name not in train]
    if not more:
        return
    fewer = [name for name in train if name not in part]
    near = alike(more[0], fewer)
    also_missing = f" and {some(fewer)} only in train" if fewer else ""
    same = f" (`{more[0]}` and `{near}` may be the same)" if near else ""
    raise ValueError(
        f"`{layout.folders['train']}` and `{layout.folders[key]}` must have the same class "
        f"folders, but there is {some(more)} only in {key}{also_missing}{same}; rename or add "
        f"folders, or leave classes out by {exclude(more)}."
    )


def _require_every_class(
    options: Options, train: ClassFolders, listing: Listing, left_out: LeftOut
) -> None:
    counts = np.bincount(listing.targets, minlength=len(train))
    empty = [name for name, count in zip(train, counts, strict=True) if not count]
    if empty:
        folders = [str(train[name]) for name in empty]
        passed = f" (not read: {left_out})" if left_out.names else ""
        raise ValueError(
            f"every class folder of `{options.name}` must have an image "
            f"({' '.join(EXTENSIONS[:6])} …), but {some(folders)} "
            f"{'has' if len(empty) == 1 else 'have'} none{passed}; add images, or set "
            f"{exclude(empty)}."
        )


def _warn_of_deeper_classes(
    options: Options, layout: Layout, train: ClassFolders, listing: Listing
) -> None:
    """Warn if the folders inside of class folders may be the classes."""
    names = list(train)
    inside: dict[str, set[str]] = {name: set() for name in names}
    for path, target in zip(listing.paths, listing.targets.tolist(), strict=True):
        below = Path(path).relative_to(train[names[target]]).parts
        if len(below) == 1:
            return  # a class folder directly holds an image
        inside[names[target]].add(below[0])
    if 2 * sum(len(folders) > 1 for folders in inside.values()) > len(names):
        deeper = [f"{name}/{folder}" for name in names for folder in sorted(inside[name])]
        log.warning(
            "`%s`: the folders %s are classes, and the %d folders inside of them (%s) are not; if "
            "they should be, set dataset.class_depth=%d",
            options.name, some(names, 3), len(deeper), some(deeper, 2),
            len(Path(names[0]).parts) + 1,
        )  # fmt: skip


def class_listing(
    folder: Path, classes: Sequence[str], root: Path, known: KnownFolders | None = None
) -> Listing:
    """Return the images below each class's folder, of a published set.

    Args:
        folder: holds the classes' folders.
        classes: their names.
        root: folder that the images' names are relative to.
        known: lists the folders, of a set with very many images (see ``known_folders``).

    Raises:
        ValueError: if a class has no image.
    """
    left_out, known = LeftOut(root), known or KnownFolders(None)
    places = [folder / name for name in classes]
    listing = _listings({"all": places}, root, left_out, known)["all"]
    known.save()
    counts = np.bincount(listing.targets, minlength=len(classes))
    empty = [str(folder / name) for name, count in zip(classes, counts, strict=True) if not count]
    if empty:
        raise ValueError(
            f"every class folder must have an image ({' '.join(EXTENSIONS[:6])} …), but "
            f"{some(empty)} {'has' if len(empty) == 1 else 'have'} none; add images or remove the "
            "folder."
        )
    return listing


def known_folders(options: Options, root: Path) -> KnownFolders:
    """Return what lists the folders of a data set: only their names if nothing else is needed."""
    return KnownFolders(str(root), names_only=inputs.names_suffice(options.verify))


def _listings(
    places: Mapping[str, Sequence[Path | None]],
    root: Path,
    left_out: LeftOut,
    known: KnownFolders,
    *,
    links_once: bool = False,
) -> dict[str, Listing]:
    """Return the images below each class's folder (``None``: the class has no folder), by split.

    The splits share the memory of their names and stamps.
    """
    numbers = array("q")  # grows in its place, whereas parts that are joined are in memory twice
    counts: dict[str, list[int]] = {key: [] for key in places}

    def listed() -> Iterator[str]:
        for key, of_classes in places.items():
            for place in of_classes:
                paths: list[str] = []
                if place is not None:
                    paths, rows = images_and_stamps(place, left_out, known, links_once=links_once)
                    numbers.frombytes(rows.tobytes())
                counts[key].append(len(paths))
                yield from _relative(paths, root)

    names = Texts.of(listed())
    stamps = np.frombuffer(numbers, np.int64).reshape(-1, 4)
    listings, start = {}, 0
    for key, of_classes in counts.items():
        rows = slice(start, start + sum(of_classes))
        start = rows.stop
        listings[key] = Listing(
            paths=names[rows].after(f"{root}{os.sep}"),
            names=names[rows],
            targets=np.repeat(np.arange(len(of_classes)), of_classes),
            stamps=stamps[rows],
        )
    return listings


def _relative(paths: Sequence[str], root: Path) -> list[str]:
    """Return paths relative to a folder that they all lie below."""
    start = str(root) + os.sep
    if all(path.startswith(start) for path in paths):
        return [path.removeprefix(start) for path in paths]
    return [Path(os.path.relpath(path, root)).as_posix() for path in paths]
