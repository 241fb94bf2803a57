"""What readers of landmarks share: crops that the landmarks follow, and building the dataset."""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float64, Int64
from PIL import Image

from ssl_transfer.datasets.base import Dataset, Split
from ssl_transfer.datasets.files import Files, Listing
from ssl_transfer.datasets.geometry import Landmarks
from ssl_transfer.datasets.images import CroppedImages, FileImages
from ssl_transfer.datasets.layout import read_images
from ssl_transfer.datasets.reader import Options, assemble, check_sizes

Boxes = Int64[np.ndarray, "images 4"]
"""Left, top, right and bottom of every image's crop, in whole pixels."""


def checked_files(
    options: Options,
    names: Sequence[str],
    listings: Mapping[str, Listing],
    expected: Mapping[str, int],
) -> Files:
    """Return the checked files of these listings, whose targets are landmarks.

    Args:
        options: shared options.
        names: names of the landmarks.
        listings: files per split.
        expected: published sizes of listings, of ``all`` together, and number of ``landmarks``.

    Raises:
        ValueError: if files are missing or do not decode, or the sizes differ from the published.
    """
    sizes = {key: len(part.paths) for key, part in listings.items()}
    sizes |= {"all": sum(sizes.values()), "landmarks": len(names)}
    check_sizes(options, sizes, expected)
    return read_images(options, listings, upright=False)


def cut(
    split: Split, boxes: Boxes, corners: Float64[np.ndarray, "images 2"] | None = None
) -> Split:
    """Return a split with each image cropped to its box, and the landmarks moved along.

    The parts of a box outside of its image are black.

    Args:
        split: whole images with landmarks.
        boxes: of the images.
        corners: what becomes the origin of the landmarks (``None``: the boxes' left and top edges).
    """
    origin = boxes[:, :2].astype(np.float64) if corners is None else corners
    moved = split.targets.reshape(len(split), -1, 2) - origin[:, None]
    return Split(
        images=CroppedImages(split.images, boxes, padded=True),
        targets=moved.reshape(split.targets.shape),
        names=split.names,
        groups=split.groups,
        sizes=boxes[:, 2:] - boxes[:, :2],
    )


def centre_squares(sizes: Int64[np.ndarray, "images 2"]) -> Boxes:
    """Return the largest central square of each image, rounded to the left and the top.

    Args:
        sizes: width and height of each image in pixels.
    """
    side = sizes.min(axis=1, keepdims=True)
    corner = (sizes - side) // 2
    return np.concatenate([corner, corner + side], axis=1)


def face_squares(
    landmarks: Landmarks, margin: float
) -> tuple[Boxes, Float64[np.ndarray, "images 2"]]:
    """Return the square of each image that its landmarks span, and its corner before rounding.

    The square begins at the smallest x and the smallest y; its side is the larger of width and
    height, both rounded up (datasets/faces_in_the_wild_300w.py of
    https://github.com/linusericsson/ssl-invariances). Pillow rounds its edges to the nearest pixel,
    of two to the even one.

    Args:
        landmarks: x and y of every landmark in pixels, all known.
        margin: share of the side to add on each of the four sides.
    """
    places = landmarks.reshape(len(landmarks), -1, 2)
    low, high = places.min(axis=1), places.max(axis=1)
    side = np.ceil(high - low).max(axis=1, keepdims=True)
    corner = low - margin * side
    edges = np.concatenate([corner, corner + (1 + 2 * margin) * side], axis=1)
    return np.rint(edges).astype(np.int64), corner


def sizes_of(images: FileImages) -> Int64[np.ndarray, "images 2"]:
    """Return width and height of images in files, which are not decoded for this."""
    sizes = np.empty((len(images), 2), dtype=np.int64)
    for number, path in enumerate(images.paths):
        with Image.open(path) as opened:
            sizes[number] = opened.size
    return sizes


def landmark_dataset(
    options: Options,
    names: Sequence[str],
    files: Files,
    splits: Mapping[str, Split],
    *,
    normaliser: tuple[str, str] | None,
    facts: Mapping[str, object],
) -> Dataset:
    """Return the dataset of these splits.

    Args:
        options: shared options.
        names: names of the landmarks.
        files: the checked files.
        splits: ``train``, ``test`` and, if it is official, ``val``, of these files.
        normaliser: the two landmarks whose distance usually divides the errors (``None``: none).
        facts: for the record.
    """
    digest = hashlib.sha256(files.content.encode())
    for key in sorted(splits):
        sizes = splits[key].sizes
        assert sizes is not None
        digest.update(sizes.astype("<i8").tobytes())
    return assemble(
        options,
        classes=names,
        train=splits["train"],
        val=splits.get("val"),
        test=splits["test"],
        content=digest.hexdigest(),
        target="landmarks",
        facts={
            **files.facts,
            "normaliser": None if normaliser is None else list(normaliser),
            **facts,
        },
    )
