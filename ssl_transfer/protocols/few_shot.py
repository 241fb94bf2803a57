"""``few_shot``: accuracy on many small tasks of a few classes with a few labelled images each."""

import dataclasses
import functools
import hashlib
import logging
import math
from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor
from torch.nn import functional as F

from ssl_transfer.config.ranges import (
    Batch,
    Count,
    Decay,
    NotNegative,
    Positive,
    PositiveRate,
    Range,
    checked,
)
from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset, concatenate
from ssl_transfer.datasets.loading import load
from ssl_transfer.datasets.reader import some
from ssl_transfer.datasets.transforms import Pipeline, ViewDataset
from ssl_transfer.estimators.episode_classifiers import (
    HeadTraining,
    Scores,
    class_mean_scores,
    logistic_regression_scores,
    trained_head_scores,
)
from ssl_transfer.estimators.episodes import Episodes, draw_episodes
from ssl_transfer.models import Encoder
from ssl_transfer.models.batch_norm import Scope, batch_norm_layers
from ssl_transfer.protocols.base import SPLITS, Score
from ssl_transfer.protocols.frozen import FrozenProtocol
from ssl_transfer.protocols.tuned_episodes import EpisodeTuning, Statistics, tuned_scores
from ssl_transfer.system import distributed
from ssl_transfer.training.trainer import NonFiniteLoss

log = logging.getLogger(__name__)

Classifier = Literal["class_mean", "logistic_regression", "linear", "cosine", "bn_tune"]
Accuracies = Float64[np.ndarray, " episodes"]

CHUNK_ELEMENTS = 2**25
"""Elements of the features of the episodes in memory at once: 128 MiB in float32."""
BLOCK = 20
"""BN-tuned episodes after which an interrupted run continues."""
HEAD_BATCH = 4
"""Images per step of the heads of Chen et al. 2019, section 4.1."""


