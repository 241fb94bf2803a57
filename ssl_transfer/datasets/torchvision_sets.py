"""Published sets in the layout in which torchvision keeps (and downloads) them."""

import hashlib
import logging
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from ssl_transfer.datasets.base import Dataset, Split
from ssl_transfer.datasets.files import Listing, inspect_files
from ssl_transfer.datasets.images import ArrayImages
from ssl_transfer.datasets.reader import Options, assemble, reader, some

logger = logging.getLogger(__name__)

# Layout: torchvision/datasets/cifar.py and dtd.py at v0.19.0,
# https://github.com/pytorch/vision/tree/v0.19.0/torchvision/datasets
CIFAR10_FOLDER = "cifar-10-batches-py"
CIFAR10_FILES = {
    "train": tuple(f"data_batch_{number}" for number in range(1, 6)),
    "test": ("test_batch",),
}
CIFAR10_SIZES = {"train": 50_000, "test": 10_000}
DTD_SIZES = {"train": 1880, "val": 1880, "test": 1880}
DTD_SPLITS = range(1, 11)


@reader
def cifar10(options: Options, root: str, download: bool = False) -> Dataset:
    """Return CIFAR-10: 32x32 colour images in ten classes, held in memory (184 MB).

    The official 50,000 training images (a seeded, stratified share of them validates) and 10,000
    test images; top-1. Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html

    Args:
        options: shared options.
        root: folder that holds ``cifar-10-batches-py``.
        download: whether torchvision may fetch what is missing.

    Raises:
        ValueError: if a file is missing or is not one of CIFAR-10's.
    """
    folder = Path(root).expanduser() / CIFAR10_FOLDER
    files = [name for names in CIFAR10_FILES.values() for name in names]
    wanted = [folder / name for name in (*files, "batches.meta")]
    if download and not all(path.is_file() for path in wanted):
        from torchvision.datasets import CIFAR10

        _download(options, lambda: CIFAR10(str(folder.parent), download=True))
    missing = [str(path) for path in wanted if not path.is_file()]
    if missing:
        raise ValueError(
            f"`{options.name}` must lie in `{folder}` as data_batch_1 to data_batch_5, test_batch "
            f"and batches.meta, but {some(missing, 2)} {'is' if len(missing) == 1 else 'are'} "
            "missing; set dataset.root, or dataset.download=true."
        )
    digest = hashlib.sha256()
    splits = {}
    for key, names in CIFAR10_FILES.items():
        pixels, targets = _cifar_images([folder / name for name in names])
        digest.update(pixels.tobytes())
        splits[key] = Split(
            ArrayImages(pixels), targets, [f"{key}/{number:05d}" for number in range(len(targets))]
        )
    meta = _unpickle(folder / "batches.meta")
    return assemble(
        options,
        classes=[str(name) for name in meta["label_names"]],
        train=splits["train"],
        test=splits["test"],
        content=digest.hexdigest(),
        expected=CIFAR10_SIZES,
    )


@reader
def dtd(options: Options, root: str, split: int = 1, download: bool = False) -> Dataset:
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
        ValueError: if files are missing or an image does not decode.
    """
    if split not in DTD_SPLITS:
        raise ValueError(f"`dataset.split` must be one of 1 to 10, but is {split}.")
    base = Path(root).expanduser()
    folder = _dtd_folder(base)
    if folder is None and download:
        from torchvision.datasets import DTD

        _download(options, lambda: DTD(str(base), download=True))
        folder = _dtd_folder(base)
    if folder is None:
        raise ValueError(
            f"`{options.name}` must lie in `{base}` as dtd/dtd/images/<class>/*.jpg and "
            "dtd/dtd/labels/train1.txt and so on, but these folders are missing; set "
            "dataset.root, or dataset.download=true."
        )
    named = {key: _dtd_names(folder, f"{key}{split}.txt") for key in DTD_SIZES}
    classes = sorted({name.partition("/")[0] for names in named.values() for name in names})
    listings = {
        key: Listing(
            paths=[str(folder / "images" / name) for name in names],
            names=names,
            targets=np.array([classes.index(n.partition("/")[0]) for n in names], dtype=np.int64),
        )
        for key, names in named.items()
    }
    missing = [
        path for part in listings.values() for path in part.paths if not Path(path).is_file()
    ]
    if missing:
        raise ValueError(
            f"every image that the labels of `{options.name}` name must exist, but {some(missing)} "
            f"{'does' if len(missing) == 1 else 'do'} not; unpack the archive again."
        )
    files = inspect_files(options, listings, upright=False)
    return assemble(
        options,
        classes=classes,
        train=files.splits["train"],
        val=files.splits["val"],
        test=files.splits["test"],
        content=files.content,
        expected=DTD_SIZES,
        facts={**files.facts, "official_split": split},
    )


def _download(options: Options, fetch: Callable[[], object]) -> None:
    logger.info("downloading `%s`", options.name)
    try:
        fetch()
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"`{options.name}` must be downloaded, but that failed ({error}); check the network, "
            "or fetch the archive elsewhere and set dataset.root."
        ) from error


def _dtd_folder(base: Path) -> Path | None:
    for folder in (base / "dtd" / "dtd", base / "dtd", base):
        if (folder / "images").is_dir() and (folder / "labels").is_dir():
            return folder
    return None


def _dtd_names(folder: Path, file: str) -> list[str]:
    path = folder / "labels" / file
    if not path.is_file():
        raise ValueError(
            f"`{path}` must list images, but does not exist; unpack the archive again."
        )
    return path.read_text().split()


def _cifar_images(
    paths: list[Path],
) -> tuple[UInt8[np.ndarray, "images 32 32 3"], Int64[np.ndarray, " images"]]:
    parts = [_unpickle(path) for path in paths]
    pixels = np.concatenate([part["data"] for part in parts]).reshape(-1, 3, 32, 32)
    targets = np.array([label for part in parts for label in part["labels"]], dtype=np.int64)
    return np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)), targets


class _PlainUnpickler(pickle.Unpickler):
    """Reads numbers, texts, containers and arrays; never calls anything else.

    CIFAR-10 is published as pickles, which may carry code.
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
        if name == "_reconstruct":  # its module was renamed in numpy 2, which warns of the old name
            return np.zeros(0).__reduce__()[0]
        return super().find_class(module, name)


def _unpickle(path: Path) -> Mapping[str, Any]:
    try:
        with path.open("rb") as file:
            content = _PlainUnpickler(file, encoding="latin1").load()
    except (pickle.UnpicklingError, EOFError, ValueError, ImportError, IndexError) as error:
        raise ValueError(
            f"`{path}` must be a file of CIFAR-10's Python version, but cannot be read ({error}); "
            "delete it and set dataset.download=true."
        ) from error
    assert isinstance(content, dict)
    return content
