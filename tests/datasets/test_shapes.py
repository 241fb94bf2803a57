"""Rendered shapes: what is drawn is what the targets say."""

import colorsys
import math

import numpy as np
import pytest

from ssl_transfer.datasets import Dataset
from ssl_transfer.datasets.shapes import BACKGROUND, PERIODS, POLYGONS, RANGES, render, shapes
from ssl_transfer.datasets.shapes import contains as polygon_contains

PLAIN = {"x": 24.0, "y": 24.0, "rotation": 0.2, "hue": 0.0, "size": 10.3, "lighting": 1.0}


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return shapes(name="shapes", flip=False)


def drawn(shape: str, **factors: float) -> np.ndarray:
    return render(shape, **(PLAIN | factors)).astype(float)


def object_weights(image: np.ndarray) -> np.ndarray:
    """Return how far each pixel is from the background, which is the covered share."""
    distance = np.abs(image - image[0, 0]).sum(axis=2)
    return distance / distance.sum()


def centroid(image: np.ndarray) -> np.ndarray:
    weights, places = object_weights(image), np.arange(48) + 0.5
    return np.array([weights.sum(axis=0) @ places, weights.sum(axis=1) @ places])


def test_factors_lie_in_their_ranges_and_spread_over_them(dataset: Dataset) -> None:
    assert dataset.classes == ("x", "y", "rotation", "hue", "size", "lighting")
    assert (dataset.target, dataset.periods) == ("values", PERIODS)
    assert dataset.facts["sizes"] == {"train": 320, "val": 80, "test": 200}
    everything = np.concatenate([split.targets for split in dataset.splits.values()])
    for column, (low, high) in zip(everything.T, RANGES.values(), strict=True):
        assert low <= column.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < column.max() < high
    # They are independent of each other.
    correlations = np.corrcoef(everything.T)
    assert np.abs(correlations - np.eye(6)).max() < 0.15


def test_the_images_are_the_rendered_factors(dataset: Dataset) -> None:
    test = dataset["test"]
    for index in (0, 50, 199):
        shape = test.names[index].partition("/")[0]
        factors = dict(zip(RANGES, test.targets[index].tolist(), strict=True))
        assert (np.asarray(test.images[index]) == render(shape, **factors)).all()


def test_the_split_depends_on_its_seed_and_the_images_do_not(dataset: Dataset) -> None:
    other = shapes(name="shapes", flip=False, split_seed=1)
    assert {*other["test"].names} != {*dataset["test"].names}
    by_name = [
        {
            name: part.targets[i]
            for part in data.splits.values()
            for i, name in enumerate(part.names)
        }
        for data in (dataset, other)
    ]
    assert by_name[0].keys() == by_name[1].keys()
    assert all((by_name[0][name] == by_name[1][name]).all() for name in by_name[0])


@pytest.mark.parametrize("shape", POLYGONS)
def test_position_moves_the_object_by_as_many_pixels(shape: str) -> None:
    start = centroid(drawn(shape))
    for dx, dy in ((5, 0), (0, -6), (2.5, 3.25)):
        moved = centroid(drawn(shape, x=24 + dx, y=24 + dy))
        np.testing.assert_allclose(moved - start, [dx, dy], atol=0.1)


@pytest.mark.parametrize("shape", POLYGONS)
def test_rotation_turns_the_object_and_no_other_angle_gives_the_same_image(shape: str) -> None:
    start = drawn(shape)
    # A quarter turn from the x axis (right) towards the y axis (down) is clockwise.
    quarter = drawn(shape, rotation=0.2 + math.pi / 2)
    assert np.abs(np.rot90(start, -1) - quarter).mean() < 1
    for turn in np.linspace(0.3, 2 * math.pi - 0.3, 20):
        assert np.abs(drawn(shape, rotation=0.2 + turn) - start).mean() > 1
    assert np.abs(drawn(shape, rotation=0.2 + 2 * math.pi) - start).mean() < 0.01


@pytest.mark.parametrize("shape", POLYGONS)
def test_the_area_grows_with_the_square_of_the_size(shape: str) -> None:
    areas = [np.abs(drawn(shape, size=size) - np.rint(255 * BACKGROUND)).sum() for size in (8, 12)]
    assert areas[1] / areas[0] == pytest.approx((12 / 8) ** 2, rel=0.04)


def test_hue_and_lighting_are_those_of_the_pixels() -> None:
    for hue in (0.0, 0.2, 0.77):
        for lighting in (0.5, 1.0):
            image = drawn("kite", hue=hue, lighting=lighting)
            assert image[0, 0].tolist() == [np.rint(255 * BACKGROUND * lighting)] * 3
            shown = colorsys.rgb_to_hsv(*(image[24, 24] / 255))
            assert shown == pytest.approx((hue, 1.0, lighting), abs=0.01)
    assert (drawn("kite", hue=1.0) == drawn("kite", hue=0.0)).all()


def test_points_of_a_concave_polygon() -> None:
    corners = np.array([(0, 0), (4, 0), (4, 4), (2, 1), (0, 4)], dtype=float)
    x, y = np.array([0.5, 2.0, 3.5, 5.0]), np.array([0.5, 3.0])
    expected = [[True, True, True, False], [True, False, True, False]]
    assert polygon_contains(corners, x, y).tolist() == expected
