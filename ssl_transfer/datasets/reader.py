"""Code that all readers share: their options, and building a ``Dataset`` from samples."""

import dataclasses
import functools
import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, get_args

import numpy as np
from jaxtyping import Int64

from ssl_transfer.config.arguments import argument
from ssl_transfer.config.ranges import Count, Range, Seed, Text, checked, hints
from ssl_transfer.datasets.base import Dataset, Split, Target, Targets, fingerprint
from ssl_transfer.datasets.class_choice import of_classes
from ssl_transfer.datasets.label_fraction import fraction_of
from ssl_transfer.datasets.splitting import (
    held_out,
    hold_out,
    hold_out_unstratified,
    per_class,
)
from ssl_transfer.datasets.tracing import traced
from ssl_transfer.errors import refuse_former_keys

log = logging.getLogger(__name__)

ValRule = Literal["ericsson2021"]
"""Published choices of validation images that differ from the seeded, stratified one."""

Verify = Literal["full", "headers", "off"]
"""How image files are checked before the first run on them."""


@checked("dataset.")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Keyword arguments that every reader takes.

    Args:
        name: the dataset's name in tables, folders and messages.
        val_fraction: share of every class's training samples that forms the validation split, if
            the dataset has no validation split of its own. 0 is for pre-training only
            (``method.pretrain_on``): all samples train, as in published pre-trainings.
        split_seed: seed of every choice of samples: validation, few labels, capped test.
        label_fraction: share of the training and of the validation samples that is used, the rest
            of which takes no part in anything (1: all); by ``fraction_of``, at least one sample
            per class of each of the two splits. Subsets are nested. With ``labels_per_class`` it is
            the share of these labels.
        labels_per_class: labelled samples per class, **training and validation together**
            (``null``: all); a validation split of another domain is cut to the size of the first
            one. A separate, larger validation split would choose hyper-parameters and
            refit the final model with more labels than the task has. Of ``k`` labels,
            ``held_out(k, val_fraction)`` validate, at least one. Subsets are nested: the labels
            of a smaller ``k`` are among those of a larger one.
        only_classes: names of the classes that the task has, at least two; of a set with one class
            per image (``null``: all).
        test_per_class: maximum number of test samples per class, to limit the cost (``null``: all).
        flip: whether a mirrored image still shows its class.
        on_corrupt: ``error`` refuses a dataset with images that do not decode, ``skip`` leaves
            them out and counts them in the record.
        verify: how image files are checked before the first run on them: ``full`` decodes every
            file; ``headers`` reads only the beginnings, and ``off`` nothing, so that corrupt images
            are named when they are needed, and copies are not recognised.
        sizes: what to do if splits do not have their published sizes: ``strict`` raises an error,
            ``warn`` logs a warning.
    """

    name: Text
    val_fraction: Annotated[float, Range(0, 1, open_high=True)] = 0.2
    split_seed: Seed = 0
    label_fraction: Annotated[float, Range(0, 1, open_low=True)] = 1.0
    # One to train and one to validate.
    labels_per_class: Annotated[int, Range(2, cap=10**9)] | None = None
    only_classes: list[str] | None = None
    test_per_class: Count | None = None
    flip: bool = True
    on_corrupt: Literal["error", "skip"] = "error"
    verify: Verify = "full"
    sizes: Literal["strict", "warn"] = "strict"

    def __post_init__(self) -> None:
        choices = {"on_corrupt": ("error", "skip"), "verify": get_args(Verify),
                   "sizes": ("strict", "warn")}  # fmt: skip
        for key, known in choices.items():
            if getattr(self, key) not in known:
                raise ValueError(
                    f"`dataset.{key}` must be one of {list(known)}, but is {getattr(self, key)!r}."
                )
        if self.on_corrupt == "skip" and self.verify != "full":
            raise ValueError(
                "`dataset.verify` must be full where `dataset.on_corrupt` is skip, because the "
                f"corrupt images must be known, but is {self.verify}; leave one of them out."
            )


def reader(read: Callable[..., Dataset]) -> Callable[..., Dataset]:
    """Let ``read(options, **its_own_keys)`` be called with the fields of its options as keywords.

    The options are ``Options`` or a class of more of them, as the annotation says. The result's
    signature and annotations contain all keys, so that a misspelt key is reported before any work.
    """
    kind: type[Options] = hints(read)["options"]
    shared = inspect.signature(kind).parameters
    own = list(inspect.signature(read).parameters.values())[1:]
    read_checked = checked("dataset.")(read)

    @functools.wraps(read)
    def dataset(**keys: Any) -> Dataset:
        options = kind(**{key: value for key, value in keys.items() if key in shared})
        own_keys = {key: value for key, value in keys.items() if key not in shared}
        return traced(functools.partial(read_checked, options, **own_keys), keys)

    known = hints(read) | hints(kind)
    parameters = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=known[parameter.name])
        for parameter in (*own, *shared.values())
    ]
    dataset.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        parameters, return_annotation=Dataset
    )
    dataset.is_reader = True  # type: ignore[attr-defined]
    dataset.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": Dataset}
    return dataset


@refuse_former_keys
def assemble(
    options: Options,
    *,
    classes: Sequence[str],
    train: Split,
    test: Split,
    val: Split | None = None,
    ood_val: Split | None = None,
    content: str,
    target: Target | None = None,
    metric: str | None = None,
    extra_metrics: Sequence[str] | None = None,
    expected: Mapping[str, int] | None = None,
    val_rule: str | None = None,
    disjoint: bool = False,
    facts: Mapping[str, object] | None = None,
    periods: Mapping[str, float] | None = None,
    domains: Sequence[str] = (),
) -> Dataset:
    """Return the dataset of these samples, split and reduced by the options.

    Args:
        options: the user's options.
        classes: names of the classes, values or landmarks.
        train: all labelled samples for training.
        test: the test samples.
        val: the official validation split (``None``: one is made from ``train``).
        ood_val: a validation split of a domain that neither ``train`` nor ``test`` has; the other
            validation split is then called ``id_val`` (``None``: there is none).
        content: represents the pixels in the fingerprint.
        target: kind of target (``None``: ``class`` or ``classes``, by the shape of the targets).
            With values and landmarks, the validation split does not depend on the targets.
        metric: the primary score, a name of ``metrics.CLASSIFICATION`` (``None``: ``top1``).
        extra_metrics: further scores, likewise; ``metrics.standard`` are always recorded.
        expected: published sizes of the splits, before any reduction, and number of ``classes``.
        val_rule: ``ericsson2021`` chooses validation images without regard to classes (``None``:
            stratified); without effect if there is an official ``val``.
        disjoint: whether training and test classes differ, as in few-shot sets.
        facts: for the record.
        periods: of the values on a circle, by name (see ``Dataset``).
        domains: names of the domains (see ``Dataset``).

    Raises:
        ValueError: if a class lacks samples, a domain has no image, or a split does not have its
            published size.
    """
    given = {"train": train, "test": test, "val": val, "ood_val": ood_val}
    original_splits = {key: split for key, split in given.items() if split is not None}
    sizes = {key: len(split) for key, split in original_splits.items()} | {"classes": len(classes)}
    check_sizes(options, sizes, expected or {})
    target = target or ("class" if train.targets.ndim == 1 else "classes")
    if target in ("class", "classes"):
        _check_classes(options, original_splits, classes, disjoint=disjoint)
    else:
        _check_numbers(options, original_splits, may_be_unknown=target == "landmarks")
    _check_domains(options, original_splits, domains)
    if target != "class":
        _check_reducible(options)
    if options.only_classes is not None:
        classes, original_splits = of_classes(
            options.name, classes, original_splits, options.only_classes
        )
        train, test = original_splits["train"], original_splits["test"]
        val, ood_val = original_splits.get("val"), original_splits.get("ood_val")
    assert val is not None or target != "classes", "several classes per image: brings its val split"
    if val_rule not in (None, *get_args(ValRule)):
        raise ValueError(
            f"`dataset.val_rule` must be null or one of {list(get_args(ValRule))}, but is "
            f"{val_rule!r}."
        )
    validation = f"seeded, {options.val_fraction} of train" if options.val_fraction else "none"
    if val is not None:
        validation = "official"
    elif val_rule is not None:
        validation += f", {val_rule}"
    train, val = _labelled(options, train, val, classes, val_rule)
    if options.test_per_class is not None:
        picked = per_class(test.targets, options.test_per_class, options.split_seed, "test subset")
        test = test.subset(picked)
    splits = {"train": train, "val": val, "test": test}
    if ood_val is not None:
        if options.labels_per_class is not None:
            share = held_out(options.labels_per_class, options.val_fraction)
            picked = per_class(ood_val.targets, share, options.split_seed, "validation labels")
            ood_val = ood_val.subset(picked)
        splits = {"train": train, "id_val": val, "ood_val": ood_val, "test": test}
    splits |= _fraction_of_labels(options, splits)
    return Dataset(
        name=options.name,
        classes=tuple(classes),
        target=target,
        metric=metric or "top1",
        extra_metrics=tuple(extra_metrics or ()),
        splits=splits,
        flip=options.flip,
        fingerprint=fingerprint(classes, splits, content),
        facts={
            "sizes": {key: len(split) for key, split in splits.items()},
            "num_classes": len(classes),
            "validation": validation,
            "corrupt": 0,
            **_label_facts(options, original_splits, splits),
            **(facts or {}),
        },
        split_seed=options.split_seed,
        periods=dict(periods or {}),
        domains=tuple(domains),
    )


def _labelled(
    options: Options,
    train: Split,
    val: Split | None,
    classes: Sequence[str],
    val_rule: str | None,
) -> tuple[Split, Split]:
    """Return the training and validation samples."""
    labels, seed = options.labels_per_class, options.split_seed
    if val is None and (train.groups is None or options.val_fraction == 0):
        if labels is not None:
            _check_enough(options, "train", train, labels, classes)
            train = train.subset(per_class(train.targets, labels, seed, "labels"))
        return _validated(options, train, val_rule)
    if val is None:  # the labels of one group must not be on both sides
        train, val = _validated(options, train, val_rule)
    if labels is not None:
        share = held_out(labels, options.val_fraction)
        _check_enough(options, "train", train, labels - share, classes)
        _check_enough(options, "val", val, share, classes)
        train = train.subset(per_class(train.targets, labels - share, seed, "labels"))
        val = val.subset(per_class(val.targets, share, seed, "validation labels"))
    return train, val


def _fraction_of_labels(options: Options, splits: Mapping[str, Split]) -> dict[str, Split]:
    """Return the fraction of each split but ``test``; nothing if all labels are used."""
    fraction = options.label_fraction
    if fraction == 1:
        return {}
    fractions = {
        key: fraction_of(split, fraction, options.split_seed)
        for key, split in splits.items()
        if key != "test"
    }
    used = sum(map(len, fractions.values()))
    everything = sum(len(splits[key]) for key in fractions)
    if used > 1.5 * fraction * everything:
        log.warning(
            "`%s`: `dataset.label_fraction=%s` keeps at least one label of each class to train and "
            "one to validate, which are %d of %d labels (%.2g)",
            options.name, fraction, used, everything, used / everything,
        )  # fmt: skip
    return fractions


def _label_facts(
    options: Options, before: Mapping[str, Split], after: Mapping[str, Split]
) -> dict[str, object]:
    """Return how many labels are used, and of how many, if an option limits them."""
    if options.label_fraction == 1 and options.labels_per_class is None:
        return {}
    used, available = (
        sum(len(split) for key, split in splits.items() if key != "test")
        for splits in (after, before)
    )
    return {"labels": {"used": used, "available": available}}


def _validated(options: Options, train: Split, val_rule: str | None) -> tuple[Split, Split]:
    """Return the remaining training samples and the validation samples taken from them."""
    if options.val_fraction == 0:
        return train, train.subset([])
    if val_rule == "ericsson2021":
        train_indices, val_indices = hold_out_unstratified(
            len(train), options.val_fraction, options.split_seed
        )
    else:
        train_indices, val_indices = hold_out(
            train.targets if train.targets.ndim == 1 else np.zeros(len(train), dtype=np.int64),
            options.val_fraction,
            options.split_seed,
            "validation",
            train.groups,
        )
    if not len(val_indices):
        what = "images" if train.groups is None else "images that are not copies or of one group"
        raise ValueError(
            f"at least one class of `{options.name}` must have two training {what} so that one can "
            "validate, but every class has only one; add images."
        )
    return train.subset(train_indices), train.subset(val_indices)


def _check_enough(
    options: Options, key: str, split: Split, needed: int, classes: Sequence[str]
) -> None:
    counts = _class_counts(split.targets, classes)
    if counts.min() < needed:
        raise ValueError(
            f"`dataset.labels_per_class` must leave {needed} {key} images for every class of "
            f"`{options.name}`, but class `{classes[int(counts.argmin())]}` has {counts.min()}; "
            f"lower it (now {options.labels_per_class})."
        )


def _class_counts(targets: Targets, classes: Sequence[str]) -> Int64[np.ndarray, " classes"]:
    """Return how many images show each class."""
    if targets.ndim == 2:
        return np.asarray((targets == 1).sum(axis=0), dtype=np.int64)
    return np.bincount(targets, minlength=len(classes))


def refuse_label_limits(options: Options, reason: str, *, with_test: bool = True) -> None:
    """Refuse options that limit labels, for a dataset without labels to limit.

    Args:
        options: the user's options.
        reason: what the dataset is, as a relative clause.
        with_test: whether ``test_per_class`` is refused, too.

    Raises:
        ValueError: naming the option.
    """
    neutral: dict[str, object] = {
        "label_fraction": 1,
        "labels_per_class": None,
        "only_classes": None,
        "test_per_class": None,
    }
    for key in list(neutral)[: 4 if with_test else 3]:
        if (value := getattr(options, key)) != neutral[key]:
            must = "null" if neutral[key] is None else neutral[key]
            raise ValueError(
                f"`dataset.{key}` must be {must} for `{options.name}`, {reason}, but is {value}; "
                "leave it out."
            )


def _check_reducible(options: Options) -> None:
    """Refuse options per class for a dataset whose images do not have one class each."""
    set_keys = [
        key
        for key in ("labels_per_class", "only_classes", "test_per_class")
        if getattr(options, key) is not None
    ]
    if set_keys:
        raise ValueError(
            f"`dataset.{set_keys[0]}` must be null for `{options.name}`, whose images do not have "
            f"one class each, but is {getattr(options, set_keys[0])}; leave it out."
        )


def _check_numbers(options: Options, splits: Mapping[str, Split], *, may_be_unknown: bool) -> None:
    """Refuse values or landmarks that are infinite, or NaN if they must be known."""
    for key, split in splits.items():
        wrong = np.isinf(split.targets) if may_be_unknown else ~np.isfinite(split.targets)
        if wrong.any():
            first = np.argwhere(wrong)[0]
            raise ValueError(
                f"every value of `{options.name}` must be a number, but one of "
                f"`{split.names[first[0]]}` in {key} is {split.targets[tuple(first)]}; correct the "
                "annotation."
            )


def check_sizes(options: Options, sizes: Mapping[str, int], expected: Mapping[str, int]) -> None:
    """Compare sizes with the published ones; ``options.sizes`` decides between error and warning.

    Args:
        options: options of the dataset.
        sizes: samples per split, and other counts by name.
        expected: published values of some of these counts.

    Raises:
        ValueError: if they differ and ``sizes`` is ``strict``.
    """
    sizes = {key: sizes[key] for key in expected}
    if sizes == dict(expected):
        return
    message = f"`{options.name}` must have its published sizes {dict(expected)}, but has {sizes}"
    if options.sizes == "strict":
        raise ValueError(f"{message}; complete the data, or set dataset.sizes=warn.")
    log.warning(message)


def _check_domains(options: Options, splits: Mapping[str, Split], domains: Sequence[str]) -> None:
    """Refuse domains without an image in any split."""
    shown = {
        number
        for split in splits.values()
        if split.domains is not None
        for number in np.unique(split.domains).tolist()
    }
    empty = [name for number, name in enumerate(domains) if number not in shown]
    if empty:
        raise ValueError(
            f"every domain of `{options.name}` must have an image, but {some(empty)} "
            f"{'has' if len(empty) == 1 else 'have'} none; complete the data."
        )


def _check_classes(
    options: Options, splits: Mapping[str, Split], classes: Sequence[str], *, disjoint: bool
) -> None:
    for key, split in splits.items():
        if split.targets.ndim == 1:
            wrong = np.flatnonzero((split.targets < 0) | (split.targets >= len(classes))).tolist()
            if wrong:
                raise ValueError(
                    f"every label of `{options.name}` must lie from 0 to {len(classes) - 1}, but "
                    f"that of `{split.names[wrong[0]]}` in {key} is {split.targets[wrong[0]]}; "
                    "correct the annotation."
                )
    if disjoint:
        return
    for key, split in splits.items():
        counts = _class_counts(split.targets, classes)
        empty = [classes[label] for label in np.flatnonzero(counts == 0).tolist()]
        if not empty:
            continue
        have = "has" if len(empty) == 1 else "have"
        if key == "train" or (key == "test" and len(empty) == len(classes)):
            raise ValueError(
                f"every class of `{options.name}` must have an image in {key}, but "
                f"{some(empty)} {have} none; add images or remove the class."
            )
        log.warning(
            "`%s`: %s %s no image in %s, so that scores say nothing of %s; add images, or leave "
            "classes out of the task (image_folder: %s)",
            options.name, some(empty), have, key, "it" if len(empty) == 1 else "them",
            exclude(empty),
        )  # fmt: skip


def exclude(classes: Sequence[str]) -> str:
    """Return the argument that leaves classes out of an ``image_folder``."""
    return argument("dataset.exclude_classes", *classes[:20], is_list=True)


def some(names: Sequence[str], limit: int = 5) -> str:
    """Return the first names of a list, and the number of further names, for a message."""
    shown = ", ".join(f"`{name}`" for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