@checked()
@dataclasses.dataclass(frozen=True, kw_only=True)
class FewShot(FrozenProtocol):
    """Classify queries by a few labelled images of each class; the mean accuracy over episodes.

    An episode is a random task: ``ways`` classes of the pool, ``shots`` labelled images and
    ``queries`` other images of each. Episodes depend on the labels and on ``dataset.split_seed``
    alone, so that all encoders are compared on the same ones (see ``draw_episodes``). A query's
    prediction does not depend on the other queries.

    Args:
        ways: classes per episode.
        shots: labelled images per class.
        queries: classified images per class.
        episodes: number of episodes.
        classifier: ``class_mean``: the nearest mean feature by Euclidean distance;
            ``logistic_regression``: with an L2 penalty; ``linear`` and ``cosine``: heads trained by
            SGD (Baseline and Baseline++ of Chen et al. 2019, https://arxiv.org/abs/1904.04232);
            ``bn_tune``: a linear head and the encoder's BatchNorm affines, trained together.
        pool: images that episodes are drawn from: those of ``test``, or ``all`` images of train,
            validation and test together, as in Ericsson et al. 2021
            (https://arxiv.org/abs/2011.13377).
        small_classes: ``refuse`` a dataset with a class that has fewer than ``shots + queries``
            images, or ``leave_out`` such classes. Classes without any image in the pool, such as
            the training classes of few-shot datasets, never count.
        normalise: whether features are scaled to length 1.
        C: inverse strength of the penalty of ``logistic_regression``, as in scikit-learn.
        epochs: passes of SGD over the support of each episode (``linear``, ``cosine``,
            ``bn_tune``).
        steps: SGD steps instead of epochs (null: by ``epochs``).
        batch_size: images per step (null: 4; the whole support for ``bn_tune``, which takes no
            other).
        lr: learning rate of the head.
        momentum: of SGD.
        dampening: share of each new gradient that the momentum leaves out.
        weight_decay: of all trained parameters.
        encoder_lr: learning rate of the affines in ``bn_tune`` (null: that of the head).
        bn_scope: BatchNorm layers that ``bn_tune`` trains: ``all``, or ``published`` (see
            ``batch_norm_layers``).
        bn_statistics: what these layers normalise by (see ``EpisodeTuning``).
        image_size: see ``FrozenProtocol``.
        preprocessing: see ``FrozenProtocol``.
        representation: see ``FrozenProtocol``; ``features`` for ``bn_tune``.
        feature_precision: see ``FrozenProtocol``.

    Raises:
        ValueError: if a value is out of its range, or keys contradict each other.
    """

    targets: ClassVar[frozenset[str]] = frozenset({"class"})
    splits: ClassVar[tuple[str, ...]] = ("test",)

    ways: Annotated[int, Range(2, cap=10**6)] = 5
    shots: Count = 5
    queries: Count = 15
    episodes: Count = 600
    classifier: Classifier = "class_mean"
    pool: Literal["test", "all"] = "test"
    small_classes: Literal["refuse", "leave_out"] = "refuse"
    normalise: bool = False
    C: Positive = 1.0
    epochs: Count = 100
    steps: Count | None = None
    batch_size: Batch | None = None
    lr: PositiveRate = 0.01
    momentum: Decay = 0.9
    dampening: Annotated[float, Range(0, 1)] = 0.9
    weight_decay: NotNegative = 0.001
    encoder_lr: PositiveRate | None = None
    bn_scope: Scope = "all"
    bn_statistics: Statistics = "support"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.classifier == "bn_tune" and self.batch_size is not None:
            raise ValueError(
                "`batch_size` must be null for `classifier=bn_tune`, whose steps use the whole "
                f"support, but is {self.batch_size}."
            )
        if self.classifier == "bn_tune" and self.representation != "features":
            raise ValueError(
                "`representation` must be features for `classifier=bn_tune`, whose head stands on "
                f"the encoder, but is {self.representation}."
            )

    def pooled(self, dataset: Dataset) -> list[str]:
        """Return the names of the splits that form the pool."""
        return [key for key in (SPLITS if self.pool == "all" else ("test",)) if len(dataset[key])]

    def labels(self, dataset: Dataset) -> Int64[np.ndarray, " pool"]:
        """Return the class numbers of the pool's images."""
        labels: Int64[np.ndarray, " pool"] = np.concatenate(
            [dataset[key].targets for key in self.pooled(dataset)]
        )
        return labels

    def too_small(self, dataset: Dataset) -> list[str]:
        """Return the classes in the pool that have too few images for an episode."""
        counts = np.bincount(self.labels(dataset), minlength=len(dataset.classes))
        small = (counts > 0) & (counts < self.shots + self.queries)
        return [dataset.classes[number] for number in np.flatnonzero(small).tolist()]

    def check(self, dataset: Dataset) -> None:
        """Refuse a dataset whose pool has too few classes, or a class with too few images.

        Raises:
            ValueError: naming these classes.
        """
        needed, small = self.shots + self.queries, self.too_small(dataset)
        pool = "pool of all images" if self.pool == "all" else "test split"
        classes = len(np.unique(self.labels(dataset)))
        smaller = "lower `protocol.shots` or `protocol.queries`"
        smaller += ", or set protocol.pool=all" if self.pool == "test" else ""
        if classes < self.ways:
            raise ValueError(
                f"the {pool} of `{dataset.name}` must have at least {self.ways} classes "
                f"(`protocol.ways`), but has {classes}; lower it."
            )
        if classes - len(small) < self.ways:
            raise ValueError(
                f"at least {self.ways} classes (`protocol.ways`) must have {needed} images "
                f"(`protocol.shots` + `protocol.queries`) in the {pool} of `{dataset.name}`, but "
                f"only {classes - len(small)} have; too small are {some(small)}; {smaller}."
            )
        if small and self.small_classes == "refuse":
            raise ValueError(
                f"every class must have {needed} images (`protocol.shots` + `protocol.queries`) in "
                f"the {pool} of `{dataset.name}`, but {some(small)} "
                f"{'has' if len(small) == 1 else 'have'} fewer; {smaller}, or leave such classes "
                "out with protocol.small_classes=leave_out."
            )

    def run(self, encoder: Encoder, dataset: Dataset, context: Context) -> Iterator[Score]:
        """Yield the mean accuracy over episodes, and half the width of its 95 % interval."""
        self.check(dataset)
        labels = self.labels(dataset)
        episodes = draw_episodes(
            labels,
            ways=self.ways,
            shots=self.shots,
            queries=self.queries,
            episodes=self.episodes,
            seed=dataset.split_seed,
        )
        accuracies = EpisodeRun(self, encoder, dataset, context).accuracies(episodes)
        interval = None
        if len(accuracies) > 1:  # as published: the population's standard deviation
            interval = 1.96 * float(accuracies.std()) / math.sqrt(len(accuracies))
        context.note(
            episodes={
                "pool": self.pooled(dataset),
                "classes": len(np.unique(labels)) - len(self.too_small(dataset)),
                "left_out": self.too_small(dataset),
                "mean": float(accuracies.mean()),
                "interval_95": interval,
                "lowest": float(accuracies.min()),
                "highest": float(accuracies.max()),
            }
        )
        context.save_arrays(
            "episodes",
            accuracies=accuracies,
            ways=episodes.classes,
            classes=np.asarray(dataset.classes, dtype=np.str_),
            drawn=np.asarray(digest(episodes, dataset, self.pooled(dataset))),
        )
        yield Score(metric="top1", value=float(accuracies.mean()), primary=True)
        if interval is not None:
            yield Score(metric="top1_interval_95", value=interval, higher_is_better=False)


