"""Images with the same bytes: report them, refuse them across splits, or drop them."""

import dataclasses
import logging
import typing
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Int64

from ssl_transfer.datasets.base import Split
from ssl_transfer.datasets.files import Files
from ssl_transfer.datasets.unchanged import Digests

log = logging.getLogger(__name__)

OnDuplicates = Literal["error", "warn", "drop"]
"""How to treat images whose bytes are in more than one split."""

_PRIORITY = ("test", "val", "train")
"""``drop`` keeps the copy in the first of these splits, so that the test split stays complete."""

Place = tuple[str, int]
"""A split, and a sample's position in it."""


def settle_duplicates(name: str, files: Files, rule: OnDuplicates) -> Files:
    """Return the files after copies have been reported, refused or dropped.

    Args:
        name: name of the dataset, for messages.
        files: its splits, with a hash of every file's bytes.
        rule: ``error`` refuses images that are in two splits, ``warn`` logs them, ``drop`` keeps
            one copy of each content. Copies within a split are logged, or dropped by ``drop``.

    Raises:
        ValueError: if there are copies across splits and the rule is ``error``.
    """
    if rule not in typing.get_args(OnDuplicates):
        raise ValueError(
            f"`dataset.on_duplicates` must be one of {list(typing.get_args(OnDuplicates))}, but is "
            f"{rule!r}."
        )
    if not files.by_content:
        return _with_unknown_copies(name, files, rule)
    copies = _copies(files.digests)
    across = [places for places in copies if len({key for key, _ in places}) > 1]
    if across and rule == "error":
        raise ValueError(
            f"no image of `{name}` may be in two splits, but "
            f"{_shared_contents(files.splits, across)}; remove the copies, or set "
            "dataset.on_duplicates=drop (those in the test split "
            "stay) or dataset.on_duplicates=warn."
        )
    if across:
        log.warning("`%s`: copies: %s", name, _shared_contents(files.splits, across))
    _log_within(name, files.splits, copies)
    if rule != "drop" or not copies:
        return files
    return _dropped(name, files, copies)


def _with_unknown_copies(name: str, files: Files, rule: OnDuplicates) -> Files:
    """Return files whose bytes were not compared; refuse to drop copies of them."""
    if rule == "drop":
        raise ValueError(
            "`dataset.verify` must be full where `dataset.on_duplicates` is drop, because copies "
            f"are recognised by their bytes, but is {files.facts['verify']}; leave one of them out."
        )
    log.info("`%s`: copies are not looked for, because dataset.verify is not full", name)
    return files


def content_numbers(digests: Sequence[Digests]) -> Int64[np.ndarray, " samples"]:
    """Return a number for each content, equal where hashes are, in the order of first occurrence.

    Args:
        digests: hashes of several splits, one after the other.
    """
    halves = np.concatenate(digests).view(np.uint64)
    order = np.lexsort(halves.T)  # stable, so that equal hashes stay in their order
    halves = halves[order]
    begins = np.ones(len(order), bool)
    begins[1:] = (halves[1:] != halves[:-1]).any(axis=1)
    first = order[begins]
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    numbers = np.empty(len(order), np.int64)
    numbers[order] = rank[np.cumsum(begins) - 1]
    return numbers


def _copies(digests: Mapping[str, Digests]) -> list[list[Place]]:
    """Return the places of each content that occurs more than once."""
    numbers = content_numbers(list(digests.values()))
    ends = np.cumsum([len(rows) for rows in digests.values()])
    keys = list(digests)
    places: dict[int, list[Place]] = defaultdict(list)
    for row in np.flatnonzero(np.bincount(numbers)[numbers] > 1).tolist():
        split = int(np.searchsorted(ends, row, side="right"))
        key = keys[split]
        places[int(numbers[row])].append((key, row - int(ends[split]) + len(digests[key])))
    return list(places.values())


def _shared_contents(splits: Mapping[str, Split], across: Sequence[Sequence[Place]]) -> str:
    """Return a text with the number of shared contents and an example, per pair of splits."""
    pairs: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for places in across:
        first: dict[str, str] = {}
        for key, position in places:
            first.setdefault(key, splits[key].names[position])
        keys = sorted(first, key=_PRIORITY.index)
        for number, split in enumerate(keys):
            for other in keys[number + 1 :]:
                pairs[split, other].append((first[split], first[other]))
    return " and ".join(
        f"{len(names)} of {split} {'have' if len(names) > 1 else 'has'} the same bytes as {other} "
        f"(`{names[0][0]}` and `{names[0][1]}`{', …' * (len(names) > 1)})"
        for (split, other), names in pairs.items()
    )


def _log_within(name: str, splits: Mapping[str, Split], copies: Sequence[Sequence[Place]]) -> None:
    """Log how many images repeat others of their split, and how many of them differ in label."""
    repeated, conflicts, example = 0, 0, ""
    for places in copies:
        by_split: dict[str, list[int]] = defaultdict(list)
        for key, position in places:
            by_split[key].append(position)
        for key, positions in by_split.items():
            labels = {str(splits[key].targets[position]) for position in positions}
            repeated += len(positions) - 1
            conflicts += len(labels) > 1
            if len(positions) > 1 and (not example or (conflicts == 1 and len(labels) > 1)):
                names = splits[key].names
                example = f"`{names[positions[1]]}` and `{names[positions[0]]}`"
    if repeated:
        odd = f", {conflicts} of these under different labels" if conflicts else ""
        log.log(
            logging.WARNING if conflicts else logging.INFO,
            "`%s`: %d images have the same bytes as others that they are read with (%s%s)%s",
            name, repeated, example, ", …" * (repeated > 1), odd,
        )  # fmt: skip


def _dropped(name: str, files: Files, copies: Sequence[Sequence[Place]]) -> Files:
    """Return the files with one copy of each content."""
    drop: dict[str, list[int]] = defaultdict(list)
    for places in copies:
        retained = min(places, key=lambda place: (_PRIORITY.index(place[0]), place[1]))
        for key, position in places:
            if (key, position) != retained:
                drop[key].append(position)
    splits, digests = dict(files.splits), dict(files.digests)
    for key, positions in drop.items():
        stay = np.setdiff1d(np.arange(len(splits[key])), positions)
        splits[key] = splits[key].subset(stay)
        digests[key] = digests[key][stay]
    counts = {key: len(positions) for key, positions in sorted(drop.items())}
    log.warning("`%s`: copies are left out: %s", name, counts)
    return dataclasses.replace(
        files, splits=splits, digests=digests, facts={**files.facts, "copies_left_out": counts}
    )
