"""The samples that a fraction of the labels consists of: nested, and stratified by class.

Every sample has a random key that depends on ``split_seed`` and the sample's name alone. Samples
are taken in the order of their keys, so that the samples of a smaller fraction are among those of a
larger one, whatever the order of the files.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int64

from ssl_transfer.datasets.base import Split, Targets
from ssl_transfer.randomness import derive


def fraction_of(split: Split, fraction: float, split_seed: int) -> Split:
    """Return a fraction of a split's samples, in the order of the split.

    * One class per image: of each class, the nearest whole number of samples, at least one.
    * Several classes per image: of all samples likewise, without regard to classes; then, for each
      class, the first sample that shows it and the first one that does not, if they are missing.
    * Values, landmarks: of all samples likewise.

    The samples of a group are taken together, and the number of samples is then as near to the
    fraction as whole groups allow.

    Args:
        split: the samples, with their names and perhaps groups.
        fraction: in (0, 1]; the samples of a smaller one are among those of a larger one.
        split_seed: seed of the order.
    """
    units = _units(split)
    keys = _keys(split.names, units, split_seed)
    taken = np.zeros(int(units.max(initial=-1)) + 1, dtype=bool)
    for members in _strata(split.targets, keys):
        count = max(1, math.floor(fraction * len(members) + 0.5))
        taken[_first_units(units[members], count)] = True
    if split.targets.ndim == 2 and split.targets.dtype.kind == "i":
        taken[units[list(_first_of_each_class(split.targets, keys))]] = True
    return split.subset(np.flatnonzero(taken[units]))


def _units(split: Split) -> Int64[np.ndarray, " samples"]:
    """Return for each sample the number of what is taken as a whole: its group, or itself."""
    if split.groups is None:
        return np.arange(len(split), dtype=np.int64)
    return np.unique(split.groups, return_inverse=True)[1].astype(np.int64)


def _keys(
    names: Sequence[str], units: Int64[np.ndarray, " samples"], split_seed: int
) -> Int64[np.ndarray, " samples"]:
    """Return the key of each sample; a group has that of its first name in alphabetical order."""
    first: dict[int, str] = {}
    for name, unit in zip(names, units.tolist(), strict=True):
        first[unit] = min(name, first.get(unit, name))
    keys = {unit: derive(split_seed, "label fraction", name) for unit, name in first.items()}
    return np.array([keys[unit] for unit in units.tolist()], dtype=np.int64)


def _strata(
    targets: Targets, keys: Int64[np.ndarray, " samples"]
) -> Iterator[Int64[np.ndarray, " members"]]:
    """Yield the samples of each class in the order of their keys; all samples without classes."""
    if not len(targets):
        return
    if targets.ndim == 2:
        yield np.argsort(keys, kind="stable")
        return
    order = np.lexsort((keys, targets))
    yield from np.split(order, np.flatnonzero(np.diff(targets[order])) + 1)


def _first_units(units: Int64[np.ndarray, " members"], count: int) -> Int64[np.ndarray, " units"]:
    """Return the first units whose number of samples is nearest to ``count``, at least one unit.

    Of two equally near numbers, the smaller one is taken.
    """
    ends = np.flatnonzero(np.append(np.diff(units) != 0, True)) + 1
    return units[: ends[np.abs(ends - count).argmin()]]


def _first_of_each_class(
    targets: Int64[np.ndarray, "samples classes"], keys: Int64[np.ndarray, " samples"]
) -> Iterator[int]:
    """Yield for each class the first sample that shows it, and the first one that does not."""
    order = np.argsort(keys, kind="stable")
    for column in targets[order].T:
        for value in (1, 0):
            places = np.flatnonzero(column == value)
            if len(places):
                yield int(order[places[0]])
