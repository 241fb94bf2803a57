"""Published folder layouts: required files, download of missing ones, and lists of images."""

import dataclasses
import hashlib
import logging
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ssl_transfer.datasets.annotations import lines_of, numbers_of
from ssl_transfer.datasets.base import Dataset, Targets
from ssl_transfer.datasets.decoding import Decoding
from ssl_transfer.datasets.duplicates import settle_duplicates
from ssl_transfer.datasets.files import Files, Listing, inspect_files
from ssl_transfer.datasets.groups import by_name
from ssl_transfer.datasets.images import CroppedImages
from ssl_transfer.datasets.nearest import nearest
from ssl_transfer.datasets.reader import Options, assemble, check_sizes, some
from ssl_transfer.datasets.splitting import hold_out
from ssl_transfer.system import inputs

log = logging.getLogger(__name__)

Boxes = Mapping[str, Sequence[int]]
"""Left, top, right and bottom in pixels, by a sample's name."""


def require(
    options: Options,
    root: str,
    needed: Sequence[str],
    *,
    download: bool = False,
    fetch: Callable[[str], object] | None = None,
    source: str = "",
) -> Path:
    """Return the dataset's folder after checking that it holds all needed files.

    Args:
        options: options of the dataset, for its name.
        root: the folder, as the user wrote it.
        needed: paths of files and folders relative to it that must exist.
        download: whether to fetch what is missing.
        fetch: downloads and unpacks into the folder (``None``: no automatic download).
        source: where to get the data by hand.

    Raises:
        ValueError: naming the folder, the layout and the first path that is missing.
    """
    base = Path(root).expanduser()
    if download and fetch is not None and not all((base / path).exists() for path in needed):
        run_download(options, lambda: fetch(str(base)))
    missing = next((path for path in needed if not (base / path).exists()), None)
    if missing is None:
        return base
    remedy = "set dataset.root, or dataset.download=true"
    if fetch is None:
        remedy = "download it by hand, or set dataset.root"
    lies = "" if base.is_dir() else nearest(base)
    raise ValueError(
        f"`{options.name}` must lie in `{base}` as {', '.join(needed)}, but `{base / missing}` "
        f"does not exist{lies}; {remedy}{f' ({source})' if source else ''}."
    )


def run_download(options: Options, fetch: Callable[[], object]) -> None:
    """Let torchvision download a dataset.

    Raises:
        ValueError: if the download fails.
    """
    log.info("downloading `%s`", options.name)
    try:
        fetch()
    except (OSError, RuntimeError, ValueError, ImportError) as error:
        raise ValueError(
            f"`{options.name}` must be downloaded, but that failed ({error}); check the network, "
            "or fetch the archive elsewhere and set dataset.root."
        ) from error


def torchvision_fetch(name: str, *calls: Mapping[str, object]) -> Callable[[str], object]:
    """Return a function that lets a class of torchvision download into a folder.

    Args:
        name: name of the class in ``torchvision.datasets``.
        calls: keyword arguments of each call (none: one call, whose archive holds all splits).
    """

    def fetch(root: str) -> None:
        import torchvision

        for keys in calls or ({},):
            getattr(torchvision.datasets, name)(root, **keys, download=True)

    return fetch


def listing(folder: Path, names: Sequence[str], targets: Sequence[int] | Targets) -> Listing:
    """Return the files of these names below a folder."""
    return Listing(
        paths=[str(folder / name) for name in names],
        names=list(names),
        targets=np.asarray(targets, dtype=np.int64),
    )


def pairs_listing(folder: Path, pairs: Sequence[tuple[str, int]]) -> Listing:
    """Return the files below a folder, from their names and class numbers."""
    return listing(folder, [name for name, _ in pairs], [number for _, number in pairs])


def class_numbers(names: Iterable[str], classes: Sequence[str], place: Path) -> list[int]:
    """Return the position of each name among the classes.

    Args:
        names: one per sample.
        classes: names of all classes.
        place: file that has the names, for the message.

    Raises:
        ValueError: if a name is not among the classes.
    """
    names, number = list(names), numbers_of(classes)
    unknown = sorted(set(names) - set(number))
    if unknown:
        raise ValueError(
            f"`{place}` must have classes out of {some(classes)}, but has {some(unknown)}; unpack "
            "the archive again."
        )
    return [number[name] for name in names]


def keep_named(everything: Listing, names: Container[str]) -> Listing:
    """Return the files whose names are among ``names``."""
    indices = [index for index, name in enumerate(everything.names) if name in names]
    return everything.keep(np.array(indices, dtype=np.int64))