def digest(episodes: Episodes, dataset: Dataset, pooled: Sequence[str]) -> str:
    """Return a hash that is equal for equal images in equal episodes."""
    names = [name for key in pooled for name in dataset[key].names]
    text = "\0".join((dataset.name, *pooled, *names))
    data = hashlib.sha256(text.encode(errors="surrogateescape"))
    data.update(np.ascontiguousarray(episodes.samples, dtype="<i8").tobytes())
    return data.hexdigest()


class EpisodeRun:
    """The episodes of one encoder on one dataset."""

    def __init__(
        self, protocol: FewShot, encoder: Encoder, dataset: Dataset, context: Context
    ) -> None:
        self.protocol, self.dataset, self.context = protocol, dataset, context
        self.encoder = encoder

    def accuracies(self, episodes: Episodes) -> Accuracies:
        """Return the accuracy of each episode."""
        if self.protocol.classifier == "bn_tune":
            return self._of_tuned_encoders(episodes)
        return self._of_stored_features(episodes)

    def _of_stored_features(self, episodes: Episodes) -> Accuracies:
        protocol, context = self.protocol, self.context
        features = protocol.features(self.encoder, self.dataset, context)
        rows = [features.rows(key) for key in protocol.pooled(self.dataset)]
        size = max(1, CHUNK_ELEMENTS // (episodes.samples.shape[1] * rows[0].shape[1]))
        starts = range(0, len(episodes), size)
        parts = []
        for start in context.progress(starts, total=len(starts), label="episodes"):
            part = episodes[start : start + size]
            taken = torch.from_numpy(take(rows, part.samples)).to(context.device, context.dtype)
            if protocol.normalise:
                taken = F.normalize(taken, dim=2)
            support, queries = taken.tensor_split([protocol.ways * protocol.shots], dim=1)
            by_way = torch.unflatten(support, 1, (protocol.ways, protocol.shots))
            parts.append(self._shares(self._scores(by_way, queries, start)))
        accuracies = np.concatenate(parts)
        _require_finite(accuracies)
        return accuracies

    def _scores(
        self, support: Float[Tensor, "E K S D"], queries: Float[Tensor, "E Q D"], start: int
    ) -> Scores:
        """Return the class scores of the queries of the episodes from number ``start`` on."""
        protocol = self.protocol
        if protocol.classifier == "class_mean":
            return class_mean_scores(support, queries)
        if protocol.classifier == "logistic_regression":
            scores, converged = logistic_regression_scores(support, queries, C=protocol.C)
            if not bool(converged.all()) and distributed.is_main():
                log.warning(
                    "%d of %d fits of logistic regression have not converged; lower `protocol.C`, "
                    "or set protocol.normalise=true", int((~converged).sum()), len(converged)
                )  # fmt: skip
            return scores
        assert protocol.classifier in ("linear", "cosine")
        numbers = torch.arange(start, start + len(support))
        return trained_head_scores(
            support, queries, numbers, kind=protocol.classifier, training=self.training()
        )

    def _of_tuned_encoders(self, episodes: Episodes) -> Accuracies:
        """Train each episode's BatchNorm layers; an interrupted run continues at the last block."""
        if self.context.precision == "fp16":
            raise ValueError(
                "`precision` must be fp32 or bf16 for `classifier=bn_tune`, whose gradients are "
                "not scaled, but is fp16."
            )
        encoder = self.encoder.to(self.context.device, self.context.dtype)
        batch_norm_layers(encoder, self.protocol.bn_scope)  # raises NotApplicable
        starts = range(0, len(episodes), BLOCK)
        accuracies: list[float] = []
        for start in self.context.progress(starts, total=len(starts), label="episodes"):
            block = episodes[start : start + BLOCK]
            compute = functools.partial(self._of_block, encoder, block)
            accuracies += self.context.once(f"episodes {start}", compute)
        return np.asarray(accuracies, dtype=np.float64)

    def _of_block(self, encoder: Encoder, block: Episodes) -> list[float]:
        """Return the accuracies of BN-tuned episodes, which the processes share."""
        protocol, context = self.protocol, self.context
        size = max(1, context.batch_size_eval // block.support[0].size)
        parts = [slice(start, start + size) for start in range(0, len(block), size)]
        own = parts[distributed.rank() :: distributed.world_size()]
        preprocessing = encoder.preprocessing.replaced(protocol.image_size, protocol.preprocessing)
        pool = concatenate(*(self.dataset[key] for key in protocol.pooled(self.dataset)))
        data = ViewDataset(pool, [Pipeline(preprocessing)], self.dataset.split_seed)
        items = [[(0, int(i)) for i in block[part].samples.flat] for part in own]
        tuning = EpisodeTuning(
            self.training(),
            protocol.encoder_lr,
            protocol.bn_scope,
            protocol.bn_statistics,
            protocol.normalise,
        )
        results: list[tuple[int, list[float]]] = []
        for part, batch in zip(own, load(data, items, context), strict=True):
            view = batch.views[0].to(context.device, context.dtype)
            images = torch.unflatten(view, 0, (-1, block.samples.shape[1]))
            support, queries = images.tensor_split([protocol.ways * protocol.shots], dim=1)
            by_way = torch.unflatten(support, 1, (protocol.ways, protocol.shots))
            scores = tuned_scores(encoder, by_way, queries, tuning, context)
            results.append((part.start, self._shares(scores).tolist()))
        shared = [result for share in distributed.gather_objects(results) for result in share]
        accuracies = [value for _, values in sorted(shared) for value in values]
        _require_finite(accuracies)
        return accuracies

    def training(self) -> HeadTraining:
        """Return the training of the heads."""
        protocol = self.protocol
        whole_support = protocol.classifier == "bn_tune"
        return HeadTraining(
            epochs=protocol.epochs,
            steps=self.context.max_steps or protocol.steps,
            batch_size=None if whole_support else protocol.batch_size or HEAD_BATCH,
            lr=protocol.lr,
            momentum=protocol.momentum,
            dampening=protocol.dampening,
            weight_decay=protocol.weight_decay,
            seed=self.dataset.split_seed,
        )

    def _shares(self, scores: Scores) -> Accuracies:
        """Return the share of queries of each episode with the largest score for their class.

        The share is NaN if some scores are not finite.
        """
        labels = torch.arange(self.protocol.ways).repeat_interleave(self.protocol.queries)
        shares = (scores.argmax(dim=2).cpu() == labels).double().mean(dim=1)
        finite = scores.isfinite().all(dim=2).all(dim=1).cpu()
        accuracies: Accuracies = shares.where(finite, torch.nan).numpy()
        return accuracies


def _require_finite(accuracies: Sequence[float] | Accuracies) -> None:
    """Refuse episodes whose classifier diverged."""
    diverged = int((~np.isfinite(accuracies)).sum())
    if diverged:
        raise NonFiniteLoss(
            "the classifier of every episode must give finite class scores, but those of "
            f"{diverged} of {len(accuracies)} episodes are not; lower `protocol.lr`, or set "
            "protocol.normalise=true."
        )


def take(
    rows: Sequence[Float[np.ndarray, "_ dim"]], positions: Int64[np.ndarray, "*shape"]
) -> Float[np.ndarray, "*shape dim"]:
    """Return the rows at these positions of several arrays, of which one follows the other."""
    taken = np.empty((*positions.shape, rows[0].shape[1]), dtype=rows[0].dtype)
    start = 0
    for part in rows:
        inside = (positions >= start) & (positions < start + len(part))
        taken[inside] = part[positions[inside] - start]
        start += len(part)
    return taken
