"""CIFAR-10, CIFAR-100 and the Describable Textures, as torchvision keeps (and downloads) them."""

import dataclasses
import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from jaxtyping import Int64, UInt8

from ssl_transfer.config.ranges import Range
from ssl_transfer.datasets.annotations import reading, rows_of, whole_numbers
from ssl_transfer.datasets.base import Dataset, Split
from ssl_transfer.datasets.images import ArrayImages
from ssl_transfer.datasets.layout import listing, published, require, torchvision_fetch
from ssl_transfer.datasets.reader import Options, ValRule, assemble, check_sizes, reader

# Layouts: cifar.py and dtd.py of torchvision/datasets at v0.19.0,
# https://github.com/pytorch/vision/tree/v0.19.0/torchvision/datasets


@dataclasses.dataclass(frozen=True)
class _Cifar:
    """File layout of the Python version of a CIFAR set."""

    folder: str
    files: Mapping[str, tuple[str, ...]]
    meta: str
    labels: str
    class_names: str
    torchvision: str
    expected: Mapping[str, int]


CIFAR10 = _Cifar(
    folder="cifar-10-batches-py",
    files={
        "train": tuple(f"data_batch_{number}" for number in range(1, 6)),
        "test": ("test_batch",),
    },
    meta="batches.meta",
    labels="labels",
    class_names="label_names",
    torchvision="CIFAR10",
    expected={"train": 50_000, "test": 10_000, "classes": 10},
)
CIFAR100 = _Cifar(
    folder="cifar-100-python",
    files={"train": ("train",), "test": ("test",)},
    meta="meta",
    labels="fine_labels",
    class_names="fine_label_names",
    torchvision="CIFAR100",
    expected={"train": 50_000, "test": 10_000, "classes": 100},
)
Percent = Annotated[float, Range(0, 100, open_low=True)]
CIFAR_FORM = "a file of CIFAR's Python version"
CIFAR_REMEDY = "delete it and set dataset.download=true"
DTD_SIZES = {"train": 1880, "val": 1880, "test": 1880, "classes": 47}


@reader
def cifar10(
    options: Options,
    root: str,
    download: bool = False,
    val_rule: ValRule | None = None,
    percent: Percent | None = None,
) -> Dataset:
    """Return CIFAR-10: 32x32 colour images in ten classes, held in memory (184 MB).

    The official 50,000 training images (a seeded, stratified share of them validates) and 10,000
    test images; top-1. Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html

    Args:
        options: shared options.
        root: folder that holds ``cifar-10-batches-py``.
        download: whether torchvision may fetch what is missing.
        val_rule: how validation images are chosen.
        percent: see ``first_percent`` (``None``: all training images).

    Raises:
        ValueError: if a file is missing or is not one of CIFAR-10's.
    """
    return _cifar(options, CIFAR10, root, download, val_rule, percent)


@reader
def cifar100(
    options: Options,
    root: str,
    download: bool = False,
    val_rule: ValRule | None = None,
    percent: Percent | None = None,
) -> Dataset:
    """Return CIFAR-100: 32x32 colour images in a hundred (fine) classes, held in memory (184 MB).

    Official splits as CIFAR-10's; top-1. Krizhevsky 2009,
    https://www.cs.toronto.edu/~kriz/cifar.html

    Args:
        options: shared options.
        root: folder that holds ``cifar-100-python``.
        download: whether torchvision may fetch what is missing.
        val_rule: how validation images are chosen.
        percent: see ``first_percent`` (``None``: all training images).

    Raises:
        ValueError: if a file is missing or is not one of CIFAR-100's.
    """
    return _cifar(options, CIFAR100, root, download, val_rule, percent)


def first_percent(count: int, percent: float) -> Int64[np.ndarray, " kept"]:
    """Return the positions of the first share of a fixed permutation; smaller shares are nested.

    The permutation of https://github.com/TjuJianyu/RRL for its sets ``cifar10_1perc`` and the like:
    numpy's legacy generator with seed 0 shuffles all positions, whatever their classes.

    Args:
        count: number of samples, in their published order.
        percent: share in percent, above 0; the number of samples is rounded down.
    """
    order = np.arange(count)
    np.random.RandomState(0).shuffle(order)
    return order[: int(count * percent / 100)]


