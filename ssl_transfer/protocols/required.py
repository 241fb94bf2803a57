"""What a run reads of the evaluations that it requires."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset
from ssl_transfer.errors import NotApplicable
from ssl_transfer.models import Encoder
from ssl_transfer.models.heads import Head


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
    """The class scores that an evaluation gave the test images.

    Args:
        files: names of the images.
        targets: see ``Split``.
        scores: class scores.
        classes: names of the classes.
    """

    files: Shaped[np.ndarray, " samples"]
    targets: Shaped[np.ndarray, "samples *classes"]
    scores: Float[np.ndarray, "samples classes"]
    classes: tuple[str, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluated:
    """A finished evaluation that a run requires, and what the run reads of it.

    Args:
        description: one line that names it.
        run_id: its id.
        initial_sha256: fingerprint of the weights that it started from.
        encoder: its final encoder with the preprocessing of its images (``None``: not read).
        head: its classifier (``None``: it left none, or it is not read).
        predictions: its class scores of the test images (``None``: likewise).
    """

    description: str
    run_id: str
    initial_sha256: str
    encoder: Encoder | None = None
    head: Head | None = None
    predictions: Predictions | None = None


def required_by(context: Context, key: str) -> list[Evaluated]:
    """Return the required evaluations under a key of ``config.stages``, in the order of members.

    Raises:
        NotApplicable: if there are none, as for an encoder without members.
    """
    named: dict[str, Any] = dict(context.required)
    evaluations = [value for role, value in named.items() if role.partition("[")[0] == key]
    if not evaluations:
        raise NotApplicable(
            f"`protocol.{key}` needs runs of an earlier stage, but there are none: it needs a run "
            "of the command line whose encoder has members (method=cat)."
            if key == "first_stage"
            else f"`protocol.{key}` needs a run of an earlier stage, but there is none: it needs a "
            "run of the command line."
        )
    return evaluations


def head_of(evaluated: Evaluated, dataset: Dataset) -> Head:
    """Return the classifier that a required evaluation left.

    Raises:
        ValueError: if there is none, or its classes are not those of the dataset, in their order.
    """
    head = evaluated.head
    if head is None:
        raise ValueError(
            f"{evaluated.description} must have left its classifier, but has not; choose a "
            "protocol that leaves a linear one, such as finetune or linear_probe."
        )
    count, named = len(dataset.classes), head.classes is not None
    if head.outputs != count or (named and head.classes != tuple(dataset.classes)):
        different = "" if head.outputs != count else ", but others or in another order"
        raise ValueError(
            f"the classifier of {evaluated.description} must have the {count} classes of "
            f"`{dataset.name}`, but has {head.outputs}{different}; compute that run again with "
            "force=true."
        )
    return head


def require_initial(evaluated: Evaluated, fingerprint: str) -> None:
    """Refuse a required evaluation that started from other weights than the run has today.

    Args:
        evaluated: the evaluation.
        fingerprint: that of the weights of today.

    Raises:
        ValueError: if they differ.
    """
    if evaluated.initial_sha256 != fingerprint:
        raise ValueError(
            f"{evaluated.description} must have started from the weights of today (sha256 "
            f"{fingerprint[:16]}…), but started from {evaluated.initial_sha256[:16]}…; compute it "
            "again with force=true."
        )
