"""The contract between a protocol and the run that carries it out."""

import dataclasses
import logging
from collections.abc import Iterator
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np

from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset
from ssl_transfer.datasets.reader import some
from ssl_transfer.models import Encoder

log = logging.getLogger(__name__)

SPLITS = {"train": "training", "val": "validation", "test": "test"}
"""The splits that protocols read, with what messages call their images."""


@dataclasses.dataclass(frozen=True)
class Score:
    """One number that a protocol measured.

    Args:
        metric: the metric's name in the literature, e.g. ``top1``.
        value: bounded scores are fractions in ``[0, 1]``.
        split: where it was measured.
        unit: ``fraction`` for bounded scores, else the unit's name.
        higher_is_better: direction of the metric.
        primary: the score that tables show when none is asked for; one per run.
    """

    metric: str
    value: float
    split: str = "test"
    unit: str = "fraction"
    higher_is_better: bool = True
    primary: bool = False


@runtime_checkable
class EvaluationProtocol(Protocol):
    """What is measured: hyper-parameters in the constructor, the work in ``run``.

    A method ``check(dataset)``, if there is one, raises a ``ValueError`` for a dataset that the
    hyper-parameters do not fit; it is called before anything is computed.
    A class attribute ``splits`` names the splits that it needs (without one: train, val and test);
    a dataset without images in one of them is refused.
    """

    targets: ClassVar[frozenset[str]]
    """Kinds of target it accepts, e.g. ``{"class"}``."""

    def run(self, encoder: Encoder, dataset: Dataset, context: Context) -> Iterator[Score]:
        """Yield the scores of ``encoder`` on ``dataset``."""
        ...


def require(protocol: EvaluationProtocol, dataset: Dataset, name: str = "the protocol") -> None:
    """Refuse a dataset that a protocol cannot be measured on, before any work.

    Args:
        protocol: with its hyper-parameters.
        dataset: to be judged on.
        name: of the protocol, for the message.

    Raises:
        ValueError: in one sentence.
    """
    if dataset.target not in protocol.targets:
        raise ValueError(
            f"{name} must be given a dataset whose target is one of {sorted(protocol.targets)}, "
            f"but `{dataset.name}` has `{dataset.target}`"
            f"{' (it is for pre-training alone)' * (dataset.target == 'none')}."
        )
    for split, images in SPLITS.items():
        if split in getattr(protocol, "splits", SPLITS) and len(dataset[split]) == 0:
            fraction = {"val": "val_fraction", "test": "test_fraction"}.get(split)
            remedy = f"set `dataset.{fraction}` above 0" if fraction else "choose another dataset"
            raise ValueError(
                f"{name} must be given a dataset with {images} images, but `{dataset.name}` has "
                f"none; {remedy}."
            )
    _require_targets(dataset)
    check = getattr(protocol, "check", None)
    if check is not None:
        check(dataset)


def _require_targets(dataset: Dataset) -> None:
    """Refuse labels that are no classes; warn of classes that are tested but nowhere shown before.

    Readers of files have looked at both already; a set of one's own may come from anywhere.
    """
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
    if dataset.target == "class":
        shown = [dataset["train"].targets, dataset["val"].targets]
        unknown = np.setdiff1d(dataset["test"].targets, np.concatenate(shown)).tolist()
        if unknown:
            log.warning(
                "`%s` has no training image of %s, so that test images of these classes count as "
                "wrong", dataset.name, some([dataset.classes[label] for label in unknown]),
            )  # fmt: skip
