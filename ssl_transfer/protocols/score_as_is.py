"""``score_as_is``: the classifier in the file of the weights, scored without any training."""

import dataclasses
import logging
from collections.abc import Iterator
from typing import ClassVar

import torch
from jaxtyping import Int64
from torch import Tensor

from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset
from ssl_transfer.datasets.imagenet_variants import usual_classes
from ssl_transfer.datasets.reader import some
from ssl_transfer.errors import NotApplicable
from ssl_transfer.models import Encoder
from ssl_transfer.models.heads import LINEAR_KINDS, Head, folded, linear_head, save_head
from ssl_transfer.protocols.base import ClassScores, Score
from ssl_transfer.protocols.classification import require_metrics, scores_on_test
from ssl_transfer.protocols.frozen import FrozenProtocol
from ssl_transfer.system import distributed

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoreAsIs(FrozenProtocol):
    """Score the classifier that the weights hold on the test split; nothing is trained.

    The classifier is the linear head of a published file, or that of a finished run's folder
    (``model.weights.path=<run folder>``). Its classes are matched with the dataset's by name;
    those of 1,000 published outputs are ImageNet's WordNet ids. If the dataset has fewer classes
    than the classifier, only their scores count, as usual on ImageNet-R and ImageNet-A. If the
    classifier's classes have no names, they must be as many as the dataset's, and in their order.
    The run leaves the classifier of the dataset's classes if it is linear.

    Args:
        image_size: see ``FrozenProtocol``.
        preprocessing: see ``FrozenProtocol``.
    """

    targets: ClassVar[frozenset[str]] = frozenset({"class"})
    splits: ClassVar[tuple[str, ...]] = ("test",)
    class_scores: ClassVar[ClassScores] = "logits"

    def check(self, dataset: Dataset) -> None:
        """Refuse a dataset that cannot be scored by its metrics.

        Raises:
            ValueError: if a metric does not fit.
        """
        require_metrics(dataset)

    def run(self, encoder: Encoder, dataset: Dataset, context: Context) -> Iterator[Score]:
        """Yield the scores of the classifier on the test split.

        Raises:
            NotApplicable: if the weights hold no classifier, or one of other classes.
        """
        self.check(dataset)
        head = encoder.head
        if head is None:
            raise NotApplicable(
                f"`score_as_is` needs weights with a linear classifier, but those of "
                f"`{encoder.name}` hold none, or several."
            )
        picked = outputs_of(head, dataset)
        context.note(head={"outputs": head.outputs, "scored": len(picked)})
        features, _ = self.features(encoder, dataset, context).load("test")
        layers = head.layers.to(features.device, features.dtype)
        with torch.no_grad():
            logits = layers(features)
        if distributed.is_main() and head.kind in LINEAR_KINDS:
            linear = folded(head)
            scored = linear_head(linear.weight[picked], linear.bias[picked]).to(features.dtype)
            save_head(Head(scored, "linear", tuple(dataset.classes)), context.folder)
        yield from scores_on_test(logits[:, picked], dataset, context)


def outputs_of(head: Head, dataset: Dataset) -> Int64[Tensor, " classes"]:
    """Return the classifier's output for each class of a dataset.

    Raises:
        NotApplicable: if the classifier lacks classes of the dataset.
    """
    names = head.classes or usual_classes(head.outputs)
    if names is not None and set(dataset.classes) <= set(names):
        number = {name: place for place, name in enumerate(names)}
        return torch.tensor([number[name] for name in dataset.classes])
    if head.classes is None and head.outputs == len(dataset.classes):
        if distributed.is_main():
            log.warning(
                "the classifier's %d outputs have no names; they are taken for the classes of `%s` "
                "in their order (%s)", head.outputs, dataset.name, some(dataset.classes),
            )  # fmt: skip
        return torch.arange(head.outputs)
    lacking = sorted(set(dataset.classes) - set(names or ()))
    raise NotApplicable(
        f"the classifier must have the classes of `{dataset.name}`, but of its {head.outputs} "
        f"outputs none is {some(lacking)}."
    )
