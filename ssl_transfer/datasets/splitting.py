"""Seeded, stratified choices of samples: pure functions of targets and ``split_seed``.

They know neither model nor protocol, so that all of these are compared on the same samples. The
choice within a class depends on that class alone.
"""

import math

import numpy as np
from jaxtyping import Bool, Int64

from ssl_transfer.randomness import permutation


def held_out(count: int, fraction: float) -> int:
    """Return how many of a class's ``count`` samples to hold out.

    The nearest whole number, at least one, and never the last sample of a class.
    """
    if count < 2:
        return 0
    return min(max(1, math.floor(count * fraction + 0.5)), count - 1)


def _shuffled_classes(
    targets: Int64[np.ndarray, " samples"], split_seed: int, purpose: str
) -> list[Int64[np.ndarray, " members"]]:
    members = [np.flatnonzero(targets == label) for label in np.unique(targets)]
    return [
        indices[permutation(split_seed, purpose, int(targets[indices[0]]), len(indices))]
        for indices in members
    ]


def hold_out(
    targets: Int64[np.ndarray, " samples"], fraction: float, split_seed: int, purpose: str
) -> tuple[Int64[np.ndarray, " kept"], Int64[np.ndarray, " held"]]:
    """Return the indices of the kept and of the held-out samples, both ascending.

    Args:
        targets: class numbers.
        fraction: share of every class to hold out, by ``held_out``.
        split_seed: which of the possible choices.
        purpose: ``validation`` or ``test``; choices for different purposes are independent.
    """
    chosen = [
        indices[: held_out(len(indices), fraction)]
        for indices in _shuffled_classes(targets, split_seed, purpose)
    ]
    mask = _mask(len(targets), chosen)
    return np.flatnonzero(~mask), np.flatnonzero(mask)


def hold_out_unstratified(
    count: int, fraction: float, split_seed: int
) -> tuple[Int64[np.ndarray, " kept"], Int64[np.ndarray, " held"]]:
    """Return the indices to keep and to hold out as Ericsson et al. 2021 choose them.

    numpy's legacy generator shuffles all indices, whatever their classes; the first
    ``floor(count * fraction)`` validate (datasets of
    https://github.com/linusericsson/ssl-transfer, where the seed is 0).

    Args:
        count: number of samples, in their published order.
        fraction: share to hold out.
        split_seed: seed of the shuffle.
    """
    order = np.arange(count)
    np.random.RandomState(split_seed).shuffle(order)
    held = math.floor(fraction * count)
    return np.sort(order[held:]), np.sort(order[:held])


def per_class(
    targets: Int64[np.ndarray, " samples"], count: int, split_seed: int, purpose: str
) -> Int64[np.ndarray, " picked"]:
    """Return the ascending indices of ``count`` samples of every class (all of a smaller one).

    The choice for a smaller count is contained in that for a larger one.
    """
    chosen = [indices[:count] for indices in _shuffled_classes(targets, split_seed, purpose)]
    return np.flatnonzero(_mask(len(targets), chosen))


def _mask(size: int, chosen: list[Int64[np.ndarray, " _"]]) -> Bool[np.ndarray, " size"]:
    mask = np.zeros(size, dtype=bool)
    for indices in chosen:
        mask[indices] = True
    return mask