def _cifar(
    options: Options,
    layout: _Cifar,
    root: str,
    download: bool,
    val_rule: ValRule | None,
    percent: float | None,
) -> Dataset:
    files = [name for names in layout.files.values() for name in names]
    needed = [f"{layout.folder}/{name}" for name in (*files, layout.meta)]
    fetch = torchvision_fetch(layout.torchvision)
    folder = require(options, root, needed, download=download, fetch=fetch) / layout.folder
    digest = hashlib.sha256()
    splits = {}
    for key, names in layout.files.items():
        pixels, targets = _cifar_images([folder / name for name in names], layout)
        digest.update(pixels.tobytes())
        splits[key] = Split(
            ArrayImages(pixels), targets, [f"{key}/{number:05d}" for number in range(len(targets))]
        )
    classes = _cifar_classes(folder / layout.meta, layout)
    sizes = {key: len(split) for key, split in splits.items()} | {"classes": len(classes)}
    check_sizes(options, sizes, layout.expected)
    train, facts = splits["train"], {}
    if percent is not None:
        train = train.subset(first_percent(len(train), percent))
        facts = {"subset": f"the first {percent:g} % of a fixed permutation"}
    return assemble(
        options,
        classes=classes,
        train=train,
        test=splits["test"],
        content=digest.hexdigest(),
        val_rule=val_rule,
        facts=facts,
    )


@reader
def dtd(
    options: Options, root: str, split: Annotated[int, Range(1, 10)] = 1, download: bool = False
) -> Dataset:
    """Return the Describable Textures Dataset: photographs in 47 classes, top-1.

    Official splits of 40 training, 40 validation and 40 test images per class. Images are read as
    torchvision reads them. Cimpoi et al. 2014, https://www.robots.ox.ac.uk/~vgg/data/dtd/

    Args:
        options: shared options.
        root: folder that holds ``dtd/dtd/images`` and ``dtd/dtd/labels`` (torchvision's nesting;
            the unpacked archive itself, or its parent, are recognised, too).
        split: which of the ten official splits; published results mostly use the first.
        download: whether torchvision may fetch what is missing.

    Raises:
        ValueError: if files are missing or damaged, or an image does not decode.
    """
    folder = _dtd_folder(Path(root).expanduser())
    if folder is None:
        needed = ["dtd/dtd/images", "dtd/dtd/labels"]
        fetch = torchvision_fetch("DTD")
        folder = require(options, root, needed, download=download, fetch=fetch) / "dtd" / "dtd"
    named = {
        key: rows_of(folder / "labels" / f"{key}{split}.txt", "`class/image`", _class_and_name)
        for key in ("train", "val", "test")
    }
    classes = sorted({label for rows in named.values() for label, _ in rows})
    listings = {
        key: listing(
            folder / "images",
            [name for _, name in rows],
            [classes.index(class_name) for class_name, _ in rows],
        )
        for key, rows in named.items()
    }
    return published(
        options,
        classes,
        listings,
        expected=DTD_SIZES,
        facts={"official_split": split},
    )


def _class_and_name(line: str) -> tuple[str, str]:
    label, _ = line.split("/")
    return label, line


def _dtd_folder(base: Path) -> Path | None:
    for folder in (base / "dtd" / "dtd", base / "dtd", base):
        if (folder / "images").is_dir() and (folder / "labels").is_dir():
            return folder
    return None


def _cifar_images(
    paths: list[Path], layout: _Cifar
) -> tuple[UInt8[np.ndarray, "images 32 32 3"], Int64[np.ndarray, " images"]]:
    pixels, targets = [], []
    for path in paths:
        with reading(path, CIFAR_FORM, CIFAR_REMEDY):
            content = _unpickle(path)
            labels, data = content[layout.labels], content["data"]
            if data.dtype != np.uint8 or data.shape != (len(labels), 3 * 32 * 32):
                raise ValueError(f"{data.dtype} pixels {data.shape} for {len(labels)} labels")
        pixels.append(data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        targets.append(whole_numbers(path, labels, 0, layout.expected["classes"] - 1))
    return np.concatenate(pixels), np.concatenate(targets)


def _cifar_classes(path: Path, layout: _Cifar) -> list[str]:
    with reading(path, CIFAR_FORM, CIFAR_REMEDY):
        content = _unpickle(path)
        return [str(name) for name in content[layout.class_names]]


class _PlainUnpickler(pickle.Unpickler):
    """Reads numbers, texts, containers and arrays; never calls anything else.

    CIFAR is published as pickles, which may carry code.
    """

    allowed = frozenset(
        {
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("_codecs", "encode"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        if name == "_reconstruct":  # numpy 2 renamed its module and warns of the old name
            return np.zeros(0).__reduce__()[0]
        return super().find_class(module, name)


def _unpickle(path: Path) -> Any:
    with path.open("rb") as file:
        return _PlainUnpickler(file, encoding="latin1").load()
