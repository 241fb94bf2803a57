"""The interface between a protocol and the run that executes it."""

import dataclasses
import logging
from collections.abc import Iterator
from typing import ClassVar, Literal, Protocol, runtime_checkable

import numpy as np

from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset
from ssl_transfer.datasets.reader import some
from ssl_transfer.models import Encoder

log = logging.getLogger(__name__)

SPLITS = {"train": "training", "val": "validation", "test": "test"}
"""The splits that protocols read, and the words for their images in messages."""


ClassScores = Literal["logits", "shares"]
"""Kinds of class scores: logits, or probabilities such as the shares of votes."""


@dataclasses.dataclass(frozen=True)
class Score:
    """One number that a protocol measured.

    Args:
        metric: the metric's name in the literature, e.g. ``top1``.
        value: bounded scores are fractions in ``[0, 1]``.
        split: the split on which it was measured.
        unit: ``fraction`` for bounded scores, else the unit's name.
        higher_is_better: direction of the metric.
        primary: whether tables show this score by default; one score per run.
    """

    metric: str
    value: float
    split: str = "test"
    unit: str = "fraction"
    higher_is_better: bool = True
    primary: bool = False


@runtime_checkable
class EvaluationProtocol(Protocol):
    """A measurement: the constructor takes the hyper-parameters, ``run`` does the work.

    An optional method ``check(dataset)`` raises a ``ValueError`` for a dataset that does not fit
    the hyper-parameters; it is called before anything is computed. An optional class attribute
    ``splits`` names the splits that the protocol needs (default: train, val and test); a dataset
    without images in one of them is refused. An optional method ``more_data()`` returns another
    dataset that the protocol reads, if it does, so that the record lists its files, too. An
    optional class attribute ``class_scores`` says which kind of class scores ``scores_on_test``
    gets; only protocols with it can be averaged over members (``method=cat_sub``).
    """

    targets: ClassVar[frozenset[str]]
    """Kinds of target it accepts, e.g. ``{"class"}``."""

    def run(self, encoder: Encoder, dataset: Dataset, context: Context) -> Iterator[Score]:
        """Yield the scores of ``encoder`` on ``dataset``."""
        ...


_REMEDIES = {
    "none": " (it is for pre-training only)",
    "values": "; use protocol=factor_regression or transferability",
    "landmarks": "; use protocol=landmark_regression",
    "views": "; use protocol=real_world_invariance",
}
"""Ends of the message for a dataset without classes, by its kind of target."""


def require(protocol: EvaluationProtocol, dataset: Dataset, name: str = "the protocol") -> None:
    """Refuse a dataset that a protocol cannot use, before any work.

    Args:
        protocol: the protocol with its hyper-parameters.
        dataset: the dataset to measure on.
        name: name of the protocol, for the message.

    Raises:
        ValueError: if the dataset does not fit.
    """
    if dataset.target not in protocol.targets:
        raise ValueError(
            f"{name} must be given a dataset whose target is one of {sorted(protocol.targets)}, "
            f"but `{dataset.name}` has `{dataset.target}`"
            f"{_REMEDIES.get(dataset.target, '')}."
        )
    for split, images in SPLITS.items():
        if split in getattr(protocol, "splits", SPLITS) and len(dataset[split]) == 0:
            fraction = {"val": "val_fraction", "test": "test_fraction"}.get(split)
            remedy = f"set `dataset.{fraction}` above 0" if fraction else "choose another dataset"
            raise ValueError(
                f"{name} must be given a dataset with {images} images, but `{dataset.name}` has "
                f"none; {remedy}."
            )
    _require_targets(dataset, trains="train" in getattr(protocol, "splits", SPLITS))
    check = getattr(protocol, "check", None)
    if check is not None:
        check(dataset)


def _require_targets(dataset: Dataset, *, trains: bool) -> None:
    """Refuse invalid labels; warn of classes with test images but without training images.

    Readers of files have already checked both; a dataset from a user's own code has not been
    checked.
    """
    if dataset.target not in ("class", "classes"):
        return
    low, high = (0, len(dataset.classes) - 1) if dataset.target == "class" else (-1, 1)
    for key in SPLITS:
        targets = dataset[key].targets
        wrong = (targets < low) | (targets > high)
        if wrong.any():
            first = np.argwhere(wrong)[0]
            raise ValueError(
                f"every label of `{dataset.name}` must lie from {low} to {high}, but that of "
                f"`{dataset[key].names[first[0]]}` in {key} is {targets[tuple(first)]}; correct it."
            )
    if dataset.target == "class" and trains:
        shown = [dataset["train"].targets, dataset["val"].targets]
        unknown = np.setdiff1d(dataset["test"].targets, np.concatenate(shown)).tolist()
        if unknown and len(unknown) == len(np.unique(dataset["test"].targets)):
            raise ValueError(
                f"test images of `{dataset.name}` must be of classes with training images, but "
                "none are: it is for `few_shot` and for pre-training; choose another dataset."
            )
        if unknown:
            log.warning(
                "`%s` has no training image of %s, so that test images of these classes count as "
                "wrong", dataset.name, some([dataset.classes[label] for label in unknown]),
            )  # fmt: skip
