"""Sets of several views per object: objects photographed, lit or distorted in several ways."""

import dataclasses
import logging
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ssl_transfer.datasets.base import Dataset, Split, fingerprint
from ssl_transfer.datasets.files import Listing
from ssl_transfer.datasets.layout import read_images
from ssl_transfer.datasets.reader import Options, check_sizes, refuse_label_limits, some
from ssl_transfer.datasets.walk import LeftOut, images_below

log = logging.getLogger(__name__)


Group = tuple[int | str, ...]
"""What all views of one object have in common, e.g. object and camera."""


class View(NamedTuple):
    """What one image shows.

    Args:
        group: see ``Group``; groups are sorted by it, so that its parts have the same types
            in one set.
        condition: what differs between the views of a group, e.g. the angle or the light.
        object: class number of the object (0 where objects have no class).
    """

    group: Group
    condition: str
    object: int = 0


Manifest = Mapping[Group, Mapping[str, str]]
"""File of every view, by group and condition."""


def assemble_views(
    options: Options,
    *,
    views: Split,
    classes: Sequence[str] = (),
    content: str,
    expected: Mapping[str, int] | None = None,
    facts: Mapping[str, object] | None = None,
) -> Dataset:
    """Return the dataset of these views: all are in ``test``, and ``train`` and ``val`` are empty.

    Args:
        options: the user's options; those that count labels must be left out, and ``val_fraction``
            has no effect.
        views: all views. ``groups`` numbers the objects; targets are the objects' classes (0 where
            they have none).
        classes: names of the classes (empty: the objects have none).
        content: represents the pixels in the fingerprint.
        expected: published number of ``views``, ``objects`` and ``classes``.
        facts: for the record.

    Raises:
        ValueError: if there is no view, an option does not apply, a target is no class, or the
            numbers are not the published ones.
    """
    refuse_options_of_labels(options)
    assert views.groups is not None, "a view needs the number of its object"
    assert views.targets.ndim == 1, "a view has one class"
    if not len(views):
        raise ValueError(f"`{options.name}` must have at least one view, but has none.")
    wrong = (views.targets < 0) | (views.targets >= max(len(classes), 1))
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        raise ValueError(
            f"every class of `{options.name}` must lie from 0 to {max(len(classes), 1) - 1}, but "
            f"that of `{views.names[first]}` is {views.targets[first]}; correct the annotation."
        )
    objects = len(np.unique(views.groups))
    sizes = {"views": len(views), "objects": objects, "classes": len(classes)}
    check_sizes(options, sizes, expected or {})
    splits = {"train": views.subset([]), "val": views.subset([]), "test": views}
    digest = fingerprint(classes, splits, f"{content} {views.groups.tolist()}")
    return Dataset(
        name=options.name,
        classes=tuple(classes),
        target="views",
        metric="top1",
        splits=splits,
        flip=options.flip,
        fingerprint=digest,
        facts={
            "sizes": {key: len(split) for key, split in splits.items()},
            "num_classes": len(classes),
            "objects": objects,
            "validation": "none",
            "corrupt": 0,
            **(facts or {}),
        },
        split_seed=options.split_seed,
    )


def refuse_options_of_labels(options: Options) -> None:
    """Refuse options that limit labels, which a set of views does not have.

    Raises:
        ValueError: naming the option.
    """
    refuse_label_limits(options, "whose images are views of objects")


def views_below(
    options: Options,
    root: Path,
    folders: Sequence[str],
    pattern: str,
    view_of: Callable[[re.Match[str]], View | None],
    *,
    form: str,
) -> dict[str, View]:
    """Return what each image below some folders shows, by the image's path relative to ``root``.

    Args:
        options: options of the dataset, for its name.
        root: the dataset's folder.
        folders: folders to read, relative to ``root``; other folders are not looked at.
        pattern: regular expression that the whole relative path of every image must match.
        view_of: returns what the image of a matching path shows (``None``: it belongs to another
            part of the set and is not read).
        form: the pattern in words, for the message.

    Raises:
        ValueError: naming the images whose paths do not match.
    """
    left_out, views, unknown = LeftOut(root), {}, []
    for folder in folders:
        for path in images_below(root / folder, left_out):
            name = Path(path).relative_to(root).as_posix()
            match = re.fullmatch(pattern, name)
            if match is None:
                unknown.append(name)
            elif (view := view_of(match)) is not None:
                views[name] = view
    left_out.tell(options.name)
    if unknown:
        raise ValueError(
            f"every image of `{options.name}` must be called {form}, but {some(sorted(unknown))} "
            f"{'is' if len(unknown) == 1 else 'are'} not; remove what does not belong to the set, "
            "or unpack the archive again."
        )
    return views


