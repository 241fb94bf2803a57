import itertools

import numpy as np
import pytest

from results.figures.drawing import Box
from results.figures.labels import Placed, extent, place
from results.figures.theme import LABEL

FRAME = Box(0, 0, 240, 200)


def boxes(placed: list[Placed | None]) -> list[Box]:
    return [one.box for one in placed if one is not None]


def overlapping(shown: list[Box]) -> list[tuple[Box, Box]]:
    return [(a, b) for i, a in enumerate(shown) for b in shown[i + 1 :] if a.common(b) > 0]


def random_points(number: int) -> list[tuple[float, float]]:
    rng = np.random.default_rng(number)
    return [(float(x), float(y)) for x, y in rng.uniform((20, 20), (220, 180), (number, 2))]


@pytest.mark.parametrize("number", [1, 3, 13, 30, 50])
def test_no_two_labels_overlap_and_none_covers_a_point_or_leaves_the_panel(number: int) -> None:
    points = random_points(number)
    labels = [["small_resnet-simclr", f"epochs=100 width={n}"] for n in range(number)]
    shown = boxes(place(points, labels, [0.0] * number, FRAME))
    assert shown
    assert overlapping(shown) == []
    for box in shown:
        assert box.left >= 0
        assert box.top >= 0
        assert box.right <= 240
        assert box.bottom <= 200
        assert not any(box.common(Box(x - 3, y - 3, x + 3, y + 3)) for x, y in points)


@pytest.mark.parametrize("number", [30, 40, 50])
def test_lines_to_labels_do_not_cross_each_other(number: int) -> None:
    points = random_points(number)
    placed = place(points, [[f"encoder_{n}"] for n in range(number)], [0.0] * number, FRAME)
    lines = [
        (complex(*point), complex(*one.line_end))
        for point, one in zip(points, placed, strict=True)
        if one is not None and one.line_end is not None
    ]
    assert len(lines) > 1

    def side(start: complex, end: complex, point: complex) -> float:
        return ((end - start).conjugate() * (point - start)).imag

    for (a, b), (c, d) in itertools.combinations(lines, 2):
        assert side(a, b, c) * side(a, b, d) >= 0 or side(c, d, a) * side(c, d, b) >= 0


def test_few_labels_are_all_placed() -> None:
    points = random_points(9)
    assert None not in place(points, [[f"encoder_{n}"] for n in range(9)], range(9), FRAME)


def test_the_label_of_a_lonely_point_is_beside_it_without_a_line() -> None:
    (placed,) = place([(100.0, 100.0)], [["knn"]], [0.0], FRAME)
    assert placed is not None
    assert placed.line_end is None
    assert placed.box.left == pytest.approx(106)


def test_where_not_all_fit_the_most_important_labels_are_kept() -> None:
    points = [(100.0 + n % 3, 100.0 + n // 3) for n in range(40)]
    labels = [["small_resnet-simclr", "epochs=100 width=32"]] * 40
    importance = [0.0] * 40
    importance[17] = 1.0
    placed = place(points, labels, importance, FRAME)
    assert placed[17] is not None
    assert None in placed


def test_equal_points_do_not_hide_labels_under_each_other() -> None:
    placed = place([(100.0, 100.0)] * 4, [["a"], ["b"], ["c"], ["d"]], [0.0] * 4, FRAME)
    assert None not in placed
    assert overlapping(boxes(placed)) == []


def test_a_label_is_as_wide_as_its_widest_line() -> None:
    across, down = extent(["ii", "mm"], LABEL)
    assert across == pytest.approx(2 * 0.833 * LABEL)
    assert down > 2 * LABEL
