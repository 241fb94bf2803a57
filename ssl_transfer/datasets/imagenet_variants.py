"""Test sets for classifiers of ImageNet's 1,000 classes; they have no training images.

``protocol=score_as_is`` scores published classifiers on them. The classes are WordNet ids, so that
a set of 200 classes selects these among the classifier's 1,000 outputs.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from ssl_transfer.datasets.base import Dataset, Split, fingerprint
from ssl_transfer.datasets.files import Listing
from ssl_transfer.datasets.folder import class_listing
from ssl_transfer.datasets.layout import read_images, require
from ssl_transfer.datasets.reader import Options, check_sizes, reader, refuse_label_limits, some
from ssl_transfer.datasets.splitting import per_class
from ssl_transfer.datasets.walk import subfolders

Version = Literal["matched-frequency", "threshold0.7", "top-images"]


@functools.cache
def imagenet_classes() -> tuple[str, ...]:
    """Return the WordNet ids of ImageNet's 1,000 classes (ILSVRC 2012), in the usual order."""
    from timm.data import ImageNetInfo  # type: ignore[attr-defined]

    return tuple(ImageNetInfo().label_names())  # type: ignore[no-untyped-call]


def usual_classes(outputs: int) -> tuple[str, ...] | None:
    """Return the classes of a published classifier with so many outputs; None if unknown."""
    return imagenet_classes() if outputs == len(imagenet_classes()) else None


@reader
def imagenet_v2(
    options: Options, root: str, version: Version = "matched-frequency", download: bool = False
) -> Dataset:
    """Return ImageNet-V2: 10,000 new photographs of ImageNet's 1,000 classes, top-1.

    Recht et al. 2019, https://arxiv.org/abs/1902.10811

    Args:
        options: shared options.
        root: folder that holds ``imagenetv2-<version>-format-val/<class number>``.
        version: how the images were selected.
        download: fetches nothing: the set must be fetched by hand. The key is for sweeps over sets.

    Raises:
        ValueError: if a folder is missing or an image does not decode.
    """
    folder = f"imagenetv2-{version}-format-val"
    source = "https://huggingface.co/datasets/vaishaal/ImageNetV2"
    base = require(options, root, [folder], download=download, source=source) / folder
    numbers = [str(number) for number in range(len(imagenet_classes()))]
    _require_among(options, base, [path.name for path in subfolders(base)], numbers)
    listing = class_listing(base, numbers, base)
    return _tested(options, imagenet_classes(), listing, 10_000, {"version": version})


@reader
def imagenet_sketch(options: Options, root: str, download: bool = False) -> Dataset:
    """Return ImageNet-Sketch: 50,889 black-and-white drawings of ImageNet's 1,000 classes, top-1.

    Wang et al. 2019, https://arxiv.org/abs/1905.13549

    Args:
        options: shared options.
        root: folder that holds ``sketch/<wnid>``.
        download: fetches nothing: the set must be fetched by hand. The key is for sweeps over sets.

    Raises:
        ValueError: if a folder is missing or an image does not decode.
    """
    source = "https://github.com/HaohanWang/ImageNet-Sketch"
    base = require(options, root, ["sketch"], download=download, source=source)
    return _by_wnid(options, base / "sketch", classes=1000, images=50_889)


@reader
def imagenet_r(options: Options, root: str, download: bool = False) -> Dataset:
    """Return ImageNet-R: 30,000 paintings, toys, cartoons … of 200 of ImageNet's classes, top-1.

    Hendrycks et al. 2021, https://arxiv.org/abs/2006.16241

    Args:
        options: shared options.
        root: folder that holds ``imagenet-r/<wnid>``.
        download: fetches nothing: the set must be fetched by hand. The key is for sweeps over sets.

    Raises:
        ValueError: if a folder is missing or an image does not decode.
    """
    source = "https://github.com/hendrycks/imagenet-r"
    base = require(options, root, ["imagenet-r"], download=download, source=source)
    return _by_wnid(options, base / "imagenet-r", classes=200, images=30_000)


@reader
def imagenet_a(options: Options, root: str, download: bool = False) -> Dataset:
    """Return ImageNet-A: 7,500 photographs of 200 of ImageNet's classes that ResNets miss, top-1.

    Hendrycks et al. 2021, https://arxiv.org/abs/1907.07174

    Args:
        options: shared options.
        root: folder that holds ``imagenet-a/<wnid>``.
        download: fetches nothing: the set must be fetched by hand. The key is for sweeps over sets.

    Raises:
        ValueError: if a folder is missing or an image does not decode.
    """
    source = "https://github.com/hendrycks/natural-adv-examples"
    base = require(options, root, ["imagenet-a"], download=download, source=source)
    return _by_wnid(options, base / "imagenet-a", classes=200, images=7_500)


def _by_wnid(options: Options, folder: Path, *, classes: int, images: int) -> Dataset:
    """Return a test set in folders that are named by WordNet ids."""
    wnids = [path.name for path in subfolders(folder)]
    _require_among(options, folder, wnids, imagenet_classes())
    check_sizes(options, {"classes": len(wnids)}, {"classes": classes})
    return _tested(options, wnids, class_listing(folder, wnids, folder), images, {})


def _require_among(
    options: Options, folder: Path, names: Sequence[str], known: Sequence[str]
) -> None:
    unknown = sorted(set(names) - set(known))
    if unknown or not names:
        raise ValueError(
            f"`{folder}` must hold one folder per class of `{options.name}`, named like "
            f"{known[0]}, but has {some(unknown) if unknown else 'none'}; unpack the archive again."
        )


def _tested(
    options: Options,
    classes: Sequence[str],
    listing: Listing,
    images: int,
    facts: dict[str, object],
) -> Dataset:
    """Return a dataset whose only images are those of the test split."""
    refuse_label_limits(options, "which has test images only", with_test=False)
    check_sizes(options, {"test": len(listing.paths)}, {"test": images})
    files = read_images(options, {"test": listing}, upright=False)
    test = files.splits["test"]
    if options.test_per_class is not None:
        test = test.subset(
            per_class(test.targets, options.test_per_class, options.split_seed, "test subset")
        )
    empty = Split(images=[], targets=np.empty(0, np.int64), names=[])
    splits = {"train": empty, "val": empty, "test": test}
    return Dataset(
        name=options.name,
        classes=tuple(classes),
        target="class",
        metric="top1",
        splits=splits,
        flip=options.flip,
        fingerprint=fingerprint(classes, splits, files.content),
        facts={
            "sizes": {key: len(split) for key, split in splits.items()},
            "num_classes": len(classes),
            "validation": "none",
            "corrupt": 0,
            **files.facts,
            **facts,
        },
    )
