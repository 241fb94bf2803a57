"""Published sets that keep many images in one file: SVHN, STL-10 and PatchCamelyon."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from jaxtyping import Int64
from PIL import Image

from ssl_transfer.config.ranges import Range
from ssl_transfer.datasets.annotations import (
    lines_of,
    read_mat,
    reading,
    rows_of,
    whole_numbers,
)
from ssl_transfer.datasets.base import Dataset, Split, fingerprint
from ssl_transfer.datasets.images import ArrayImages, Images
from ssl_transfer.datasets.layout import require, torchvision_fetch
from ssl_transfer.datasets.reader import Options, assemble, check_sizes, reader

# Layouts: svhn.py, stl10.py and pcam.py of torchvision/datasets at v0.19.0,
# https://github.com/pytorch/vision/tree/v0.19.0/torchvision/datasets
STL10_SHAPE = (3, 96, 96)
STL10_UNLABELLED = 100_000
PCAM_PARTS = {"train": "train", "val": "valid", "test": "test"}
PCAM_FILE = "camelyonpatch_level_2_split_{}_{}.h5"


@reader
def svhn(options: Options, root: str, download: bool = False) -> Dataset:
    """Return Street View House Numbers: 32x32 colour images of ten digits, in memory (305 MB).

    Official 73,257 training and 26,032 test images, without the ``extra`` ones; top-1. Netzer et
    al. 2011, http://ufldl.stanford.edu/housenumbers/

    Args:
        options: shared options.
        root: folder that holds ``train_32x32.mat`` and ``test_32x32.mat``.
        download: whether torchvision may fetch what is missing.

    Raises:
        ValueError: if a file is missing or is not one of SVHN's.
    """
    files = {"train": "train_32x32.mat", "test": "test_32x32.mat"}
    base = require(
        options,
        root,
        list(files.values()),
        download=download,
        fetch=torchvision_fetch("SVHN", {"split": "train"}, {"split": "test"}),
    )
    digest = hashlib.sha256()
    splits = {}
    for key, file in files.items():
        # MATLAB counts from 1: the digit 0 has label 10.
        labels = whole_numbers(base / file, read_mat(base / file, "y"), 1, 10) % 10
        pixels = read_mat(base / file, "X")
        _check_pixels(base / file, pixels, (32, 32, 3, len(labels)))
        pixels = np.ascontiguousarray(pixels.transpose(3, 0, 1, 2))
        digest.update(pixels.tobytes())
        splits[key] = Split(ArrayImages(pixels), labels, _names(key, len(labels)))
    return assemble(
        options,
        classes=[str(digit) for digit in range(10)],
        train=splits["train"],
        test=splits["test"],
        content=digest.hexdigest(),
        expected={"train": 73_257, "test": 26_032, "classes": 10},
    )


@reader
def stl10(
    options: Options,
    root: str,
    fold: Annotated[int, Range(0, 9)] | None = None,
    unlabelled: bool = False,
    download: bool = False,
) -> Dataset:
    """Return STL-10: 96x96 colour images of ten classes, read from disk as they are needed.

    Official 5,000 training and 8,000 test images; top-1. Coates et al. 2011,
    https://cs.stanford.edu/~acoates/stl10/

    Args:
        options: shared options.
        root: folder that holds ``stl10_binary``.
        fold: which of the ten official folds of 1,000 training images, from 0 (``None``: all).
        unlabelled: for pre-training only: the 100,000 images without labels become a split of that
            name, and are added to the training images; no protocol accepts such a set as its task.
        download: whether torchvision may fetch what is missing (2.6 GB).

    Raises:
        ValueError: if a file is missing, or the numbers of images and labels differ.
    """
    home = "stl10_binary"
    needed = [f"{home}/{part}_{kind}.bin" for part in ("train", "test") for kind in ("X", "y")]
    needed += [f"{home}/class_names.txt"]
    needed += [f"{home}/fold_indices.txt"] * (fold is not None)
    needed += [f"{home}/unlabeled_X.bin"] * unlabelled
    base = (
        require(options, root, needed, download=download, fetch=torchvision_fetch("STL10")) / home
    )
    splits = {}
    for key in ("train", "test"):
        path = base / f"{key}_y.bin"
        labels = whole_numbers(path, np.fromfile(path, dtype=np.uint8), 1, 10) - 1
        splits[key] = _stl10_split(base / f"{key}_X.bin", labels, key)
    expected = {"train": 5000, "test": 8000, "classes": 10}
    train = splits["train"]
    if fold is not None:
        train, expected = train.subset(_stl10_fold(base, fold, train)), expected | {"train": 1000}
    dataset = assemble(
        options,
        classes=lines_of(base / "class_names.txt"),
        train=train,
        test=splits["test"],
        content=" ".join(_file_hash(base / f"{key}_X.bin") for key in ("train", "test")),
        expected=expected,
        facts={"fold": fold},
    )
    return _with_unlabelled(options, dataset, base) if unlabelled else dataset


def _stl10_fold(folder: Path, fold: int, train: Split) -> list[int]:
    """Return the positions in the training images that make up a fold."""

    def parse(line: str) -> list[int]:
        return [range(len(train)).index(int(position)) for position in line.split()]

    path = folder / "fold_indices.txt"
    folds = rows_of(path, f"positions of training images, from 0 to {len(train) - 1}", parse)
    if len(folds) != 10:
        raise ValueError(
            f"`{path}` must have a line for each of ten folds, but has {len(folds)}; unpack the "
            "archive again."
        )
    return folds[fold]


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _stl10_split(path: Path, labels: Int64[np.ndarray, " images"] | None, key: str) -> Split:
    """Return the images of a file that stores every channel in column-major order."""
    count, rest = divmod(path.stat().st_size, int(np.prod(STL10_SHAPE)))
    if labels is None:
        labels = np.full(count, -1, dtype=np.int64)
    if rest or count != len(labels):
        raise ValueError(
            f"`{path}` must hold {len(labels)} images of 96x96 px, one per label, but has "
            f"{path.stat().st_size} bytes; unpack the archive again."
        )
    return Split(_ColumnImages(path, count), labels, _names(key, count))


def _with_unlabelled(options: Options, dataset: Dataset, folder: Path) -> Dataset:
    path = folder / "unlabeled_X.bin"
    more = _stl10_split(path, None, "unlabelled")
    check_sizes(options, {"unlabelled": len(more)}, {"unlabelled": STL10_UNLABELLED})
    splits = {**dataset.splits, "unlabelled": more, "train": dataset["train"] + more}
    content = f"{dataset.fingerprint} {path.stat().st_size}"
    return dataclasses.replace(
        dataset,
        target="none",
        splits=splits,
        fingerprint=fingerprint(dataset.classes, splits, content),
        facts={**dataset.facts, "sizes": {key: len(split) for key, split in splits.items()}},
    )


class _ColumnImages(Images):
    """STL-10's images in their file; a worker process gets the path, not the pixels."""

    def __init__(self, path: Path, count: int) -> None:
        self.path, self.length = path, count

    def __len__(self) -> int:
        return self.length

    def load(self, index: int) -> Image.Image:
        """Return one image."""
        size = int(np.prod(STL10_SHAPE))
        pixels = np.fromfile(self.path, dtype=np.uint8, count=size, offset=index * size)
        return Image.fromarray(np.ascontiguousarray(pixels.reshape(STL10_SHAPE).transpose(2, 1, 0)))


