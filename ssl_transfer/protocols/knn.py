"""``knn``: a weighted vote of the most similar training features; nothing is trained."""

import dataclasses
import logging
from collections.abc import Iterator
from typing import ClassVar

from ssl_transfer.config.ranges import Count, Positive, checked
from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset
from ssl_transfer.estimators.neighbours import Metric, Weighting, vote
from ssl_transfer.models import Encoder
from ssl_transfer.protocols.base import Score
from ssl_transfer.protocols.classification import require_metrics, scores_on_test
from ssl_transfer.protocols.frozen import FrozenProtocol
from ssl_transfer.system import distributed

log = logging.getLogger(__name__)


@checked()
@dataclasses.dataclass(frozen=True, kw_only=True)
class KNN(FrozenProtocol):
    """Let the ``k`` most similar features of train and validation vote on each test image.

    Wu et al. 2018, section 3.4 (https://arxiv.org/abs/1805.01978). The protocol selects nothing, so
    the bank also contains the validation split. With several classes per image, each class has its
    own vote among the neighbours whose label for this class is known. If votes are equal, the
    classes with lower numbers win; this includes classes without a vote and affects ``top5``.

    Args:
        k: number of voters, at least 1; limited to the size of the bank.
        temperature: a vote weighs ``exp(similarity / temperature)``; positive.
        metric: see ``vote``.
        weighting: see ``vote``.
        image_size: see ``FrozenProtocol``.
        preprocessing: see ``FrozenProtocol``.

    Raises:
        ValueError: if a value is out of its range.
    """

    splits: ClassVar[tuple[str, ...]] = ("train", "test")

    k: Count = 200
    temperature: Positive = 0.07
    metric: Metric = "cosine"
    weighting: Weighting = "exp"

    def check(self, dataset: Dataset) -> None:
        """Refuse a dataset that cannot be scored by its metrics.

        Raises:
            ValueError: if a metric does not fit.
        """
        require_metrics(dataset)

    def run(self, encoder: Encoder, dataset: Dataset, context: Context) -> Iterator[Score]:
        """Yield the scores of the vote on the test split."""
        self.check(dataset)
        features = self.features(encoder, dataset, context)
        bank, labels = features.load(*(key for key in ("train", "val") if len(dataset[key])))
        queries, _ = features.load("test")
        if self.k > len(bank) and distributed.is_main():
            log.warning("k is lowered from %d to the %d images there are", self.k, len(bank))
        context.note(neighbours=min(self.k, len(bank)))
        votes = vote(
            queries,
            bank,
            labels,
            k=min(self.k, len(bank)),
            temperature=self.temperature,
            classes=len(dataset.classes),
            metric=self.metric,
            weighting=self.weighting,
        )
        yield from scores_on_test(votes, dataset, context)
