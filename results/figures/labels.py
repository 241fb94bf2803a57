"""Placement of labels beside points, so that no two overlap.

Each label tries 96 places around its point, near ones first: sixteen directions at six distances.
A place is free if its box lies inside the panel and covers no other label, line or point, and if
the line that joins a distant label with its point crosses none of them. A label without a free
place is left out, the least important ones first. The arithmetic of all places of a label is
vectorised, because a report holds thousands of labels.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from results.figures.drawing import Box, Drawing, Point
from results.figures.text import ASCENT, DESCENT, LEADING, width
from results.figures.theme import LABEL

Floats = NDArray[np.float64]

_DISTANCES = np.array([6.0, 14.0, 24.0, 36.0, 50.0, 66.0])
_ANGLES = 2 * np.pi * np.arange(16) / 16
_LINE_FROM = 10.0
"""Distance in pixels from which a line joins a label with its point."""
_FEW = 15
"""Number of points up to which an order that places all labels is tried first."""
_POINT = 4.0
"""Half the side of the square that a point keeps free of labels."""
_MARGIN = np.array([-1.5, -1.5, 1.5, 1.5])
"""Distance between two labels in pixels, at each side."""


class Placed(NamedTuple):
    """The box of a label, and the end of the line that joins it with its point, if there is one."""

    box: Box
    line_end: Point | None


def place(
    points: Sequence[Point],
    labels: Sequence[Sequence[str]],
    importance: Sequence[float],
    frame: Box,
    size: float = LABEL,
    avoid: Sequence[Box] = (),
) -> list[Placed | None]:
    """Return the place of each label, None for those left out.

    Args:
        points: pixels of the points.
        labels: the lines of each label.
        importance: labels of higher importance are placed first.
        frame: the inside of the panel.
        size: size of the text in pixels.
        avoid: boxes of lines, which a label covers only where there is no other place.
    """
    sizes = [extent(lines, size) for lines in labels]
    lines = np.array(avoid, dtype=np.float64).reshape(-1, 4)
    by_importance = sorted(range(len(points)), key=lambda i: (-importance[i], i))
    if len(points) <= _FEW:
        crowded_first = sorted(range(len(points)), key=lambda i: (_nearest(points, i), i))
        placed = _place_in_order(crowded_first, points, sizes, frame, lines)
        if None not in placed:
            return placed
    return _place_in_order(by_importance, points, sizes, frame, lines)


def draw_labels(
    drawing: Drawing, point: Point, placed: Placed | None, lines: Sequence[str], size: float = LABEL
) -> None:
    """Write a placed label and the line to its point; nothing for a label that was left out."""
    if placed is None:
        return
    if placed.line_end is not None:
        drawing.line(point, placed.line_end, drawing.theme.muted, 0.6)
    middle = (placed.box.left + placed.box.right) / 2
    drawing.lines((middle, placed.box.top + ASCENT * size), lines, size, anchor="middle")


def around(start: Point, end: Point) -> Box:
    """Return the box of a horizontal or vertical line, for ``avoid``."""
    (a, b), (c, d) = start, end
    return Box(min(a, c) - 1, min(b, d) - 1, max(a, c) + 1, max(b, d) + 1)


def along(path: Sequence[Point]) -> list[Box]:
    """Return small boxes on the lines through points, for ``avoid``."""
    boxes = []
    for (a, b), (c, d) in itertools.pairwise(path):
        parts = max(1, round(math.dist((a, b), (c, d)) / 6))
        for part in range(parts + 1):
            at = a + (c - a) * part / parts, b + (d - b) * part / parts
            boxes.append(around(at, at))
    return boxes


def _nearest(points: Sequence[Point], index: int) -> float:
    """Return the distance to the nearest other point."""
    distances = (math.dist(points[index], other) for i, other in enumerate(points) if i != index)
    return min(distances, default=0.0)


def extent(lines: Sequence[str], size: float) -> tuple[float, float]:
    """Return width and height of a label."""
    height = (ASCENT + DESCENT + (len(lines) - 1) * LEADING) * size
    return max(width(line, size) for line in lines), height


def _place_in_order(
    order: Sequence[int],
    points: Sequence[Point],
    sizes: Sequence[tuple[float, float]],
    frame: Box,
    avoid: Floats,
) -> list[Placed | None]:
    """Place labels one after another, each at its nearest free place."""
    dots = np.array(points, dtype=np.float64).reshape(-1, 2)
    taken = np.concatenate([dots - _POINT, dots + _POINT], axis=1)  # the points' squares first
    joined = np.empty((0, 2, 2))  # the lines from labels to their points
    placed: list[Placed | None] = [None] * len(points)
    for index in order:
        best = None
        if len(avoid):
            both = np.concatenate([taken, avoid])
            best = _free_place(index, dots, sizes[index], both, joined, frame)
        best = best or _free_place(index, dots, sizes[index], taken, joined, frame)
        if best is None:
            continue
        box, line = best
        taken = np.concatenate([taken, box[None] + _MARGIN])
        if line is not None:
            taken = np.concatenate([taken, np.tile(line[1:-1], 2) + _MARGIN / 3])
            joined = np.concatenate([joined, line[None, [0, -1]]])
        end = None if line is None else (float(line[-1, 0]), float(line[-1, 1]))
        placed[index] = Placed(Box(*box.tolist()), end)
    return placed


def _free_place(
    index: int,
    dots: Floats,
    size: tuple[float, float],
    taken: Floats,
    joined: Floats,
    frame: Box,
) -> tuple[Floats, Floats | None] | None:
    """Return the nearest free box of a label, and the line to its point if it is distant.

    Args:
        index: the label's number.
        dots: all points ``[points, 2]``.
        size: width and height of the label.
        taken: boxes ``[boxes, 4]`` that the label must not cover; the first ones are the points'.
        joined: ends ``[lines, 2, 2]`` of the lines of placed labels.
        frame: the inside of the panel.
    """
    boxes = _candidates(dots[index], *size)
    inside = (boxes[:, :2] >= frame[:2]).all(axis=1) & (boxes[:, 2:] <= frame[2:]).all(axis=1)
    free = boxes[inside][~_overlap(boxes[inside], taken).any(axis=1)]
    others = np.delete(taken, index, axis=0)
    for box in free:  # in the order of their distance
        line = _line(dots[index], box)
        if line is None or not (_covers(line, others) or _crosses(line[[0, -1]], joined)):
            return box, line
    return None


def _candidates(dot: Floats, across: float, down: float) -> Floats:
    """Return boxes ``[96, 4]`` of a label around its point, near ones first."""
    distance = np.repeat(_DISTANCES, len(_ANGLES))
    angle = np.tile(_ANGLES, len(_DISTANCES))
    x = dot[0] + np.cos(angle) * (distance + across / 2)
    y = dot[1] - np.sin(angle) * (distance + down / 2)
    return np.stack([x - across / 2, y - down / 2, x + across / 2, y + down / 2], axis=1)


def _overlap(boxes: Floats, others: Floats) -> NDArray[np.bool_]:
    """Return ``[boxes, others]``: whether two boxes share an area."""
    a, b = boxes[:, None], others[None]
    across = np.minimum(a[..., 2], b[..., 2]) > np.maximum(a[..., 0], b[..., 0])
    down = np.minimum(a[..., 3], b[..., 3]) > np.maximum(a[..., 1], b[..., 1])
    return np.asarray(across & down)


def _line(dot: Floats, box: Floats) -> Floats | None:
    """Return points ``[16, 2]`` on the line from a point to its label; None for a near label."""
    end = np.clip(dot, box[:2], box[2:])
    if math.dist(dot, end) <= _LINE_FROM:
        return None
    return np.asarray(dot + np.linspace(0.1, 1.0, 16)[:, None] * (end - dot))


def _covers(line: Floats, boxes: Floats) -> bool:
    """Return whether a point of a line lies in a box."""
    inside = (line[:, None] >= boxes[None, :, :2]) & (line[:, None] <= boxes[None, :, 2:])
    return bool((inside[..., 0] & inside[..., 1]).any())


def _crosses(line: Floats, others: Floats) -> bool:
    """Return whether a line ``[2, 2]`` crosses one of others ``[lines, 2, 2]``.

    It does if the ends of each lie on different sides of the other.
    """
    (a, b), c, d = line, others[:, 0], others[:, 1]

    def side(start: Floats, end: Floats, point: Floats) -> Floats:
        across, along = end - start, point - start
        return np.asarray(across[..., 0] * along[..., 1] - across[..., 1] * along[..., 0])

    apart = side(a, b, c) * side(a, b, d) < 0
    return bool((apart & (side(c, d, a) * side(c, d, b) < 0)).any())
