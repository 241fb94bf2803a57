"""Pairs of crops by their overlap, and masks, against counted pixels."""

import numpy as np
import pytest

from ssl_transfer.datasets.overlapping_crops import (
    LEVELS,
    MEAN_COLOUR,
    intersection,
    iou,
    masked,
    one_contains_other,
    pair_at_level,
    pair_of_quadrants,
)

SCALE, RATIO = (0.2, 1.0), (3 / 4, 4 / 3)


def shown(box: np.ndarray, size: tuple[int, int] = (60, 50)) -> np.ndarray:
    """Return which pixels of an image lie in a box."""
    pixels = np.zeros(size[::-1], dtype=bool)
    left, top, right, bottom = box
    pixels[top:bottom, left:right] = True
    return pixels


def random_boxes(seed: int) -> np.ndarray:
    chance = np.random.default_rng(seed)
    corners = chance.integers(0, 50, (200, 2, 2))
    return np.concatenate([corners.min(axis=1), corners.max(axis=1) + 1], axis=1)


def test_overlap_and_containment_are_those_of_counted_pixels() -> None:
    first, second = random_boxes(0), random_boxes(1)
    second[:20] = first[:20]
    for a, b, share, inside in zip(
        first, second, iou(first, second), one_contains_other(first, second), strict=True
    ):
        one, other = shown(a), shown(b)
        common = one & other
        assert share == pytest.approx(common.sum() / (one | other).sum())
        assert inside == (common.sum() in (one.sum(), other.sum()) and common.any())


@pytest.mark.parametrize("level", LEVELS)
def test_crops_are_at_their_level_and_neither_contains_the_other(level: str) -> None:
    pairs = []
    for number in range(30):
        boxes, fits = pair_at_level(LEVELS[level], (60, 50), SCALE, RATIO, seed=0, number=number)
        assert fits
        assert LEVELS[level].lowest <= iou(boxes[:1], boxes[1:])[0] <= LEVELS[level].highest
        assert not one_contains_other(boxes[:1], boxes[1:])[0]
        for box in boxes:
            assert (box[:2] >= 0).all()
            assert (box[2:] <= (60, 50)).all()
            assert 0.17 < shown(box).mean() <= 1
        pairs.append(boxes.tobytes())
    assert len(set(pairs)) == 30
    again, _ = pair_at_level(LEVELS[level], (60, 50), SCALE, RATIO, seed=0, number=7)
    other, _ = pair_at_level(LEVELS[level], (60, 50), SCALE, RATIO, seed=1, number=7)
    assert again.tobytes() == pairs[7] != other.tobytes()


def test_a_level_that_no_attempt_reaches_gives_the_next_pair_and_says_so() -> None:
    # Crops of the whole image contain each other.
    boxes, fits = pair_at_level(LEVELS["easy"], (40, 40), (1.0, 1.0), (1.0, 1.0), seed=0, number=0)
    assert not fits
    assert boxes.tolist() == [[0, 0, 40, 40]] * 2


def test_crops_of_quadrants_lie_in_two_different_ones() -> None:
    seen = set()
    for number in range(60):
        boxes = pair_of_quadrants((61, 51), (0.4, 1.0), RATIO, seed=0, number=number)
        assert (intersection(boxes[:1], boxes[1:])[0, 2:] <= intersection(
            boxes[:1], boxes[1:])[0, :2]).any()  # fmt: skip
        quadrants = []
        for left, top, right, bottom in boxes.tolist():
            column, row = int(left >= 31), int(top >= 26)
            assert right <= (61 if column else 30)
            assert bottom <= (51 if row else 25)
            assert (right - left) * (bottom - top) >= 0.38 * 30 * 25
            quadrants.append((column, row))
        seen.add(tuple(quadrants))
    assert len(seen) == 12  # ordered pairs of four quadrants


def test_masks_cover_the_overlap_or_as_large_a_random_part() -> None:
    # Views of 40 px; the second one shows the right half of the first one and more.
    boxes = np.array([[0, 0, 80, 80], [40, 0, 80, 40]])
    views = [np.full((40, 40, 3), level, dtype=np.uint8) for level in (10, 20)]
    noise, noise_elsewhere, mean, mean_elsewhere = masked(views, boxes, seed=0, number=3)
    changed = [
        [(version != view).any(axis=2) for version, view in zip(pair, views, strict=True)]
        for pair in (mean, mean_elsewhere)
    ]
    overlap = np.zeros((40, 40), dtype=bool)
    overlap[:20, 20:] = True  # the box (40, 0, 80, 40) at half size
    assert (changed[0][0] == overlap).all()
    assert changed[0][1].all()  # the first view shows all of the second
    assert [part.sum() for part in changed[1]] == [20 * 20, 40 * 40]
    assert (changed[1][0] != overlap).any()
    assert (mean[0][overlap] == MEAN_COLOUR).all()
    assert (noise[0][~overlap] == 10).all()
    assert noise[0][overlap].std() > 50
    assert (np.sort(noise_elsewhere[0], axis=None) == np.sort(noise[0], axis=None)).all()
    again = masked(views, boxes, seed=0, number=3)
    assert (again[1][0] == noise_elsewhere[0]).all()
    assert (masked(views, boxes, seed=1, number=3)[0][0] != noise[0]).any()


def test_views_without_overlap_stay_as_they_are() -> None:
    boxes = np.array([[0, 0, 20, 20], [20, 0, 40, 20]])
    views = [np.full((8, 8, 3), level, dtype=np.uint8) for level in (10, 20)]
    for pair in masked(views, boxes, seed=0, number=0):
        assert all((a == b).all() for a, b in zip(pair, views, strict=True))
