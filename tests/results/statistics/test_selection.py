import itertools

import numpy as np
import pytest
from scipy import stats

from results.statistics.selection import descending_ranks, expected_best, first, hit_rate


def orders(scores: np.ndarray) -> list[list[int]]:
    """Return all orders of items from the highest score to the lowest, ties in every order."""
    items = range(len(scores))
    return [
        list(order)
        for order in itertools.permutations(items)
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order))
    ]


SCORES = [
    [5, 4, 3, 2, 1],
    [1, 2, 3, 4, 5],
    [2, 2, 2, 1, 1],
    [3, 1, 1, 1, 2],
    [1, 1, 1, 1, 1],
]
VALUES = [[0.9, 0.5, 0.7, 0.2, 0.4], [0.3, 0.9, 0.9, 0.1, 0.2], [0.5, 0.5, 0.5, 0.5, 0.5]]


@pytest.mark.parametrize("k", [1, 2, 3, 7])
@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("scores", SCORES)
def test_expected_values_are_means_over_all_orders_of_the_ties(scores, values, k: int) -> None:
    x, y = np.array(scores, float), np.array(values)
    all_orders = orders(x)
    best = [max(y[i] for i in order[:k]) for order in all_orders]
    hits = [max(y[i] for i in order[:k]) == y.max() for order in all_orders]
    assert expected_best(x, y, k) == pytest.approx(np.mean(best), abs=1e-12)
    assert hit_rate(x, y, k) == pytest.approx(np.mean(hits), abs=1e-12)


def test_ranks_are_those_of_scipy() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        scores = generator.integers(0, 6, 9).astype(float)
        assert descending_ranks(scores).tolist() == stats.rankdata(-scores).tolist()


def test_rounding_errors_are_ties() -> None:
    scores = np.array([0.1 + 0.2, 0.3, 0.2])
    assert scores[0] != scores[1]
    certain, tied, drawn = first(scores, 1)
    assert (certain.tolist(), tied.tolist(), drawn) == ([], [0, 1], 1)


def test_the_order_of_the_items_does_not_matter() -> None:
    generator = np.random.default_rng(1)
    x, y = generator.integers(0, 3, 8).astype(float), generator.random(8)
    for _ in range(5):
        order = generator.permutation(8)
        assert expected_best(x[order], y[order], 3) == pytest.approx(expected_best(x, y, 3))
        assert hit_rate(x[order], y[order], 3) == pytest.approx(hit_rate(x, y, 3))
