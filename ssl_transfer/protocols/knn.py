"""``knn``: a weighted vote of the most similar training features; nothing is trained."""

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ssl_transfer import metrics
from ssl_transfer.config.ranges import Batch, Count, Positive, checked
from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset
from ssl_transfer.estimators.blocks import mean
from ssl_transfer.estimators.neighbours import (
    FeatureSpace,
    Metric,
    Space,
    Weighting,
    nearest,
    votes,
)
from ssl_transfer.features import FrozenFeatures
from ssl_transfer.models import Encoder
from ssl_transfer.protocols.base import ClassScores, Score
from ssl_transfer.protocols.classification import require_metrics, scores_on_test
from ssl_transfer.protocols.frozen import FrozenProtocol
from ssl_transfer.protocols.selection import best, selection_facts
from ssl_transfer.system import distributed

log = logging.getLogger(__name__)


@checked()
@dataclasses.dataclass(frozen=True, kw_only=True)
class KNN(FrozenProtocol):
    """Let the ``k`` most similar features of train and validation vote on each test image.

    Wu et al. 2018, section 3.4 (https://arxiv.org/abs/1805.01978). One value of ``k`` is used as it
    is. Of several, the one with the best score on ``selection`` is chosen, the smallest if several
    are equally good: all are judged by one search for neighbours. With several classes per image,
    each class has its own vote among the neighbours whose label for this class is known. If votes
    are equal, the classes with lower numbers win; this includes classes without a vote and affects
    ``top5``.

    Args:
        k: number of voters, at least 1, or a list of numbers to choose among; limited to the size
            of the bank.
        selection: split that chooses ``k``: ``val`` votes with the training features alone.
            ``test`` is the upper envelope that Best-NN reports (Shi et al. 2022).
        temperature: a vote weighs ``exp(similarity / temperature)``; positive.
        metric: see ``neighbours.nearest``.
        weighting: see ``neighbours.votes``.
        space: see ``neighbours.FeatureSpace``; the mean of ``shifted_norm`` is that of the bank.
        shift_batch: images per batch whose mean ``shifted_norm`` subtracts, as published (null: the
            mean of the bank).
        image_size: see ``FrozenProtocol``.
        preprocessing: see ``FrozenProtocol``.
        representation: see ``FrozenProtocol``.
        feature_precision: see ``FrozenProtocol``.

    Raises:
        ValueError: if a value is out of its range.
    """

    splits: ClassVar[tuple[str, ...]] = ("train", "test")
    class_scores: ClassVar[ClassScores] = "shares"

    k: Count | Sequence[Count] = 200
    selection: Literal["val", "test"] = "val"
    temperature: Positive = 0.07
    metric: Metric = "cosine"
    weighting: Weighting = "exp"
    space: Space = "original"
    shift_batch: Batch | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.k, int) and (not self.k or len(set(self.k)) < len(self.k)):
            raise ValueError(
                f"`k` must be a number or a list of different numbers, but is {list(self.k)}."
            )
        if self.shift_batch is not None and self.space != "shifted_norm":
            raise ValueError(
                "`shift_batch` must be null unless `space` is `shifted_norm`, but is "
                f"{self.shift_batch}."
            )

    @property
    def candidates(self) -> list[int]:
        """The numbers of voters in ascending order."""
        return [self.k] if isinstance(self.k, int) else sorted(self.k)

    def check(self, dataset: Dataset) -> None:
        """Refuse a dataset that cannot be scored by its metrics, or lacks images to choose ``k``.

        Raises:
            ValueError: if a metric does not fit, or there are no validation images.
        """
        selects = len(self.candidates) > 1 and self.selection == "val"
        require_metrics(dataset, selects_on="val" if selects else None)
        if selects and len(dataset["val"]) == 0:
            raise ValueError(
                f"`knn` must be given validation images to choose `k`, but `{dataset.name}` has "
                "none; set `dataset.val_fraction` above 0, or give one `protocol.k`."
            )

    def run(self, encoder: Encoder, dataset: Dataset, context: Context) -> Iterator[Score]:
        """Yield the scores of the vote on the test split."""
        self.check(dataset)
        features = self.features(encoder, dataset, context)
        candidates, chosen = self.candidates, self.candidates[0]
        everything = [key for key in ("train", "val") if len(dataset[key])]
        if len(candidates) > 1:
            split = self.selection
            bank = everything if split == "test" else ["train"]
            targets = torch.from_numpy(dataset[split].targets)
            shares_by_k = self._shares(features, dataset, context, bank, split, candidates)
            scores = [metrics.goodness(dataset.metric, shares, targets) for shares in shares_by_k]
            points = [{"k": k} for k in candidates]
            winner = best(points, scores, remedy="choose other values of `protocol.k`")
            chosen = candidates[winner]
            context.note(selection=selection_facts(split, points, scores, winner))
        (shares,) = self._shares(features, dataset, context, everything, "test", [chosen])
        yield from scores_on_test(shares, dataset, context)

    def _shares(
        self,
        features: FrozenFeatures,
        dataset: Dataset,
        context: Context,
        bank: Sequence[str],
        split: str,
        candidates: Sequence[int],
    ) -> Iterator[Float[Tensor, "queries classes"]]:
        """Yield the votes on a split for each number of voters, on the CPU.

        Each process looks for the neighbours of its share of the queries.
        """
        parts, targets = zip(*(features.load(key) for key in bank), strict=True)
        labels, rows = torch.cat(targets), sum(len(part) for part in parts)
        if candidates[-1] > rows and distributed.is_main():
            log.warning("k is lowered from %d to the %d images there are", candidates[-1], rows)
        limited = [min(k, rows) for k in candidates]
        context.note(neighbours=limited[-1])
        space = self._space(parts)
        queries = space(features.load(split)[0])
        mine = queries[distributed.share(len(queries))]
        similarity, numbers = nearest(mine, parts, k=limited[-1], metric=self.metric, space=space)
        for shares in votes(
            similarity,
            numbers,
            labels,
            k=limited,
            temperature=self.temperature,
            classes=len(dataset.classes),
            weighting=self.weighting,
        ):
            yield torch.cat(distributed.gather_objects(shares.cpu()))

    def _space(self, parts: Sequence[Float[Tensor, "_ dim"]]) -> FeatureSpace:
        if self.space == "shifted_norm" and self.shift_batch is None:
            return FeatureSpace(self.space, mean=mean(*parts).to(parts[0]))
        return FeatureSpace(self.space, batch=self.shift_batch)