def by_lists(
    options: Options, everything: Listing, lists: str | None, split: int
) -> dict[str, Listing]:
    """Return the training and test files that annotation lists name; without lists, all files.

    The layout of https://github.com/vpulab/bn_finetuning: ``split_0/train.txt`` and
    ``split_0/val.txt`` (or ``train_labeled.txt``, ``val_labeled.txt``), and so on; its ``val`` list
    is the test split. A line is ``name label``; the numbering of the labels is not published, so
    that the label is ignored: an image keeps the label that the dataset itself gives it. Only the
    last part of a name counts, with or without its extension.

    Args:
        options: options of the dataset.
        everything: its files.
        lists: folder that holds ``split_0`` (``None``: no lists).
        split: number of the split.

    Raises:
        ValueError: if a list is missing, names an unknown image, or shares an image with the other.
    """
    if lists is None:
        return {"train": everything}
    folder = Path(lists).expanduser() / f"split_{split}"
    names_by_split = {}
    known = {Path(name).stem: name for name in everything.names}
    for key, stem in (("train", "train"), ("test", "val")):
        labelled = folder / f"{stem}_labeled.txt"
        path = labelled if inputs.is_file(labelled) else folder / f"{stem}.txt"
        stems = [Path(line.rsplit(maxsplit=1)[0]).stem for line in lines_of(path)]
        unknown = [name for name in stems if name not in known]
        if unknown:
            raise ValueError(
                f"`{path}` must name images of `{options.name}`, but {some(unknown)} "
                f"{'is' if len(unknown) == 1 else 'are'} unknown; correct dataset.lists."
            )
        names_by_split[key] = {known[name] for name in stems}
    both = sorted(names_by_split["train"] & names_by_split["test"])
    if both:
        raise ValueError(
            f"an image of `{options.name}` must be trained on or tested, but `{folder}` names "
            f"{some(both)} in both lists; remove one."
        )
    return {key: keep_named(everything, names) for key, names in names_by_split.items()}


def read_images(options: Options, listings: Mapping[str, Listing], *, upright: bool) -> Files:
    """Return the splits of files that annotations name; copies are logged, but not dropped.

    Args:
        options: options of the dataset.
        listings: files per split.
        upright: whether to rotate photographs by their EXIF orientation.

    Raises:
        ValueError: if a file does not exist or does not decode.
    """
    missing = [
        path for part in listings.values() for path in part.paths if not Path(path).is_file()
    ]
    if missing:
        raise ValueError(
            f"every image that the annotations of `{options.name}` name must exist, but "
            f"{some(missing)} {'does' if len(missing) == 1 else 'do'} not; unpack the archive "
            "again."
        )
    files = inspect_files(options, listings, Decoding(upright=upright))
    return settle_duplicates(options.name, files, "warn")


def published(
    options: Options,
    classes: Sequence[str],
    listings: Mapping[str, Listing],
    *,
    expected: Mapping[str, int],
    metric: str = "top1",
    extra_metrics: Sequence[str] = (),
    upright: bool = False,
    val_rule: str | None = None,
    test_fraction: float | None = None,
    boxes: Boxes | None = None,
    groups: str | None = None,
    disjoint: bool = False,
    facts: Mapping[str, object] | None = None,
) -> Dataset:
    """Return the dataset of these files, checked against its published sizes.

    Args:
        options: shared options.
        classes: names of the classes.
        listings: ``train``, and ``test`` and ``val`` if they exist.
        expected: published sizes of listings, of ``all`` together, and number of ``classes``.
        metric: primary score.
        extra_metrics: see ``assemble``.
        upright: whether to rotate photographs by their EXIF orientation; torchvision does not.
        val_rule: how validation images are chosen (see ``assemble``).
        test_fraction: share of every class that is tested, if there is no test split.
        boxes: boxes to crop the images to (``None``: whole images).
        groups: regular expression whose parentheses hold the group in a training image's name
            (``None``: no groups).
        disjoint: whether each split has classes of its own (see ``assemble``).
        facts: for the record.

    Raises:
        ValueError: if files are missing or do not decode, or the sizes differ from the published.
    """
    sizes = {key: len(part.paths) for key, part in listings.items()}
    sizes |= {"all": sum(sizes.values()), "classes": len(classes)}
    check_sizes(options, sizes, expected)
    files = read_images(options, listings, upright=upright)
    if boxes is not None:
        files = _cropped(files, boxes)
    train, all_facts = files.splits["train"], dict(facts or {})
    if groups is not None:
        train = dataclasses.replace(train, groups=by_name(train.names, groups))
    test = files.splits.get("test")
    if test is None:
        assert test_fraction is not None
        train_indices, test_indices = hold_out(
            train.targets, test_fraction, options.split_seed, "test", train.groups
        )
        train, test = train.subset(train_indices), train.subset(test_indices)
        all_facts["test"] = f"seeded, {test_fraction}"
    return assemble(
        options,
        classes=classes,
        train=train,
        val=files.splits.get("val"),
        test=test,
        content=files.content,
        metric=metric,
        extra_metrics=extra_metrics,
        val_rule=val_rule,
        disjoint=disjoint,
        facts={**files.facts, **all_facts},
    )


def _cropped(files: Files, boxes: Boxes) -> Files:
    """Return the same splits with each image cropped to its box."""
    digest = hashlib.sha256(files.content.encode())
    splits = {}
    for key, split in files.splits.items():
        bare = [name for name in split.names if name not in boxes]
        if bare:
            raise ValueError(
                f"every image must have a bounding box, but {some(bare)} "
                f"{'has' if len(bare) == 1 else 'have'} none; unpack the archive again, or read "
                "images without boxes."
            )
        cut = np.array([boxes[name] for name in split.names], dtype=np.int64).reshape(-1, 4)
        digest.update(cut.astype("<i8").tobytes())
        splits[key] = dataclasses.replace(split, images=CroppedImages(split.images, cut))
    return dataclasses.replace(files, splits=splits, content=digest.hexdigest())
