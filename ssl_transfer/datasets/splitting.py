"""Seeded, stratified choices of samples: pure functions of targets and ``split_seed``.

The functions do not depend on the model or the protocol, so that all of these are compared on the
same samples. The choice within a class depends only on that class.
"""

import math

import numpy as np
from jaxtyping import Bool, Int64

from ssl_transfer.randomness import permutation


def held_out(count: int, fraction: float) -> int:
    """Return how many of a class's ``count`` samples to hold out.

    This is the nearest whole number, at least one, and leaves at least one sample of the class.
    """
    if count < 2:
        return 0
    return min(max(1, math.floor(count * fraction + 0.5)), count - 1)


def _shuffled_classes(
    targets: Int64[np.ndarray, " samples"], split_seed: int, purpose: str
) -> list[Int64[np.ndarray, " members"]]:
    order = np.argsort(targets, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(targets[order])) + 1) if len(targets) else []
    return [
        indices[permutation(split_seed, purpose, int(targets[indices[0]]), len(indices))]
        for indices in members
    ]


def hold_out(
    targets: Int64[np.ndarray, " samples"],
    fraction: float,
    split_seed: int,
    purpose: str,
    groups: Int64[np.ndarray, " samples"] | None = None,
) -> tuple[Int64[np.ndarray, " kept"], Int64[np.ndarray, " held"]]:
    """Return the indices of the kept and of the held-out samples, both ascending.

    Args:
        targets: class numbers.
        fraction: share of every class to hold out, by ``held_out``; with groups, as near to it as
            whole groups allow.
        split_seed: seed of the choice.
        purpose: ``validation`` or ``test``; choices for different purposes are independent.
        groups: number of each sample's group, which is kept or held out as a whole (``None``: no
            groups). If no group has two samples, the choice is the same as without groups.
    """
    if groups is None:
        chosen = [
            indices[: held_out(len(indices), fraction)]
            for indices in _shuffled_classes(targets, split_seed, purpose)
        ]
    else:
        chosen = [_held_groups(targets, fraction, split_seed, purpose, groups)]
    mask = _mask(len(targets), chosen)
    return np.flatnonzero(~mask), np.flatnonzero(mask)


def _held_groups(
    targets: Int64[np.ndarray, " samples"],
    fraction: float,
    split_seed: int,
    purpose: str,
    groups: Int64[np.ndarray, " samples"],
) -> Int64[np.ndarray, " held"]:
    """Return the samples of the groups to hold out.

    For each class, the function visits the groups in a shuffled order, given by their first
    samples. It takes a group if that brings the held-out counts of the group's classes nearer to
    their quotas, and leaves at least one sample of each of these classes.
    """
    _, groups = np.unique(groups, return_inverse=True)
    labels, targets = np.unique(targets, return_inverse=True)
    counts = np.zeros((int(groups.max(initial=-1)) + 1, len(labels)), dtype=np.int64)
    np.add.at(counts, (groups, targets), 1)
    sizes = counts.sum(axis=0)
    quota = np.array([held_out(size, fraction) for size in sizes.tolist()], dtype=np.int64)
    held, taken = np.zeros_like(quota), np.zeros(len(counts), dtype=bool)

    def take(group: int) -> None:
        taken[group] = True
        held[:] += counts[group]

    for label, members in enumerate(_shuffled_classes(targets, split_seed, purpose)):
        order = _in_order_of_first_samples(groups, members)
        for group in order:
            if held[label] >= quota[label]:
                break
            of_it = counts[group]
            gain = np.abs(held - quota).sum() - np.abs(held + of_it - quota).sum()
            if not taken[group] and gain > 0 and _leaves_one(held + of_it, sizes, of_it):
                take(group)
        if held[label] == 0 and quota[label] > 0:  # every group is too large: take the smallest
            free = [g for g in order if _leaves_one(held + counts[g], sizes, counts[g])]
            if free:
                take(min(free, key=lambda group: int(counts[group].sum())))
    return np.flatnonzero(taken[groups])


def _leaves_one(
    held: Int64[np.ndarray, " classes"],
    sizes: Int64[np.ndarray, " classes"],
    of_it: Int64[np.ndarray, " classes"],
) -> bool:
    """Return whether every class of a group keeps at least one sample."""
    return bool((held < sizes)[of_it > 0].all())


def _in_order_of_first_samples(
    groups: Int64[np.ndarray, " samples"], members: Int64[np.ndarray, " members"]
) -> list[int]:
    """Return a class's groups in the order of its shuffled members.

    Only the member with the lowest index counts for a group, so that large groups do not come
    earlier.
    """
    speaker: dict[int, int] = {}
    for index in sorted(members.tolist()):
        speaker.setdefault(int(groups[index]), index)
    speakers = set(speaker.values())
    return [int(groups[index]) for index in members.tolist() if index in speakers]


def hold_out_unstratified(
    count: int, fraction: float, split_seed: int
) -> tuple[Int64[np.ndarray, " kept"], Int64[np.ndarray, " held"]]:
    """Return the indices to keep and to hold out, by the rule of Ericsson et al. 2021.

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


def cross_validation_folds(
    count: int,
    folds: int,
    split_seed: int,
    targets: Int64[np.ndarray, " samples"] | None = None,
) -> list[Int64[np.ndarray, " held"]]:
    """Return the ascending indices that each fold of a cross-validation holds out.

    Every sample is held out once, and the sizes of the folds differ by at most one.

    Args:
        count: number of samples, at least ``folds``.
        folds: number of folds, at least 2.
        split_seed: seed of the choice.
        targets: class numbers; the numbers of a class's samples in two folds then differ by at most
            one (``None``: the folds do not depend on classes).
    """
    assert 2 <= folds <= count
    if targets is None:
        order = permutation(split_seed, "folds", 0, count)
    else:
        order = np.concatenate(_shuffled_classes(targets, split_seed, "folds of classes"))
    # The shuffled samples are dealt to the folds like cards; a class lies in one piece.
    return [np.sort(order[fold::folds]) for fold in range(folds)]


def _mask(size: int, chosen: list[Int64[np.ndarray, " _"]]) -> Bool[np.ndarray, " size"]:
    mask = np.zeros(size, dtype=bool)
    for indices in chosen:
        mask[indices] = True
    return mask
