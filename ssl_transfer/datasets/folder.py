"""Folders of images: a class each, as for torchvision's ``ImageFolder``, or without labels."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ssl_transfer.datasets.base import Dataset, fingerprint
from ssl_transfer.datasets.files import EXTENSIONS, Listing, inspect_files
from ssl_transfer.datasets.reader import Options, assemble, reader, some
from ssl_transfer.datasets.splitting import hold_out

# Folder names that mean a split, in lower case.
SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}


@reader
def image_folder(options: Options, root: str, test_fraction: float = 0.2) -> Dataset:
    """Return the images of ``root``, classes being folders.

    Two layouts: ``root/train/<class>/…`` and ``root/test/<class>/…``, with or without ``root/val``
    (``valid``, ``validation``); or ``root/<class>/…`` alone, from which a seeded, stratified share
    is held out for the test, and then for validation (by default 64 % train, 16 % val, 20 %
    test). Images may lie in subfolders of a class; links are followed; hidden files and files with
    other extensions (``EXTENSIONS``, in either case) are ignored.

    Args:
        options: shared options.
        root: the dataset's folder.
        test_fraction: share of every class that is tested, where there is no test folder.

    Raises:
        ValueError: if the folders are not as described, or an image does not decode.
    """
    if not 0 < test_fraction < 1:
        raise ValueError(
            f"`dataset.test_fraction` must lie between 0 and 1, but is {test_fraction}."
        )
    folder = _existing(root, "a folder with one folder per class")
    parts = _split_folders(folder)
    classes = _class_names(next(iter(parts.values())))
    for key, part in parts.items():
        _same_classes(key, _class_names(part), classes, parts)
    listings = {key: class_listing(part, classes, folder) for key, part in parts.items()}
    files = inspect_files(options, listings)
    train, test = files.splits["train"], files.splits.get("test")
    if test is None:
        kept, held = hold_out(train.targets, test_fraction, options.split_seed, "test")
        train, test = train.subset(kept), train.subset(held)
    return assemble(
        options,
        classes=classes,
        train=train,
        test=test,
        val=files.splits.get("val"),
        content=files.content,
        facts={**files.facts, "test": "own" if "test" in parts else f"seeded, {test_fraction}"},
    )


@reader
def unlabelled_folder(options: Options, root: str) -> Dataset:
    """Return all images below ``root`` as a training split without labels, to pre-train on.

    Links, hidden files and other files are treated as by ``image_folder``. Validation and test
    splits are empty; no protocol accepts such a set as its task.

    Args:
        options: shared options; those that count labels must be left out.
        root: the folder.

    Raises:
        ValueError: if there is no image, or one does not decode.
    """
    for key in ("labels_per_class", "test_per_class"):
        if getattr(options, key) is not None:
            raise ValueError(
                f"`dataset.{key}` must be null for `{options.name}`, which has no labels, but is "
                f"{getattr(options, key)}; leave it out."
            )
    folder = _existing(root, "a folder of images")
    paths = sorted(_images(folder))
    if not paths:
        raise ValueError(
            f"`{folder}` must have an image ({' '.join(EXTENSIONS)}) at some depth, but has none; "
            "correct dataset.root."
        )
    listing = Listing(paths, _relative(paths, folder), np.full(len(paths), -1))
    files = inspect_files(options, {"train": listing})
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


def _existing(root: str, wanted: str) -> Path:
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise ValueError(
            f"`dataset.root` must be {wanted}, but `{folder}` "
            f"{'is a file' if folder.exists() else 'does not exist'}; correct the path."
        )
    return folder


def subfolders(folder: Path) -> list[Path]:
    """Return the folders in a folder, sorted, without hidden ones."""
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _split_folders(root: Path) -> dict[str, Path]:
    """Return the folder of each split; only ``train`` where there are class folders alone."""
    found: dict[str, Path] = {}
    for folder in subfolders(root):
        for key, names in SPLIT_FOLDERS.items():
            # A split's folder has class folders inside; one with images is a class of that name.
            if folder.name.lower() in names and subfolders(folder):
                if key in found:
                    raise ValueError(
                        f"`{root}` must have one {key} folder, but has `{found[key].name}` and "
                        f"`{folder.name}`; remove one."
                    )
                found[key] = folder
    if "train" in found and "test" in found:
        return {key: found[key] for key in ("train", "val", "test") if key in found}
    if not found or ("train" not in found and len(subfolders(root)) > len(found)):
        return {"train": root}  # class folders; one of them may well be called "test" or "val"
    raise ValueError(
        f"`{root}` must have a train and a test folder, or class folders alone, but has only "
        f"{some([folder.name for folder in found.values()])}; rename or add a folder, or give "
        "dataset.root=…/train to have a test split made from it."
    )


def _class_names(folder: Path) -> tuple[str, ...]:
    names = tuple(path.name for path in subfolders(folder))
    if len(names) < 2:
        raise ValueError(
            f"`{folder}` must have at least two class folders with images, but has "
            f"{f'only `{names[0]}`' if names else 'none'}; put each class's images into its own, "
            "or pre-train without labels on dataset@method.pretrain_on=unlabelled_folder."
        )
    return names


def _same_classes(
    key: str, names: tuple[str, ...], classes: tuple[str, ...], parts: dict[str, Path]
) -> None:
    if names == classes:
        return
    more, fewer = sorted(set(names) - set(classes)), sorted(set(classes) - set(names))
    told = [f"{some(more)} only in {key}"] * bool(more)
    told += [f"{some(fewer)} only in train"] * bool(fewer)
    raise ValueError(
        f"`{parts['train']}` and `{parts[key]}` must have the same class folders, but there is "
        f"{' and '.join(told)}; rename or add folders."
    )


def class_listing(folder: Path, classes: tuple[str, ...], root: Path) -> Listing:
    """Return the images below each class's folder.

    Args:
        folder: holds the classes' folders.
        classes: their names.
        root: what the images' names are relative to.

    Raises:
        ValueError: if a class has no image.
    """
    paths: list[str] = []
    targets: list[int] = []
    empty = []
    for target, name in enumerate(classes):
        found = sorted(_images(folder / name))
        if not found:
            empty.append(str(folder / name))
        paths += found
        targets += [target] * len(found)
    if empty:
        raise ValueError(
            f"every class folder must have an image ({' '.join(EXTENSIONS)}), but {some(empty)} "
            f"{'has' if len(empty) == 1 else 'have'} none; add images or remove the folder."
        )
    return Listing(paths, _relative(paths, root), np.array(targets, dtype=np.int64))


def _relative(paths: list[str], root: Path) -> list[str]:
    return [Path(os.path.relpath(path, root)).as_posix() for path in paths]


def _images(folder: Path) -> Iterator[str]:
    """Yield the image files below a class folder, following links but not in circles."""
    visited = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        visited.add(os.path.realpath(place))
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".")
            and os.path.realpath(os.path.join(place, name)) not in visited  # noqa: PTH118
        ]
        for name in files:
            if name.lower().endswith(EXTENSIONS) and not name.startswith("."):
                path = os.path.join(place, name)  # noqa: PTH118 - faster than Path
                if os.path.isfile(path):  # noqa: PTH113 - a link may lead nowhere
                    yield path