@reader
def pcam(options: Options, root: str, download: bool = False) -> Dataset:
    """Return PatchCamelyon: 96x96 patches of lymph nodes with and without tumour, top-1 and AUC.

    Official 262,144 training, 32,768 validation and 32,768 test patches. Images are read from HDF5
    as they are needed, which requires the package h5py. Veeling et al. 2018,
    https://arxiv.org/abs/1806.03962

    Args:
        options: shared options.
        root: folder that holds ``pcam``.
        download: whether torchvision may fetch what is missing (7 GB; requires the package gdown).

    Raises:
        ValueError: if a file or h5py is missing, or the numbers of images and labels differ.
    """
    if _h5py() is None:
        raise ValueError(
            f"`{options.name}` must be read with the package h5py, but that is not installed; "
            "install it (pip install h5py)."
        )
    named = {
        (key, kind): f"pcam/{PCAM_FILE.format(part, kind)}"
        for key, part in PCAM_PARTS.items()
        for kind in ("x", "y")
    }
    parts: list[dict[str, object]] = [{"split": key} for key in PCAM_PARTS]
    base = require(
        options,
        root,
        list(named.values()),
        download=download,
        fetch=torchvision_fetch("PCAM", *parts),
    )
    splits, sizes = {}, []
    for key in PCAM_PARTS:
        path = base / named[key, "y"]
        with reading(path, "an HDF5 file with `y`"), _h5py().File(path) as file:
            numbers = np.array(file["y"])
        labels = whole_numbers(path, numbers, 0, 1)
        path = base / named[key, "x"]
        with reading(path, "an HDF5 file of 8-bit RGB patches `x`"), _h5py().File(path) as file:
            count, *shape = file["x"].shape
            if shape != [96, 96, 3] or file["x"].dtype != np.uint8:
                raise ValueError(f"they are {file['x'].dtype} of shape {shape}")
        if count != len(labels):
            raise ValueError(
                f"`{path}` must hold {len(labels)} patches, one per label, but has {count}; "
                "unpack the archive again."
            )
        sizes.append((key, path.stat().st_size))
        splits[key] = Split(_HDF5Images(path, "x", count), labels, _names(key, count))
    return assemble(
        options,
        classes=["normal", "tumour"],
        train=splits["train"],
        val=splits["val"],
        test=splits["test"],
        content=repr(sizes),
        extra_metrics=("auc",),
        expected={"train": 262_144, "val": 32_768, "test": 32_768, "classes": 2},
    )


def _h5py() -> Any:
    """Return the module h5py, or None where it is not installed."""
    try:
        import h5py
    except ImportError:
        return None
    return h5py


class _HDF5Images(Images):
    """Images in one array of an HDF5 file, which is opened for each read.

    An open file must not be shared with forked workers; opening costs 0.2 ms.
    """

    def __init__(self, path: Path, key: str, count: int) -> None:
        self.path, self.key, self.length = path, key, count

    def __len__(self) -> int:
        return self.length

    def load(self, index: int) -> Image.Image:
        """Return one image."""
        with _h5py().File(self.path) as file:
            return Image.fromarray(file[self.key][index])


def _names(key: str, count: int) -> list[str]:
    return [f"{key}/{number:06d}" for number in range(count)]


def _check_pixels(path: Path, pixels: Any, shape: tuple[int, ...]) -> None:
    if pixels.dtype != np.uint8 or pixels.shape != shape:
        raise ValueError(
            f"`{path}` must hold 8-bit pixels of shape {shape}, one image per label, but has "
            f"{pixels.dtype} of shape {pixels.shape}; unpack the archive again."
        )
