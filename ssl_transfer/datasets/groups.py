"""Groups of images that show one object: a split never divides a group."""

import dataclasses
import itertools
import logging
import re
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int64
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from ssl_transfer.datasets.base import Split
from ssl_transfer.datasets.duplicates import content_numbers
from ssl_transfer.datasets.files import Files
from ssl_transfer.datasets.nearest import nearest
from ssl_transfer.datasets.reader import some

log = logging.getLogger(__name__)

_TABLES = (".txt", ".csv", ".tsv")


def group(
    name: str,
    files: Files,
    rule: str | Mapping[str, str] | None,
    root: Path,
    classes: Sequence[str],
) -> dict[str, Split]:
    """Return the splits with the group of each sample, if there are groups.

    Copies of one image are also in one group, so that no later split separates them.

    Args:
        name: name of the dataset, for messages.
        files: its splits, with a hash of every file's bytes.
        rule: a regular expression, searched for in every sample's name: the text in its parentheses
            (the whole match, if it has none) names the group; or a file (``.txt``, ``.csv``,
            ``.tsv``) with a line ``name group`` per image, split at its last tab, comma (``.csv``)
            or blank; or the group of every name (``None``: only copies are grouped).
        root: folder that the file's path is relative to.
        classes: names of the classes, for messages.

    Raises:
        ValueError: if the rule is invalid, gives an image no group, or gives each class only one
            group although a split must be made.
    """
    splits = files.splits
    contents = content_numbers(list(files.digests.values()))
    if rule is None and contents.max(initial=-1) + 1 == len(contents):
        return splits
    names = [sample for split in splits.values() for sample in split.names]
    if rule is None:
        groups = np.arange(len(names))
    else:
        labels = (
            _labels(rule, names, root) if isinstance(rule, str) else [rule[name] for name in names]
        )
        groups = _numbers(labels)
        _log_groups(name, groups)
        _warn_of_shared(name, splits, labels)
        one_each = splits["train"].targets.ndim == 1
        if one_each and ("test" not in splits or "val" not in splits):
            _warn_of_single(name, splits["train"], groups, classes)
    joined = _joined(groups, contents)
    if rule is not None:
        _warn_of_joined(name, groups, joined, contents, names)
    grouped, start = {}, 0
    for key, split in splits.items():
        end = start + len(split)
        grouped[key] = dataclasses.replace(split, groups=joined[start:end])
        start = end
    return grouped


def _numbers(values: Sequence[Hashable]) -> Int64[np.ndarray, " samples"]:
    """Return a number for each value, equal where values are."""
    known: dict[Hashable, int] = {}
    return np.array([known.setdefault(value, len(known)) for value in values], dtype=np.int64)


def _joined(
    first: Int64[np.ndarray, " samples"], second: Int64[np.ndarray, " samples"]
) -> Int64[np.ndarray, " samples"]:
    """Return group numbers that join all samples with an equal number in either row."""
    offset = int(first.max(initial=0)) + 1
    size = offset + int(second.max(initial=0)) + 1
    graph = coo_matrix((np.ones(len(first)), (first, second + offset)), shape=(size, size))
    return np.asarray(connected_components(graph, directed=False)[1][first], dtype=np.int64)


def _labels(rule: str, names: Sequence[str], root: Path) -> list[str]:
    """Return the group of each name."""
    path = root / Path(rule).expanduser()
    if rule.lower().endswith(_TABLES):
        if not path.is_file():
            raise ValueError(
                f"`dataset.groups` must be a regular expression or a file of groups, but `{path}` "
                f"does not exist{nearest(path)}; correct the path."
            )
        return _from_file(path, names)
    try:
        pattern = re.compile(rule)
    except re.error as error:
        raise ValueError(
            f"`dataset.groups` must be a regular expression or a file ({' '.join(_TABLES)}), but "
            f"`{rule}` is neither ({error})."
        ) from error
    matches = [pattern.search(name) for name in names]
    bare = [name for name, match in zip(names, matches, strict=True) if match is None]
    if bare:
        raise ValueError(
            f"`dataset.groups` must give every image a group, but `{rule}` is not in {len(bare)} "
            f"of {len(names)} names ({some(bare, 3)}); correct it."
        )
    return [
        "\0".join(part or "" for part in match.groups()) if match.groups() else match[0]
        for match in matches
        if match is not None
    ]


