"""Labels of runs without scores beside those of runs with scores.

Labels tell apart what has scores to show. A run that failed, was refused, or has not been judged
does not lengthen the labels of others; it gets a label of its own by which a user recognises it.
"""

from collections.abc import Collection, Mapping
from typing import Any

from results.records.descriptions import Description, hyperparameter
from results.records.labels import Identity

_OWNERS = {
    "encoder": ("model", "method"),
    "protocol": ("protocol", "precision", "debug"),
    "dataset": ("dataset",),
}
"""The keys of an identity that belong to an axis of tables."""
_OTHER = "(other settings)"


def beside(
    every: Mapping[Description, Identity],
    scored: Mapping[Description, Identity],
    apart: Collection[str] = (),
) -> dict[Description, Identity]:
    """Return the labels of all runs, of which runs with scores have the labels in ``scored``.

    A run without scores that has the label of a scored one in ``every`` belongs to the same row or
    column, and gets that one's label. Another one keeps its label in ``every``; if a scored run of
    other settings has this label in ``scored``, it is marked.

    Args:
        every: the labels that tell all runs apart.
        scored: the labels that tell those with scores apart.
        apart: the keys that a table shows beside labels, as for ``label``.
    """
    labels = {axis: _labels(axis, every, scored, apart) for axis in _OWNERS}
    return {
        one: scored[one] if one in scored else identity._replace(
            **{axis: of_axis[one] for axis, of_axis in labels.items()}
        )
        for one, identity in every.items()
    }  # fmt: skip


def _labels(
    axis: str,
    every: Mapping[Description, Identity],
    scored: Mapping[Description, Identity],
    apart: Collection[str],
) -> dict[Description, str]:
    """Return the labels of runs without scores on one axis."""
    keys = [key for key in apart if key.partition(".")[0] in _OWNERS[axis]]
    same = {getattr(every[one], axis): getattr(own, axis) for one, own in scored.items()}
    taken = {(getattr(own, axis), *_values(one, keys)) for one, own in scored.items()}
    labels = {}
    for one in every.keys() - scored.keys():
        label = getattr(every[one], axis)
        if label in same:
            label = same[label]
        elif one.parts is not None and (label, *_values(one, keys)) in taken:
            label = f"{label} {_OTHER}"
        labels[one] = label
    return labels


def _values(description: Description, keys: Collection[str]) -> list[Any]:
    """Return the values that a table shows beside labels."""
    return [
        getattr(description, key) if key in _OWNERS["encoder"] else hyperparameter(description, key)
        for key in keys
    ]
