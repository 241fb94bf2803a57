"""Ranks with intervals, and letters of items that cannot be told apart.

A bootstrap of ranks does not cover: ranks of nearly equal items jump, and the noise of a resample
adds to the noise of the scores. Here the differences of scores are judged, and ranks follow from
their signs (Mogstad, Romano, Shaikh and Wilhelm 2024, Inference for Ranks,
https://doi.org/10.1093/restud/rdad006): an item is ranked below all items that are certainly
better, and above all that are certainly worse.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from string import ascii_letters

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
LEVEL = 0.95


@dataclasses.dataclass(frozen=True)
class Sampled:
    """Scores of items with simulated sampling deviations; higher scores are better.

    Args:
        scores: one per item ``[items]``.
        common: simulated deviations of the scores from their true values ``[items, draws]``, of
            which a draw is common to all items, e.g. a resample of their common test images.
        own: further deviations, of which each item has its own ``[items, draws]``.
        shrinkage: factor of the differences between common deviations ``[items, items]``.
        errors: standard errors of the differences between scores ``[items, items]``.
    """

    scores: Floats
    common: Floats
    own: Floats
    shrinkage: Floats
    errors: Floats


def ranks(scores: Floats) -> Floats:
    """Return ranks from 1, the highest score first; equal scores share their mean rank.

    Example:
        >>> ranks(np.array([0.5, 0.9, 0.5])).tolist()
        [2.5, 1.0, 2.5]
    """
    above = (scores[None, :] > scores[:, None]).sum(axis=1)
    equal = (scores[None, :] == scores[:, None]).sum(axis=1)
    return np.asarray(above + (equal + 1) / 2, dtype=np.float64)


def rank_bounds(sampled: Sampled, level: float = LEVEL) -> tuple[Floats, Floats]:
    """Return the interval of each item's rank.

    The differences of one item from all others are judged together, so that the interval holds the
    rank with at least the stated probability, for each item separately.

    Args:
        sampled: scores and their deviations.
        level: the least probability.
    """
    items = len(sampled.scores)
    low, high = np.ones(items), np.full(items, float(items))
    for item in range(items):
        others = np.delete(np.arange(items), item)
        worse, better = _decided(sampled, np.full(items - 1, item), others, level)
        low[item] += better.sum()
        high[item] -= worse.sum()
    return low, high


def told_apart(sampled: Sampled, level: float = LEVEL) -> Bools:
    """Return which pairs of items differ ``[items, items]``.

    All pairs are judged together: the probability of a single wrong difference is at most
    ``1 - level``.

    Args:
        sampled: scores and their deviations.
        level: the least probability that no pair is told apart wrongly.
    """
    first, second = np.triu_indices(len(sampled.scores), 1)
    better, worse = _decided(sampled, first, second, level)
    differ = np.zeros(sampled.errors.shape, dtype=np.bool_)
    differ[first, second] = better | worse
    return differ | differ.T


def _decided(
    sampled: Sampled, first: NDArray[np.intp], second: NDArray[np.intp], level: float
) -> tuple[Bools, Bools]:
    """Return for pairs whether the first item is certainly higher, and whether it is lower.

    The one-sided hypotheses of all pairs are tested by the step-down method of Romano and Wolf
    (2005, https://doi.org/10.1198/016214504000000539) with the largest standardised difference.
    """
    errors = sampled.errors[first, second]
    errors = np.where(errors > 0, errors, np.inf)  # without an error nothing is decided
    observed = (sampled.scores[first] - sampled.scores[second]) / errors
    drawn = sampled.shrinkage[first, second][:, None] * (
        sampled.common[first] - sampled.common[second]
    )
    drawn = (drawn + sampled.own[first] - sampled.own[second]) / errors[:, None]
    higher, lower = np.zeros((2, len(observed)), dtype=np.bool_)
    while not (higher & lower).all():
        # The critical value is that of the hypotheses that are not rejected yet.
        largest = np.concatenate([drawn[~higher], -drawn[~lower]]).max(axis=0)
        critical = np.quantile(largest, level)
        more_higher, more_lower = observed > critical, -observed > critical
        if not ((more_higher & ~higher) | (more_lower & ~lower)).any():
            break
        higher, lower = higher | more_higher, lower | more_lower
    return higher, lower


def letters(differ: Bools, order: Sequence[int]) -> list[str]:
    """Return letters of each item: two items share a letter if they cannot be told apart.

    The compact letter display by the insert-and-absorb algorithm (Piepho 2004,
    https://doi.org/10.1198/1061860043515).

    Args:
        differ: which pairs of items differ ``[items, items]``.
        order: the items, the best first; ``a`` belongs to the best.

    Example:
        >>> differ = np.zeros((3, 3), dtype=bool)
        >>> differ[0, 2] = differ[2, 0] = True
        >>> letters(differ, [0, 1, 2])
        ['a', 'ab', 'b']
    """
    groups = [frozenset(order)]
    for place, item in enumerate(order):
        for other in order[place + 1 :]:
            if differ[item, other]:
                groups = _absorbed(_parted(groups, item, other))
    position = {item: place for place, item in enumerate(order)}
    groups.sort(key=lambda group: sorted(position[item] for item in group))
    names = [_letter(number) for number in range(len(groups))]
    return [
        "".join(name for name, group in zip(names, groups, strict=True) if item in group)
        for item in range(len(differ))
    ]


def _parted(groups: Iterable[frozenset[int]], item: int, other: int) -> list[frozenset[int]]:
    parted = []
    for group in groups:
        both = item in group and other in group
        parted += [group - {item}, group - {other}] if both else [group]
    return parted


def _absorbed(groups: Iterable[frozenset[int]]) -> list[frozenset[int]]:
    """Return the groups that are no part of another one, each once."""
    distinct = set(groups)
    return [group for group in distinct if not any(group < other for other in distinct)]


def _letter(number: int) -> str:
    """Return a, b, …, Z, and numbers in brackets after the last letter."""
    return ascii_letters[number] if number < len(ascii_letters) else f"({number + 1})"
