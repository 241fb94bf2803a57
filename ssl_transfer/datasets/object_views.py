"""Sets of several views per object: objects photographed, lit or distorted in several ways."""

from collections.abc import Mapping, Sequence

import numpy as np

from ssl_transfer.datasets.base import Dataset, Split, fingerprint
from ssl_transfer.datasets.reader import Options, check_sizes


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
    """Refuse options that count labels, which a set of views does not have.

    Raises:
        ValueError: naming the option.
    """
    for key in ("labels_per_class", "test_per_class"):
        if getattr(options, key) is not None:
            raise ValueError(
                f"`dataset.{key}` must be null for `{options.name}`, whose images are views of "
                f"objects, but is {getattr(options, key)}; leave it out."
            )
