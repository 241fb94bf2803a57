"""Images in rows, whatever stores them: labels become targets, and rows become splits.

A table of files, shards and stored data sets are all read to ``Rows``. The samples of a split are
ordered by class and then by name, as in class folders, so that the order of the rows has no effect
on a score, and a set gives the same scores in every form.
"""

import dataclasses
import functools
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float64, Int64

from ssl_transfer import metrics
from ssl_transfer.config.ranges import Finite, ProperFraction, checked
from ssl_transfer.datasets import list_tables
from ssl_transfer.datasets.base import Dataset, Split, Targets
from ssl_transfer.datasets.decoding import decoding_of
from ssl_transfer.datasets.duplicates import OnDuplicates, settle_duplicates
from ssl_transfer.datasets.files import Listing, inspect_files
from ssl_transfer.datasets.groups import group
from ssl_transfer.datasets.images import Spans
from ssl_transfer.datasets.named_files import refuse
from ssl_transfer.datasets.nearest import alike
from ssl_transfer.datasets.reader import Options, assemble, some
from ssl_transfer.datasets.split_folders import SPLITS
from ssl_transfer.datasets.splitting import hold_out

TargetKind = Literal["class", "classes", "values"]
Labels = Sequence[tuple[str, ...]] | Float64[np.ndarray, "rows columns"]
"""The labels of each row, or numbers: one column per value or class."""


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """Images and what is known about them, in columns.

    Args:
        names: stable names of the images, without repetition.
        paths: the file of each image.
        labels: see ``Labels``.
        target: kind of target (see ``base.Dataset``); of ``class``, each row has one label.
        place: returns where a row stands, for messages.
        spans: the part of its file that each image is (``None``: each file is one image).
        classes: names of the classes or of the values, in their order (``None``: the labels of the
            training rows: numbers by value, other labels by their text).
        splits: position of each row's split in ``SPLITS`` (``None``: all rows are one pool).
        groups: the group of each row (``None``: no groups).
        domains: the domain of each row (``None``: no domains).
    """

    names: Sequence[str]
    paths: Sequence[str]
    labels: Labels
    target: TargetKind
    place: Callable[[int], str]
    spans: Spans | None = None
    classes: tuple[str, ...] | None = None
    splits: Int64[np.ndarray, " rows"] | None = None
    groups: Sequence[str] | None = None
    domains: Sequence[str] | None = None


@checked("dataset.")
@dataclasses.dataclass(frozen=True, kw_only=True)
class RowOptions(Options):
    """Keyword arguments that every reader of rows takes.

    Args:
        groups: which images show one object and stay together in every split that is made (see
            ``groups.group``) (``None``: the groups of the rows; without them, only copies stay
            together).
        on_duplicates: how to treat images whose bytes are in two of the given splits (see
            ``duplicates.settle_duplicates``).
        test_fraction: share of every class that is tested, where the rows have no test split.
        value_range: see ``decoding.Decoding``.
        metric: primary score, which also selects classifiers (``None``: ``top1``, or of several
            classes per image ``map_11_point``).
        extra_metrics: further scores of the test split.
    """

    groups: str | None = None
    on_duplicates: OnDuplicates = "error"
    test_fraction: ProperFraction = 0.2
    value_range: Sequence[Finite] | None = None
    metric: metrics.Name | None = None
    extra_metrics: Sequence[metrics.Name] | None = None


def dataset_of(options: RowOptions, rows: Rows, root: Path) -> Dataset:
    """Return the dataset of these rows.

    Args:
        options: shared options.
        rows: the images.
        root: folder that a file of groups is relative to.

    Raises:
        ValueError: if rows contradict each other, or an image does not decode.
    """
    if rows.splits is not None and len(rows.splits) and not (rows.splits == 0).any():
        raise ValueError(
            f"`{options.name}` must have training images, but all of its images are of other "
            "splits; correct its splits."
        )
    problems = list(_repeated(rows))
    targets, classes = _targets(rows, problems)
    refuse(f"the rows of `{options.name}`", problems)
    if rows.target != "values":
        list_tables.warn_of_alike(options.name, classes)
        _require_classes(options, rows.target, classes)
    domain_names = sorted(set(rows.domains or ()))
    listings = _listings(rows, targets, domain_names)
    looked_at = inspect_files(options, listings, decoding_of(options.value_range))
    files = settle_duplicates(options.name, looked_at, options.on_duplicates)
    rule: str | dict[str, str] | None = options.groups
    if rule is None and rows.groups is not None:
        rule = dict(zip(rows.names, rows.groups, strict=True))
    splits = group(options.name, files, rule, root, classes)
    train, val, test = splits["train"], splits.get("val"), splits.get("test")
    facts = {
        **files.facts,
        "test": "own" if test is not None else f"seeded, {options.test_fraction}",
    }
    if test is None:
        train, test = _held_out(options, train, options.test_fraction, "test")
    if val is None and rows.target == "classes":
        train, val = _held_out(options, train, options.val_fraction, "validation")
        facts["validation"] = f"seeded, {options.val_fraction} of train"
    several = rows.target == "classes"
    return assemble(
        options,
        classes=classes,
        train=train,
        test=test,
        val=val,
        content=files.content,
        target=rows.target,
        metric=options.metric or ("map_11_point" if several else None),
        extra_metrics=options.extra_metrics,
        facts=facts,
        domains=domain_names,
    )


