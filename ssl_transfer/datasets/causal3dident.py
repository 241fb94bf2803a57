"""Causal3DIdent: rendered objects with ten known factors of the scene."""

import math
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float64

from ssl_transfer.config.ranges import Count
from ssl_transfer.datasets.annotations import REMEDY, reading
from ssl_transfer.datasets.base import Dataset
from ssl_transfer.datasets.files import Listing
from ssl_transfer.datasets.layout import read_images, require
from ssl_transfer.datasets.reader import Options, assemble, check_sizes, reader
from ssl_transfer.datasets.walk import LeftOut, images_below
from ssl_transfer.randomness import permutation

FACTORS = (
    "object_x",
    "object_y",
    "object_z",
    "rotation_alpha",
    "rotation_beta",
    "rotation_gamma",
    "spotlight_angle",
    "object_hue",
    "spotlight_hue",
    "background_hue",
)
SHAPES = ("teapot", "hare", "dragon", "cow", "armadillo", "horse", "head")

# The renderer takes radians: angles enter it by sine and cosine, hues divided by 2 pi. The raw
# latents are those of ``latents_*.npy`` divided by pi / 2 (tools/3dident of
# https://github.com/brendel-group/cl-ica, from which the set was made).
TURN = {"latents": 2 * math.pi, "raw_latents": 4.0}
CIRCULAR = FACTORS[3:]

# README.md of https://github.com/ysharma1126/ssl_identifiability. These are round numbers: the
# seven shapes have equally many images, 25,200 for the test. Sizes within 1 % are accepted.
PUBLISHED = {"train": 250_000, "test": 25_000}


@reader
def causal3dident(
    options: Options,
    root: str,
    latents: Literal["latents", "raw_latents"] = "latents",
    train_images: Count | None = None,
    test_images: Count | None = None,
    download: bool = False,
) -> Dataset:
    """Return Causal3DIdent: 224x224 images of seven objects, with ten factors to regress.

    Official training and test images. The factors are the object's position (3) and rotation (3),
    the angle of the spotlight, and the hues of object, spotlight and background; which of the first
    two is the horizontal one is not published. Rotations, angle and hues have periods, although
    their values only cover half a turn. von Kügelgen et al. 2021, https://arxiv.org/abs/2106.04619

    Args:
        options: shared options.
        root: folder that holds ``trainset`` and ``testset``.
        latents: scale of the factors: ``latents`` as the renderer took them (angles and hues in
            radians), ``raw_latents`` from -1 to 1.
        train_images: read only so many of the training images, drawn by ``split_seed``
            (``null``: all). Smaller choices are contained in larger ones.
        test_images: likewise, of the test images.
        download: fetches nothing: the set must be fetched by hand. The key is for sweeps over sets.

    Raises:
        ValueError: if files are missing or damaged, or images and latents differ in number.
    """
    folders = {"train": "trainset", "test": "testset"}
    base = Path(root).expanduser()
    needed = [
        f"{folder}/{part}"
        for folder in folders.values()
        for number in range(len(SHAPES))
        for part in (_images(base / folder, number), f"{latents}_{number}.npy")
    ]
    source = "trainset.tar.gz and testset.tar.gz of https://zenodo.org/record/4784282"
    base = require(options, root, needed, download=download, source=source)
    listings = {key: _listing(options, base / name, latents) for key, name in folders.items()}
    sizes = {key: len(part.paths) for key, part in listings.items()}
    close = {key: abs(sizes[key] - count) <= count / 100 for key, count in PUBLISHED.items()}
    check_sizes(options, {k: PUBLISHED[k] if close[k] else sizes[k] for k in sizes}, PUBLISHED)
    for key, limit in (("train", train_images), ("test", test_images)):
        if limit is not None and limit < sizes[key]:
            order = permutation(options.split_seed, f"part of {key}", 0, sizes[key])
            listings[key] = listings[key].keep(np.sort(order[:limit]))
    files = read_images(options, listings, upright=False)
    return assemble(
        options,
        classes=FACTORS,
        train=files.splits["train"],
        test=files.splits["test"],
        content=files.content,
        target="values",
        periods=dict.fromkeys(CIRCULAR, TURN[latents]),
        facts={**files.facts, "latents": latents, "available": sizes},
    )


def _images(folder: Path, number: int) -> str:
    """Return the name of the folder with the images of one shape."""
    return str(number) if (folder / str(number)).is_dir() else f"images_{number}"


def _listing(options: Options, folder: Path, latents: str) -> Listing:
    """Return the images of all shapes in order, with their factors."""
    paths, names, factors = [], [], []
    left_out = LeftOut(folder)
    for number, shape in enumerate(SHAPES):
        images = _images(folder, number)
        found = images_below(folder / images, left_out)
        rows = _rows(folder / f"{latents}_{number}.npy")
        in_order = sorted(found, key=_position)
        if [_position(path) for path in in_order] != list(range(len(rows))):
            raise ValueError(
                f"`{folder / images}` must hold one image for each of the {len(rows)} rows of "
                f"{latents}_{number}.npy ({shape}), numbered from 0, but holds {len(found)} "
                f"images{' with other numbers' if len(found) == len(rows) else ''}; {REMEDY}."
            )
        paths += in_order
        names += [f"{images}/{Path(path).name}" for path in in_order]
        factors.append(rows)
    left_out.tell(options.name)
    return Listing(paths, names, np.concatenate(factors))


def _position(path: str) -> int:
    """Return the number in the name of an image, which is its row; -1 if it is no number."""
    stem = Path(path).stem
    return int(stem) if stem.isdecimal() else -1


def _rows(path: Path) -> Float64[np.ndarray, "images factors"]:
    """Return the factors of every image of one shape."""
    form = f"an array of numbers with {len(FACTORS)} columns"
    with reading(path, form):
        rows = np.load(path, allow_pickle=False).astype(np.float64)
        if rows.ndim != 2 or rows.shape[1] < len(FACTORS):
            raise ValueError(f"its shape is {rows.shape}")
    return np.ascontiguousarray(rows[:, : len(FACTORS)])
