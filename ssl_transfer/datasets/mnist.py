"""MNIST and Fashion-MNIST, as torchvision keeps (and downloads) them."""

import hashlib
import math
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ssl_transfer.datasets.annotations import whole_numbers
from ssl_transfer.datasets.base import Dataset, Split
from ssl_transfer.datasets.images import Images
from ssl_transfer.datasets.layout import require, torchvision_fetch
from ssl_transfer.datasets.reader import Options, assemble, reader

# Layout: mnist.py of torchvision/datasets at v0.19.0,
# https://github.com/pytorch/vision/tree/v0.19.0/torchvision/datasets
FILES = {"train": "train", "test": "t10k"}
EXPECTED = {"train": 60_000, "test": 10_000, "classes": 10}
FASHION = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
    "Ankle boot",
)  # fmt: skip
_BYTES = 0x08  # type code of unsigned bytes in IDX files


@reader
def mnist(options: Options, root: str, download: bool = False) -> Dataset:
    """Return MNIST: 28x28 grey images of ten handwritten digits, in memory (55 MB), top-1.

    Official 60,000 training and 10,000 test images. LeCun et al. 1998,
    http://yann.lecun.com/exdb/mnist/

    Args:
        options: shared options.
        root: folder that holds ``MNIST/raw``.
        download: whether torchvision may fetch what is missing.

    Raises:
        ValueError: if a file is missing or is not one of MNIST's.
    """
    return _read(options, root, download, "MNIST", tuple("0123456789"))


@reader
def fashionmnist(options: Options, root: str, download: bool = False) -> Dataset:
    """Return Fashion-MNIST: 28x28 grey images of ten kinds of clothing, in memory (55 MB), top-1.

    Official 60,000 training and 10,000 test images. Xiao et al. 2017,
    https://arxiv.org/abs/1708.07747

    Args:
        options: shared options.
        root: folder that holds ``FashionMNIST/raw``.
        download: whether torchvision may fetch what is missing.

    Raises:
        ValueError: if a file is missing or is not one of Fashion-MNIST's.
    """
    return _read(options, root, download, "FashionMNIST", FASHION)


def _read(
    options: Options, root: str, download: bool, name: str, classes: tuple[str, ...]
) -> Dataset:
    """Return one of the two sets; ``name`` is its class in torchvision."""
    home = f"{name}/raw"
    named = {
        (key, kind): f"{home}/{stem}-{kind}-ubyte"
        for key, stem in FILES.items()
        for kind in ("images-idx3", "labels-idx1")
    }
    fetch = torchvision_fetch(name)
    base = require(options, root, list(named.values()), download=download, fetch=fetch)
    digest = hashlib.sha256()
    splits = {}
    for key in FILES:
        pixels = _array(base / named[key, "images-idx3"], axes=3)
        path = base / named[key, "labels-idx1"]
        labels = whole_numbers(path, _array(path, axes=1), 0, 9)
        if len(pixels) != len(labels):
            raise ValueError(
                f"`{base / named[key, 'images-idx3']}` must hold {len(labels)} images, one per "
                f"label, but has {len(pixels)}; unpack the archive again."
            )
        digest.update(pixels.tobytes())
        names = [f"{key}/{number:05d}" for number in range(len(labels))]
        splits[key] = Split(_GreyImages(pixels), labels, names)
    return assemble(
        options,
        classes=classes,
        train=splits["train"],
        test=splits["test"],
        content=digest.hexdigest(),
        expected=EXPECTED,
    )


def _array(path: Path, axes: int) -> UInt8[np.ndarray, "..."]:
    """Return the bytes of an IDX file: two zeros, a type, the number of axes, their lengths."""
    content = path.read_bytes()
    start = 4 + 4 * axes
    shape = [int.from_bytes(content[i : i + 4]) for i in range(4, start, 4)]
    if content[:4] != bytes([0, 0, _BYTES, axes]) or len(content) != start + math.prod(shape):
        raise ValueError(
            f"`{path}` must be a whole IDX file of bytes with {axes} axes, but is not; unpack the "
            "archive again."
        )
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)


class _GreyImages(Images):
    """Grey images in memory; each is converted to RGB on access."""

    def __init__(self, pixels: UInt8[np.ndarray, "images height width"]) -> None:
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def load(self, index: int) -> Image.Image:
        """Return one image."""
        return Image.fromarray(self.pixels[index]).convert("RGB")
