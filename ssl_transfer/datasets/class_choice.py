"""A task of some classes of a set: the samples of these classes, numbered anew."""

from collections.abc import Mapping, Sequence

import numpy as np

from ssl_transfer.datasets.base import Split


def of_classes(
    name: str, classes: Sequence[str], splits: Mapping[str, Split], only: Sequence[str]
) -> tuple[list[str], dict[str, Split]]:
    """Return the chosen classes in the order of the set, and the splits of their samples alone.

    Args:
        name: the dataset's name, for messages.
        classes: names of all classes.
        splits: their samples, with one class per image.
        only: names of the chosen classes, in any order.

    Raises:
        ValueError: if fewer than two classes are chosen, or one is unknown.
    """
    unknown = [chosen for chosen in only if chosen not in set(classes)]
    if unknown or len(set(only)) < 2:
        shown = ", ".join(f"`{known}`" for known in classes[:20])
        raise ValueError(
            f"`dataset.only_classes` must list at least two classes of `{name}` ({shown}"
            f"{', …' * (len(classes) > 20)}), but is {list(only)}"
            f"{f'; unknown: {unknown}' if unknown else ''}; correct the list."
        )
    kept = [number for number, known in enumerate(classes) if known in set(only)]
    number_of = np.full(len(classes), -1, dtype=np.int64)
    number_of[kept] = np.arange(len(kept))
    chosen_splits = {}
    for key, split in splits.items():
        part = split.subset(np.flatnonzero(number_of[split.targets] >= 0))
        chosen_splits[key] = _renumbered(part, number_of[part.targets])
    return [classes[number] for number in kept], chosen_splits


def _renumbered(split: Split, targets: np.ndarray) -> Split:
    return Split(split.images, targets, split.names, split.groups, split.sizes, split.domains)