def read_views(
    options: Options,
    root: Path,
    views: Mapping[str, View],
    *,
    conditions: Sequence[str] | None,
    groups: Collection[Group] | None = None,
    expected: Mapping[str, int],
    classes: Sequence[str] = (),
    facts: Mapping[str, object] | None = None,
) -> Dataset:
    """Return the dataset of these files after the views of every object have been checked.

    Samples are sorted by group and, within a group, by the order of ``conditions``.

    Args:
        options: the user's options.
        root: the dataset's folder.
        views: what each image shows, by its path relative to ``root``.
        conditions: the views that every object must have (``None``: the same number of views for
            every object).
        groups: the groups of the complete set (``None``: not known by name).
        expected: published number of ``views`` and ``objects``, before damaged images are left out.
        classes: see ``assemble_views``.
        facts: for the record.

    Raises:
        ValueError: naming objects whose views are missing, surplus or doubled; or if the numbers
            are not the published ones, or an image does not decode.
    """
    manifest = manifest_of(options, views)
    _check_views(options, manifest, conditions, groups)
    check_sizes(options, {"objects": len(manifest), "views": len(views)}, expected)
    numbers = {group: number for number, group in enumerate(sorted(manifest))}
    order = {condition: place for place, condition in enumerate(conditions or ())}

    def place(name: str) -> tuple[int, int, str]:
        group, condition, _ = views[name]
        return numbers[group], order.get(condition, len(order)), name

    names = sorted(views, key=place)
    targets = np.array([views[name].object for name in names], dtype=np.int64)
    paths = [str(root / name) for name in names]
    files = read_images(options, {"test": Listing(paths, names, targets)}, upright=False)
    split = files.splits["test"]
    members = np.array([numbers[views[name].group] for name in split.names], dtype=np.int64)
    return assemble_views(
        options,
        views=dataclasses.replace(split, groups=members),
        classes=classes,
        content=files.content,
        facts={**files.facts, **(facts or {})},
    )


def manifest_of(options: Options, views: Mapping[str, View]) -> Manifest:
    """Return the file of every view, by group and condition.

    Raises:
        ValueError: naming two files that show the same object in the same condition.
    """
    manifest: dict[Group, dict[str, str]] = {}
    for name in sorted(views):
        view = views[name]
        conditions = manifest.setdefault(view.group, {})
        if view.condition in conditions:
            raise ValueError(
                f"every view of `{options.name}` must be there once, but "
                f"`{conditions[view.condition]}` and `{name}` are both view `{view.condition}` of "
                f"`{title(view.group)}`; remove one."
            )
        conditions[view.condition] = name
    return manifest


def title(group: Group) -> str:
    """Return the name of a group in messages."""
    return "/".join(map(str, group))


def _check_views(
    options: Options,
    manifest: Manifest,
    conditions: Sequence[str] | None,
    groups: Collection[Group] | None,
) -> None:
    """Refuse objects with missing or surplus views; with ``sizes=warn``, warn of them."""
    differing = list(_differing(manifest, conditions, set(groups or manifest)))
    if not differing:
        return
    what = f"the same {len(conditions)} views" if conditions else "the same number of views"
    more = f" and {len(differing) - 5} more objects differ" * (len(differing) > 5)
    message = (
        f"every object of `{options.name}` must have {what}, but {', '.join(differing[:5])}{more}"
    )
    if options.sizes == "strict":
        raise ValueError(f"{message}; complete the data, or set dataset.sizes=warn.")
    log.warning(message)


def _differing(
    manifest: Manifest, conditions: Sequence[str] | None, groups: set[Group]
) -> Iterator[str]:
    """Yield a text for each object with missing or surplus views."""
    usual = max((len(views) for views in manifest.values()), default=0)
    for group in sorted(groups | manifest.keys()):
        name, views = f"`{title(group)}`", manifest.get(group, {})
        missing = [condition for condition in conditions or () if condition not in views]
        surplus = [views[key] for key in sorted(views.keys() - set(conditions or views))]
        if group not in groups:
            yield f"{name} is not part of the set"
        elif not views:
            yield f"{name} has none"
        elif conditions is None and len(views) < usual:
            yield f"{name} has {len(views)} of {usual}"
        elif missing or surplus:
            parts = [f"lacks {some(missing)}"] * bool(missing)
            parts += [f"has {some(surplus)} besides"] * bool(surplus)
            yield f"{name} {' and '.join(parts)}"
