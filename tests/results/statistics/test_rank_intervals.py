"""Ranks with intervals, and letters."""

import doctest

import numpy as np
import pytest
import scipy.stats

from results.statistics import rank_intervals
from results.statistics.rank_intervals import Sampled, letters, rank_bounds, ranks, told_apart


def independent(scores: list[float], error: float, seed: int = 0) -> Sampled:
    """Return scores with normal deviations of equal variance."""
    items = len(scores)
    own = error * np.random.default_rng(seed).standard_normal((items, 1000))
    errors = np.full((items, items), np.sqrt(2) * error)
    return Sampled(np.array(scores), np.zeros((items, 1000)), own, np.ones((items, items)), errors)


def test_ranks_are_scipys() -> None:
    scores = np.random.default_rng(0).integers(0, 5, 20) / 5
    assert ranks(scores) == pytest.approx(scipy.stats.rankdata(-scores))


def test_certain_ranks_are_points_and_equal_scores_can_have_any_rank() -> None:
    low, high = rank_bounds(independent([0.1, 0.9, 0.5], error=0.001))
    assert (low.tolist(), high.tolist()) == ([3, 1, 2], [3, 1, 2])
    low, high = rank_bounds(independent([0.5, 0.5, 0.5], error=0.001))
    assert (low.tolist(), high.tolist()) == ([1, 1, 1], [3, 3, 3])


def test_the_critical_value_of_two_items_is_that_of_one_difference() -> None:
    for distance, differs in ((1.8, False), (2.2, True)):
        sampled = independent([0.0, distance * np.sqrt(2)], error=1.0)
        assert told_apart(sampled)[0, 1] == differs
        assert (rank_bounds(sampled)[0][0] == 2) == differs


def test_decided_pairs_leave_the_comparison() -> None:
    """2.65 errors lie between 2.50, the critical value for 12 one-sided tests, and 2.77 for all."""
    near = 2.65 * np.sqrt(2)
    apart = [0.0, near, *(50.0 + 10 * number for number in range(11))]
    assert rank_bounds(independent(apart, error=1.0))[0][0] == 13
    close = [0.0, near, *[0.1] * 11]
    assert rank_bounds(independent(close, error=1.0))[0][0] == 1


def test_without_an_error_nothing_is_decided() -> None:
    none = np.zeros((2, 1000))
    sampled = Sampled(np.array([0.2, 0.8]), none, none, np.ones((2, 2)), np.zeros((2, 2)))
    assert not told_apart(sampled).any()


def test_the_order_of_items_never_matters() -> None:
    chance = np.random.default_rng(1)
    sampled = independent(chance.normal(0, 2, 9).tolist(), error=1.0)
    order = chance.permutation(9)
    moved = Sampled(
        *(part[order] for part in (sampled.scores, sampled.common, sampled.own)),
        *(part[order][:, order] for part in (sampled.shrinkage, sampled.errors)),
    )
    for one, other in zip(rank_bounds(sampled), rank_bounds(moved), strict=True):
        assert one[order].tolist() == other.tolist()
    assert (told_apart(sampled)[order][:, order] == told_apart(moved)).all()


def test_items_share_a_letter_exactly_if_they_do_not_differ() -> None:
    chance = np.random.default_rng(2)
    for items in (1, 2, 5, 9):
        for _ in range(10):
            upper = np.triu(chance.random((items, items)) < 0.5, 1)
            differ = upper | upper.T
            names = letters(differ, chance.permutation(items).tolist())
            for i in range(items):
                for j in range(i):
                    assert bool(set(names[i]) & set(names[j])) != differ[i, j]


def test_more_groups_than_letters_are_numbered() -> None:
    names = letters(~np.eye(54, dtype=bool), list(range(54)))
    assert (names[0], names[51], names[53]) == ("a", "Z", "(54)")


def test_examples_hold() -> None:
    assert doctest.testmod(rank_intervals).failed == 0
