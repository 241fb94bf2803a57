"""``knn``: a weighted vote of the most similar training features; nothing is trained."""

import dataclasses
import logging
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from ssl_transfer.config.ranges import Count, Positive, Side, checked
from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset
from ssl_transfer.features import FrozenFeatures
from ssl_transfer.models import Encoder
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.protocols.base import Score
from ssl_transfer.protocols.classification import require_metrics, scores_on_test
from ssl_transfer.system import distributed

log = logging.getLogger(__name__)

Metric = Literal["cosine", "euclidean"]
Weighting = Literal["exp", "uniform"]

CHUNK_ELEMENTS = 2**25  # similarities in memory at once: 128 MiB


@checked()
@dataclasses.dataclass(frozen=True, kw_only=True)
class KNN:
    """Let the ``k`` most similar features of train and validation vote on each test image.

    Wu et al. 2018, section 3.4 (https://arxiv.org/abs/1805.01978). There is nothing to choose, so
    the validation split joins the bank. With several classes per image each class has a vote of its
    own, in which the neighbours take part that are known to show it or not. Of equal votes the
    first classes win; classes without a vote are equal to each other, which counts in ``top5``.

    Args:
        k: voters, at least 1; at most as many as there are images (a smaller bank votes as a
            whole).
        temperature: a vote weighs ``exp(similarity / temperature)``; positive.
        metric: see ``vote``.
        weighting: see ``vote``.
        image_size: in pixels (null: what the encoder's weights expect).
        preprocessing: keys of ``Preprocessing`` that replace the encoder's own.

    Raises:
        ValueError: if a value is out of its range.
    """

    targets: ClassVar[frozenset[str]] = frozenset({"class", "classes"})
    needs: ClassVar[str] = "features"

    k: Count = 200
    temperature: Positive = 0.07
    metric: Metric = "cosine"
    weighting: Weighting = "exp"
    image_size: Side | None = None
    preprocessing: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        # Whether its sizes fit those of the encoder only the run knows.
        Preprocessing(size=1, resize=None).replaced(self.image_size, self.preprocessing)

    def check(self, dataset: Dataset) -> None:
        """Refuse a dataset that cannot be scored by its metrics.

        Raises:
            ValueError: in one sentence.
        """
        require_metrics(dataset)

    def run(self, encoder: Encoder, dataset: Dataset, context: Context) -> Iterator[Score]:
        """Yield the scores of the vote on the test split."""
        self.check(dataset)
        features = FrozenFeatures(
            encoder,
            dataset,
            context,
            image_size=self.image_size,
            preprocessing=self.preprocessing,
        )
        bank, labels = features.load("train", "val")
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


def vote(
    queries: Float[Tensor, "queries dim"],
    bank: Float[Tensor, "bank dim"],
    labels: Int64[Tensor, " bank"] | Int64[Tensor, "bank classes"],
    *,
    k: int,
    temperature: float,
    classes: int,
    metric: Metric = "cosine",
    weighting: Weighting = "exp",
) -> Float[Tensor, "queries classes"]:
    """Return each class's share of the votes of the ``k`` nearest neighbours.

    Args:
        queries: features to classify.
        bank: features with known labels.
        labels: classes of the bank; or rows of 1 (shown), 0 (not shown) and -1 (does not vote on
            that class).
        k: number of voters, in ``[1, bank]``.
        temperature: a vote weighs ``exp(similarity / temperature)``; positive.
        classes: number of classes.
        metric: the similarity is the cosine, or (``euclidean``) minus the distance of the features
            as they are.
        weighting: ``uniform`` counts votes, whatever the temperature.

    Returns:
        Rows that sum to 1; with several classes per image each share is of that class's own votes
        (0 where no neighbour votes).
    """
    if metric == "cosine":
        queries, bank = F.normalize(queries), F.normalize(bank)
    chunks = torch.split(queries, max(1, CHUNK_ELEMENTS // len(bank)))
    shares = []
    for chunk in chunks:
        every = chunk @ bank.T if metric == "cosine" else -torch.cdist(chunk, bank)
        similarity, neighbours = every.topk(k, dim=1)
        if weighting == "uniform":
            similarity = torch.zeros_like(similarity)
        # Softmax: the same votes up to a factor per query, without overflow.
        weights = (similarity / temperature).softmax(dim=1)
        if labels.ndim == 1:
            empty = weights.new_zeros(len(chunk), classes)
            shares.append(empty.scatter_add_(1, labels[neighbours], weights))
        else:
            by_image = weights.new_zeros(len(chunk), len(bank)).scatter_(1, neighbours, weights)
            shares.append(_shown_share(by_image, labels))
    return torch.cat(shares)


def _shown_share(
    weights: Float[Tensor, "queries bank"], labels: Int64[Tensor, "bank classes"]
) -> Float[Tensor, "queries classes"]:
    """Return the part of each class's votes that says it is shown."""
    shown, absent = (weights @ (labels == kind).to(weights) for kind in (1, 0))
    return shown / (shown + absent).clamp(min=torch.finfo(weights.dtype).tiny)