def _require_classes(options: Options, target: TargetKind, classes: Sequence[str]) -> None:
    least, words = (2, "two classes") if target == "class" else (1, "one class")
    if len(classes) < least:
        raise ValueError(
            f"`{options.name}` must have at least {words}, but has "
            f"{some(classes) if classes else 'none'}; correct the labels."
        )


def stable_names(
    files: Sequence[str], labels: Labels, splits: Int64[np.ndarray, " rows"] | None
) -> list[str]:
    """Return names of images that are stored in other files, as class folders would name them.

    A name without a folder gets that of its class, and each name begins with its split, if there
    are splits: ``train/<class>/<file>``. Of equal names, all but the first get a number.

    Args:
        files: the name of each image's own file.
        labels: see ``Labels``; only single labels name a folder.
        splits: see ``Rows``.
    """
    names, times = [], Counter[str]()
    for row, file in enumerate(files):
        name = file
        if "/" not in file and not isinstance(labels, np.ndarray) and len(labels[row]) == 1:
            name = f"{labels[row][0]}/{file}"
        if splits is not None:
            name = f"{SPLITS[splits[row]]}/{name}"
        times[name] += 1
        names.append(name if times[name] == 1 else f"{name} ({times[name]})")
    return names


def _repeated(rows: Rows) -> Iterator[str]:
    """Yield a message for every row whose image an earlier row has."""
    odd = ("./", "//")  # only these make two spellings of one path
    first: dict[str, int] = {}
    for number, name in enumerate(rows.names):
        place = os.path.normpath(name) if odd[0] in name or odd[1] in name else name
        other = first.setdefault(place, number)
        if other != number:
            yield f"{rows.place(number)}: `{name}` is named in {rows.place(other)} already"


def _targets(rows: Rows, problems: list[str]) -> tuple[Targets, tuple[str, ...]]:
    """Return the targets of all rows, and the names of the classes or values."""
    if isinstance(rows.labels, np.ndarray):
        assert rows.classes is not None, "columns of numbers have names"
        if rows.target == "values":
            return rows.labels, rows.classes
        wrong = np.flatnonzero(~np.isin(rows.labels, (1, 0, -1)).all(axis=1)).tolist()
        problems += [
            f"{rows.place(i)}: a class must be marked 1 (shown), 0 (not shown) or -1 (not known), "
            f"but the marks are {rows.labels[i].tolist()}"
            for i in wrong
        ]
        return np.nan_to_num(rows.labels).astype(np.int64), rows.classes
    taught = np.ones(len(rows.names), bool) if rows.splits is None else rows.splits == 0
    in_train = {label for row in np.flatnonzero(taught).tolist() for label in rows.labels[row]}
    classes = rows.classes or list_tables.class_names(in_train)
    numbers = {name: number for number, name in enumerate(classes)}
    known = "the labels of the training rows" if rows.classes is None else "the classes"
    hint = functools.cache(functools.partial(_hint, classes=classes))
    problems += [
        f"{rows.place(row)}: label `{label[:80]}` is not among {known}{hint(label)}"
        for row, labels in enumerate(rows.labels)
        for label in labels
        if label not in numbers
    ]
    if rows.target == "class":
        each = (numbers.get(label, -1) for (label,) in rows.labels)
        return np.fromiter(each, dtype=np.int64, count=len(rows.labels)), classes
    targets = np.zeros((len(rows.labels), len(classes)), dtype=np.int64)
    for row, labels in enumerate(rows.labels):
        targets[row, [numbers[label] for label in labels if label in numbers]] = 1
    return targets, classes


def _hint(label: str, classes: Sequence[str]) -> str:
    near = alike(label, classes)
    return f" (did you mean `{near}`?)" if near else ""


def _listings(rows: Rows, targets: Targets, domain_names: Sequence[str]) -> dict[str, Listing]:
    """Return the images of each split that has images, by class and then by name."""
    by_name = np.array(sorted(range(len(rows.names)), key=rows.names.__getitem__), dtype=np.int64)
    order = by_name[np.argsort(targets[by_name], kind="stable")] if targets.ndim == 1 else by_name
    numbers = {name: number for number, name in enumerate(domain_names)}
    domains = (
        None
        if rows.domains is None
        else np.array([numbers[name] for name in rows.domains], dtype=np.int64)
    )
    whole = Listing(rows.paths, rows.names, targets, rows.spans, domains)
    if rows.splits is None:
        return {"train": whole.keep(order)} if len(order) else {}
    of_split = {key: order[rows.splits[order] == i] for i, key in enumerate(SPLITS)}
    return {key: whole.keep(indices) for key, indices in of_split.items() if len(indices)}


def _held_out(options: Options, train: Split, fraction: float, purpose: str) -> tuple[Split, Split]:
    """Return the remaining and the held-out samples, by class where each has one."""
    if not fraction:
        return train, train.subset([])
    one_each = train.targets.ndim == 1
    strata = train.targets if one_each else np.zeros(len(train), dtype=np.int64)
    kept, held = hold_out(strata, fraction, options.split_seed, purpose, train.groups)
    return train.subset(kept), train.subset(held)
