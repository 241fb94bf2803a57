"""What one obtains by taking the items that a score ranks first: expected values over its ties.

A score may rank several items equally. Every order of tied items is then equally likely, so that
a constant score is a random choice.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ROUNDING = 1e-9
"""Differences up to this share of the largest score are rounding errors: the scores are equal."""


class First(NamedTuple):
    """The first ``k`` items of a ranking with ties.

    Args:
        certain: indices of the items that are among the first in every order of the ties.
        tied: indices of the equal items of which some are among the first.
        drawn: how many of the tied items are among the first.
    """

    certain: NDArray[np.intp]
    tied: NDArray[np.intp]
    drawn: int


def first(scores: Floats, k: int) -> First:
    """Return the ``k`` items with the highest scores (all items if there are fewer).

    Example:
        >>> certain, tied, drawn = first(np.array([0.9, 0.5, 0.5, 0.1]), 2)
        >>> certain.tolist(), tied.tolist(), drawn
        ([0], [1, 2], 1)
    """
    places = descending_ranks(scores)
    k = min(k, len(scores))
    last = np.sort(places)[k - 1]
    certain, tied = np.flatnonzero(places < last), np.flatnonzero(places == last)
    return First(certain, tied, k - len(certain))


def descending_ranks(scores: Floats) -> Floats:
    """Return the rank of each score, 1 for the highest; equal scores have their average rank.

    Example:
        >>> descending_ranks(np.array([0.9, 0.5, 0.5, 0.1])).tolist()
        [1.0, 2.5, 2.5, 4.0]
    """
    higher = np.zeros(len(scores))
    equal = np.zeros(len(scores))
    levels = _levels(scores)
    for index, level in enumerate(levels):
        higher[index], equal[index] = (levels > level).sum(), (levels == level).sum()
    return np.asarray(higher + (equal + 1) / 2, dtype=np.float64)


def expected_best(scores: Floats, values: Floats, k: int) -> float:
    """Return the expected highest value among the ``k`` items with the highest scores.

    With ``k = 1`` it is the mean value of the items that share the highest score. Of ``m`` items
    that are drawn from ``g`` tied ones, the i-th lowest is the best in ``C(i - 1, m - 1)`` of
    ``C(g, m)`` draws.

    Example:
        >>> expected_best(np.array([2.0, 2.0, 1.0]), np.array([0.6, 0.8, 0.9]), 1)
        0.7
    """
    certain, tied, drawn = first(scores, k)
    floor = float(values[certain].max()) if len(certain) else -math.inf
    draws = math.comb(len(tied), drawn)
    ascending = np.maximum(np.sort(values[tied]), floor)
    shares = [math.comb(i, drawn - 1) / draws for i in range(len(tied))]
    return math.fsum(share * value for share, value in zip(shares, ascending, strict=True) if share)


def hit_rate(scores: Floats, values: Floats, k: int) -> float:
    """Return the probability that the highest value is among the ``k`` highest scores.

    If several items share the highest value, one of them suffices.

    Example:
        >>> hit_rate(np.array([2.0, 2.0, 1.0]), np.array([0.6, 0.8, 0.7]), 1)
        0.5
    """
    certain, tied, drawn = first(scores, k)
    best = descending_ranks(values)
    best = best == best.min()
    if best[certain].any():
        return 1.0
    others = len(tied) - int(best[tied].sum())
    return 1 - math.comb(others, drawn) / math.comb(len(tied), drawn)


def _levels(scores: Floats) -> Floats:
    """Return numbers in the order of the scores, with the same number for equal scores."""
    order = np.argsort(scores, kind="stable")
    ascending = scores[order]
    rises = np.diff(ascending) > ROUNDING * np.abs(scores).max(initial=0.0)
    levels = np.empty(len(scores))
    levels[order] = np.concatenate([[0], np.cumsum(rises)]) if len(scores) else []
    return levels
