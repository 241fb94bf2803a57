"""The class scores of several members' own runs, averaged (``method=cat_sub``)."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset
from ssl_transfer.errors import NotApplicable
from ssl_transfer.models import Encoder, fingerprint
from ssl_transfer.models.fusion import FusedEncoder
from ssl_transfer.protocols.base import SPLITS, ClassScores, EvaluationProtocol, Score
from ssl_transfer.protocols.classification import scores_on_test
from ssl_transfer.protocols.required import Evaluated, require_initial, required_by

Average = Literal["probabilities", "logits"]


def average_class_scores(
    scores: Float[Tensor, "members samples classes"], average: Average, *, several_classes: bool
) -> Float[Tensor, "samples classes"]:
    """Return class scores that are the average of the members'.

    The result are logits: their softmax (sigmoid with several classes per image) is the mean of the
    members' probabilities with ``average=probabilities``, as in deep ensembles (Lakshminarayanan et
    al. 2017, https://arxiv.org/abs/1612.01474).

    Args:
        scores: the members' logits, in float64.
        average: what is averaged.
        several_classes: whether an image may show several classes.
    """
    if average == "logits":
        return scores.mean(0)
    if several_classes:
        return _log_mean(F.logsigmoid(scores)) - _log_mean(F.logsigmoid(-scores))
    return _log_mean(scores.log_softmax(-1))


def _log_mean(logarithms: Float[Tensor, "members *rest"]) -> Float[Tensor, "*rest"]:
    """Return the logarithm of the mean over the members."""
    return logarithms.logsumexp(0) - float(np.log(len(logarithms)))


@dataclasses.dataclass(frozen=True)
class AveragedScores:
    """Average the class scores that the members' runs of one protocol gave the test images.

    Args:
        protocol: the protocol.
        average: what is averaged; of shares of votes always the shares.
    """

    protocol: EvaluationProtocol
    average: Average
    targets: ClassVar[frozenset[str]] = frozenset({"class", "classes"})
    splits: ClassVar[tuple[str, ...]] = tuple(SPLITS)

    def run(self, encoder: Encoder, dataset: Dataset, context: Context) -> Iterator[Score]:
        """Yield the scores of the averaged class scores on the test split.

        Raises:
            NotApplicable: if the protocol gives no class scores, or shares have no logits.
            ValueError: if the members' runs are of other weights, images or classes.
        """
        kind: ClassScores | None = getattr(self.protocol, "class_scores", None)
        name = type(self.protocol).__name__
        if kind is None:
            raise NotApplicable(
                f"`method=cat_sub` averages class scores of test images, but {name} gives none."
            )
        if kind == "shares" and self.average == "logits":
            raise NotApplicable(
                f"`method.average=logits` needs logits, but {name} gives shares of votes; use "
                "method.average=probabilities."
            )
        members = required_by(context, "members")
        assert isinstance(encoder, FusedEncoder)
        for member, network in zip(members, encoder.encoders, strict=True):
            require_initial(member, fingerprint(network))
        scores = torch.stack([_scores_of(member, dataset) for member in members])
        averaged = (
            scores.mean(0)
            if kind == "shares"
            else average_class_scores(
                scores, self.average, several_classes=dataset.target == "classes"
            )
        )
        yield from scores_on_test(averaged, dataset, context)


def _scores_of(member: Evaluated, dataset: Dataset) -> Float[Tensor, "samples classes"]:
    """Return a member's class scores of the test images in the dataset's order, in float64.

    Raises:
        ValueError: if they belong to other images, targets or classes, or to another order.
    """
    assert member.predictions is not None
    predictions, test = member.predictions, dataset["test"]
    expected: dict[str, tuple[Sequence[object], Sequence[object]]] = {
        "images": (predictions.files.tolist(), list(test.names)),
        "targets": (predictions.targets.tolist(), test.targets.tolist()),
        "classes": (predictions.classes, tuple(dataset.classes)),
    }
    for what, (scored, wanted) in expected.items():
        if scored != wanted:
            raise ValueError(
                f"{member.description} must have scored the {what} of `{dataset.name}` in their "
                f"order, but has {len(scored)} for {len(wanted)}, or others, or another order; "
                "compute it again with force=true."
            )
    return torch.from_numpy(predictions.scores.astype(np.float64))
