"""Pairs of crops of one image by their overlap, and views whose overlap is masked.

The levels of Shi et al. 2022 (https://arxiv.org/abs/2107.14762, experiments/sample-augs.py of
github.com/WOWNICE/ssl-small). Areas there count a row and a column of pixels too many in the
intersection; here they are exact.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8

from ssl_transfer.datasets.draws import NUM_DRAWS, random_boxes
from ssl_transfer.randomness import derive, uniforms

MEAN_COLOUR = (124, 116, 104)
"""ImageNet's mean in RGB, as published."""
ATTEMPTS_AT_ONCE = 64

Boxes = Int64[np.ndarray, "boxes 4"]
"""Left, top, right and bottom in pixels."""
Picture = UInt8[np.ndarray, "size size 3"]


@dataclasses.dataclass(frozen=True)
class Level:
    """How much the two crops of an image overlap; neither may contain the other.

    Args:
        lowest: smallest intersection over union.
        highest: largest.
        attempts: number of pairs that are drawn until one fits; the next pair is taken as it is.
    """

    lowest: float
    highest: float
    attempts: int


LEVELS = {
    "easy": Level(0.25, 1.0, 1000),
    "hard": Level(0.05, 0.25, 1000),
    "super_hard": Level(0.0001, 0.05, 2000),
}


def intersection(first: Boxes, second: Boxes) -> Boxes:
    """Return the common part of each pair of boxes; without one, its sides are not positive."""
    return np.concatenate(
        [np.maximum(first[:, :2], second[:, :2]), np.minimum(first[:, 2:], second[:, 2:])], axis=1
    )


def _area(boxes: Boxes) -> Int64[np.ndarray, " boxes"]:
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    return np.asarray(sides[:, 0] * sides[:, 1], dtype=np.int64)


def iou(first: Boxes, second: Boxes) -> Float64[np.ndarray, " boxes"]:
    """Return the intersection over union of each pair of boxes."""
    common = _area(intersection(first, second))
    return np.asarray(common / (_area(first) + _area(second) - common), dtype=np.float64)


def one_contains_other(first: Boxes, second: Boxes) -> Bool[np.ndarray, " boxes"]:
    """Return whether a box of each pair lies within the other."""
    common = intersection(first, second)
    inside = (common == first).all(axis=1) | (common == second).all(axis=1)
    return np.asarray(inside, dtype=np.bool_)


def pair_at_level(
    level: Level,
    size: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    *,
    seed: int,
    number: int,
) -> tuple[Boxes, bool]:
    """Return the two boxes of an image's views, and whether they are at the level.

    Args:
        level: the level.
        size: width and height of the image.
        scale: range of a box's share of the area.
        ratio: range of its width over height.
        seed: seed of the set.
        number: number of the image.
    """
    for start in range(0, level.attempts, ATTEMPTS_AT_ONCE):
        attempts = np.arange(start, min(start + ATTEMPTS_AT_ONCE, level.attempts))
        first, second = _pairs(attempts, size, scale, ratio, seed, number)
        shares = iou(first, second)
        fits = (shares >= level.lowest) & (shares <= level.highest)
        fits &= ~one_contains_other(first, second)
        if fits.any():
            chosen = int(fits.argmax())
            return np.stack([first[chosen], second[chosen]]), True
    first, second = _pairs(np.array([level.attempts]), size, scale, ratio, seed, number)
    return np.concatenate([first, second]), False


def _pairs(
    attempts: Int64[np.ndarray, " boxes"],
    size: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    seed: int,
    number: int,
) -> tuple[Boxes, Boxes]:
    """Return the boxes of both views in these attempts."""
    indices = np.full(len(attempts), number, dtype=np.int64)
    sizes = np.tile(np.array(size, dtype=np.int64), (len(attempts), 1))
    first, second = (
        random_boxes(
            sizes,
            uniforms(seed, "overlapping crops", attempts, indices, view=view, draws=NUM_DRAWS),
            scale,
            ratio,
        )
        for view in range(2)
    )
    return first, second


def pair_of_quadrants(
    size: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    *,
    seed: int,
    number: int,
) -> Boxes:
    """Return boxes in two different quadrants of an image, so that they have no common pixel.

    Args:
        size: width and height of the image, at least 2.
        scale: range of a box's share of its quadrant's area.
        ratio: range of its width over height.
        seed: seed of the set.
        number: number of the image.
    """
    width, height = size[0] // 2, size[1] // 2
    corners = np.array(
        [(left, top) for top in (0, size[1] - height) for left in (0, size[0] - width)]
    )
    zero, index = np.zeros(1, dtype=np.int64), np.array([number], dtype=np.int64)
    order = np.argsort(uniforms(seed, "quadrants", zero, index, draws=4)[0])
    boxes, quadrant = [], np.array([[width, height]], dtype=np.int64)
    for view in range(2):
        draws = uniforms(seed, "crops of quadrants", zero, index, view=view, draws=NUM_DRAWS)
        box = random_boxes(quadrant, draws, scale, ratio)
        boxes.append(box + np.tile(corners[order[view]], 2))
    return np.concatenate(boxes)


def masked(
    pictures: Sequence[Picture], boxes: Boxes, *, seed: int, number: int
) -> list[list[Picture]]:
    """Return the pairs of views with their overlap, or as large a random part, replaced.

    Args:
        pictures: the two views, not mirrored.
        boxes: the part of the image that each view shows.
        seed: seed of the set.
        number: number of the image.

    Returns:
        Four pairs in the published order: random pixels in the overlap, and in a random part; the
        mean colour in the overlap, and in a random part. Views without overlap stay as they are.
    """
    common = intersection(boxes[:1], boxes[1:])[0]
    versions = [
        _masked_view(picture, box, common, derive(seed, "masks", number, view))
        for view, (picture, box) in enumerate(zip(pictures, boxes, strict=True))
    ]
    return [list(pair) for pair in zip(*versions, strict=True)]


def _masked_view(
    picture: Picture, box: Int64[np.ndarray, "4"], common: Int64[np.ndarray, "4"], seed: int
) -> list[Picture]:
    """Return the four masked versions of a view."""
    chance = np.random.Generator(np.random.Philox(seed))
    size = len(picture)
    if (common[2:] <= common[:2]).any():
        return [picture.copy() for _ in range(4)]
    # From pixels of the image to pixels of the view; at least one of them.
    factor = size / (box[2:] - box[:2])
    left, top = np.minimum(((common[:2] - box[:2]) * factor).astype(np.int64), size - 1).tolist()
    across, down = ((common[2:] - common[:2]) * factor).astype(np.int64).clip(1).tolist()
    across, down = min(across, size - left), min(down, size - top)
    noise = chance.integers(0, 256, (down, across, 3), dtype=np.uint8)
    colour = np.full((down, across, 3), MEAN_COLOUR, dtype=np.uint8)
    versions = []
    for patch in (noise, colour):
        elsewhere = chance.integers(0, [size - down + 1, size - across + 1]).tolist()
        for row, column in ((top, left), elsewhere):
            version = picture.copy()
            version[row : row + down, column : column + across] = patch
            versions.append(version)
    return versions