def _from_file(path: Path, names: Sequence[str]) -> list[str]:
    """Return the group that a file gives each name."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"`dataset.groups` must be a text file in UTF-8, but `{path}` cannot be read ({error})."
        ) from error
    groups: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        mark = "\t" if "\t" in line else "," if path.suffix.lower() == ".csv" else None
        fields = [field.strip() for field in line.strip().rsplit(mark, 1)]
        if len(fields) < 2 or not all(fields):
            raise ValueError(
                f"every line of `{path}` must read `name group`, but line {number} is {line!r}."
            )
        if groups.setdefault(fields[0], fields[1]) != fields[1]:
            raise ValueError(
                f"`{path}` must give each image one group, but gives `{fields[0]}` two "
                f"(line {number}); remove one."
            )
    bare = [name for name in names if name not in groups]
    if bare:
        raise ValueError(
            f"`dataset.groups` must give every image a group, but `{path}` gives {len(bare)} of "
            f"{len(names)} none ({some(bare, 3)}); add lines, with names as they are written here."
        )
    return [groups[name] for name in names]


def _log_groups(name: str, groups: Int64[np.ndarray, " samples"]) -> None:
    """Log how many groups there are, and their sizes."""
    sizes = np.bincount(groups)
    if sizes.max() > 1:
        log.info("`%s`: %d groups of %d to %d images", name, len(sizes), min(sizes), max(sizes))
    else:
        log.warning(
            "`%s`: `dataset.groups` gives each of the %d images a group of its own, so that "
            "nothing is kept together; correct it, or leave it out",
            name, len(groups),
        )  # fmt: skip


def _warn_of_joined(
    name: str,
    groups: Int64[np.ndarray, " samples"],
    joined: Int64[np.ndarray, " samples"],
    contents: Int64[np.ndarray, " samples"],
    names: Sequence[str],
) -> None:
    """Warn of groups that copies of an image join to larger ones.

    Raises:
        ValueError: if a single group results, so that nothing can be held out.
    """
    before, after = len(np.unique(groups)), len(np.unique(joined))
    if before == after:
        return
    first: dict[int, int] = {}
    pairs = ((first.setdefault(content, i), i) for i, content in enumerate(contents.tolist()))
    one, other = next(pair for pair in pairs if groups[pair[0]] != groups[pair[1]])
    joins = (
        f"images with the same bytes in different groups (`{names[one]}` and `{names[other]}`, …) "
        f"join the {before} groups of `{name}` to {after}"
    )
    if after == 1:
        raise ValueError(
            f"{joins}, so that nothing can be held out; set dataset.on_duplicates=drop, which "
            "leaves copies out, or correct `dataset.groups`."
        )
    log.warning("%s; dataset.on_duplicates=drop leaves copies out instead", joins)


def _warn_of_shared(name: str, splits: Mapping[str, Split], labels: Sequence[str]) -> None:
    """Warn of groups that lie in two of the given splits."""
    members, start = {}, 0
    for key, split in splits.items():
        members[key] = set(labels[start : start + len(split)])
        start += len(split)
    for first, second in itertools.combinations(members, 2):
        both = [label.replace("\0", " ") for label in sorted(members[first] & members[second])]
        if both:
            log.warning(
                "`%s`: %d groups are in %s and in %s (%s), so that scores are too good; these "
                "splits are given, and stay as they are",
                name, len(both), first, second, some(both, 3),
            )  # fmt: skip


def _warn_of_single(
    name: str, train: Split, groups: Int64[np.ndarray, " samples"], classes: Sequence[str]
) -> None:
    """Warn of classes that have only one group and therefore cannot be split.

    Raises:
        ValueError: if this holds for every class.
    """
    pairs = {*zip(train.targets.tolist(), groups[: len(train)].tolist(), strict=True)}
    counts = Counter(target for target, _ in pairs)
    single = [classes[target] for target, count in sorted(counts.items()) if count == 1]
    if len(single) == len(counts):
        raise ValueError(
            f"`dataset.groups` must give the classes of `{name}` several groups each, but gives "
            "each class one, so that nothing can be held out; correct it."
        )
    if single:
        log.warning(
            "`%s`: %s %s only one group, which stays in the training split",
            name, some(single), "has" if len(single) == 1 else "have",
        )  # fmt: skip


def by_name(names: Sequence[str], pattern: str) -> Int64[np.ndarray, " samples"]:
    """Return the number of each name's group.

    Args:
        names: names of the samples.
        pattern: regular expression whose parentheses hold the group; a name that it does not match
            is a group of its own.
    """
    matches = [re.search(pattern, name) for name in names]
    return _numbers([m[1] if m else name for name, m in zip(names, matches, strict=True)])
