"""Data sets that a user named by several paths, such as relative ones from two folders.

The id of a run holds a path as it was typed, since a path means another place on another computer.
Records state a fingerprint of the data, by which tables know that two paths mean the same data.
"""

import json
import posixpath
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

from results.records.descriptions import Description, Run

_DOTS = ("", ".", "..")


def by_first_path(descriptions: Iterable[Description]) -> dict[Description, Description]:
    """Return each description with the paths of the first one on the same data.

    Data sets are the same if they have one name and one fingerprint, and differ in nothing but
    paths that may mean the same place.
    """
    distinct = list(dict.fromkeys(descriptions))
    firsts: dict[tuple[str | None, str, str], str] = {}
    nodes: dict[tuple[str | None, str], dict[str, Any]] = {}
    # A run that failed has no fingerprint, so its path means what it means in another run.
    meant: dict[tuple[str | None, str], str] = {}
    for one in distinct:
        text = _dataset(one)
        key = one.dataset, one.data, text
        if text and one.data and key not in firsts:
            node, known = json.loads(text), nodes.setdefault(key[:2], {})
            first = next((other for other in known if _same(node, known[other])), text)
            # The text of an equal node may differ in blanks.
            firsts[key] = text if known.setdefault(first, node) == node else first
            meant[one.dataset, text] = firsts[key]
    replaced = {}
    for one in distinct:
        text = _dataset(one)
        first = firsts.get((one.dataset, one.data, text)) or meant.get((one.dataset, text), text)
        replaced[one] = one if first == text else one._replace(
            parts=tuple((k, first if k == "dataset" else v) for k, v in one.parts or ())
        )  # fmt: skip
    return replaced


def _dataset(description: Description) -> str:
    """Return the configuration of the data set as JSON text; empty if it is unknown."""
    return dict(description.parts or ()).get("dataset", "")


def repeats_of(runs: Sequence[Run]) -> set[str]:
    """Return the ids of runs that repeat a later one on data that another path names.

    They must not count as further seeds.
    """
    descriptions = {id(run.description): run.description for run in runs}
    place = by_first_path(descriptions.values())
    named_twice = {place[one].parts for one in descriptions.values() if place[one] != one}
    latest: dict[Hashable, Run] = {}
    repeats = set()
    for run in runs if named_twice else ():
        one = place[run.description]
        if one.parts in named_twice and run.metrics:
            key = one.parts, one.encoder_id, one.preprocessing, one.protocol, run.seed
            if (other := latest.setdefault(key, run)) is not run:
                old, latest[key] = sorted((other, run), key=lambda each: each.started)
                repeats.add(old.run_id)
    return repeats


def _same(node: Any, other: Any) -> bool:
    """Return whether two values are equal but for paths that may mean the same place."""
    if isinstance(node, dict) and isinstance(other, dict):
        return node.keys() == other.keys() and all(_same(node[key], other[key]) for key in node)
    if isinstance(node, list) and isinstance(other, list):
        return len(node) == len(other) and all(map(_same, node, other))
    if isinstance(node, str) and isinstance(other, str) and node != other:
        first, second = (posixpath.basename(posixpath.normpath(path)) for path in (node, other))
        return first == second or bool({first, second}.intersection(_DOTS))
    return type(node) is type(other) and node == other
