"""Small images in folders, each of which differs from all others."""

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def noise(name: str) -> Image.Image:
    """Return an image that belongs to a name."""
    chance = np.random.default_rng(zlib.crc32(name.encode()))
    return Image.fromarray(chance.integers(0, 256, (4, 5, 3), dtype=np.uint8))


def fill(root: Path, count: int = 5, classes: Sequence[str] = ("ant", "bee")) -> None:
    """Write as many images into the folder of each class."""
    for name in classes:
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            noise(f"{root}/{name}/{number}").save(root / name / f"{number}.png")
