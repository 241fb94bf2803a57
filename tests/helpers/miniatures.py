"""Small pictures in published layouts, and torchvision as the second judge of what is read."""

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ssl_transfer.datasets import Dataset


def pixels(name: str, height: int = 6, width: int = 5) -> np.ndarray:
    """Return noise that differs from name to name."""
    chance = np.random.default_rng(zlib.crc32(name.encode()))
    return chance.integers(0, 256, (height, width, 3), dtype=np.uint8)


def draw(folder: Path, *names: str) -> None:
    """Write one picture per name below a folder."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(name)).save(path)


def write(path: Path, *lines: str) -> None:
    """Write a text file of these lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def samples(dataset: Dataset, *keys: str) -> dict[str, tuple[Any, Any]]:
    """Return the image and the target of every name in these splits."""
    return {
        name: (image, target)
        for key in keys
        for name, image, target in zip(
            dataset[key].names, dataset[key].images, dataset[key].targets.tolist(), strict=True
        )
    }


def labels(dataset: Dataset, *keys: str) -> dict[str, Any]:
    """Return the target of every name in these splits."""
    return {name: target for name, (_, target) in samples(dataset, *keys).items()}


def assert_equal(dataset: Dataset, keys: Sequence[str], judge: Any, names: Sequence[str]) -> None:
    """Compare splits with a dataset of torchvision: samples, pixels, labels, order.

    Args:
        dataset: what has been read.
        keys: the splits that make up what ``judge`` holds.
        judge: has a picture and a label at each position.
        names: what the samples of ``judge`` are called here, in its order.
    """
    found = samples(dataset, *keys)
    assert len(judge) == len(names) == len(found) == sum(len(dataset[key]) for key in keys)
    for number, name in enumerate(names):
        picture, label = judge[number]
        assert (np.asarray(found[name][0]) == np.asarray(picture)).all()
        assert found[name][1] == label
    for key in keys:
        places = [list(names).index(name) for name in dataset[key].names]
        assert places == sorted(places)
