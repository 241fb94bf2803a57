"""The protocols ``linear_probe``, ``bn_tune``, ``finetune`` and their relatives.

They share data pipeline, budget, head and grid. They only differ in the part of the encoder that is
trained and in train mode, from nothing to the whole encoder (``models.trainable``).
"""

import dataclasses
import functools
import logging
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ssl_transfer import metrics
from ssl_transfer.config.ranges import checked
from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset, concatenate
from ssl_transfer.datasets.loading import TrainingData
from ssl_transfer.datasets.prepared import prepared_once
from ssl_transfer.datasets.transforms import Pipeline, ViewDataset, augmentation
from ssl_transfer.features import FeatureRows, FrozenFeatures, extract, judge, summarise
from ssl_transfer.features.inference import map_samples
from ssl_transfer.models import Encoder
from ssl_transfer.models.depth import layer_factors
from ssl_transfer.models.drop_path import DropPaths, set_drop_path
from ssl_transfer.models.fusion import Preparations
from ssl_transfer.models.heads import Head, save_head
from ssl_transfer.models.patch_tokens import input_dim, network_below
from ssl_transfer.protocols.base import SPLITS, ClassScores, Score
from ssl_transfer.protocols.classification import scores_on_test
from ssl_transfer.protocols.domain_keys import OF_DOMAINS
from ssl_transfer.protocols.selection import best, selection_facts
from ssl_transfer.protocols.tuned_classifier import BestEpoch, TunedClassifier
from ssl_transfer.protocols.tuning_keys import Point, TuningKeys
from ssl_transfer.system import distributed
from ssl_transfer.training.trainer import NonFiniteLoss, autocast, fit

log = logging.getLogger(__name__)

JUDGED_IMAGES = 8
"""Number of training images whose features are checked before an encoder is trained."""

REMEDY = "lower the learning rates, or set `protocol.clip_grad_norm`"


@checked()
@dataclasses.dataclass(frozen=True, kw_only=True)
class Tuning(TuningKeys):
    """Train a classifier on an encoder and score it on the test split.

    A single grid point is trained on train + validation directly. Several points are trained on the
    training split and compared by their validation scores (the first of equally good points wins; a
    point whose training diverges is left out). The best point is then refitted on train +
    validation with the same number of epochs, and tested once.

    Epochs are selected only if ``epoch_selection`` is ``best``. If the validation split selects
    them, the final classifier is trained on the training split only, since its epoch is selected,
    too. After a grid, this repeats the best point's training: the grid only stores scores, from
    which an interrupted run continues.

    ``TuningKeys`` describes the keys.

    Raises:
        ValueError: if options contradict each other or a value is out of its range.
    """

    targets: ClassVar[frozenset[str]] = frozenset({"class", "classes"})
    splits: ClassVar[tuple[str, ...]] = tuple(SPLITS)
    class_scores: ClassVar[ClassScores] = "logits"

    def run(self, encoder: Encoder, dataset: Dataset, context: Context) -> Iterator[Score]:
        """Yield the test scores of the selected classifier."""
        self.check(dataset)
        trial = TuningRun(self, encoder, dataset, context)
        context.note(trainable=trial.count_parameters())
        trial.judge_features()
        points = self.points()
        selection: dict[str, Any] = {"split": None, "chosen": points[0], "scores": []}
        if len(points) > 1:
            scores = trial.grid_scores(points)
            winner = best(points, scores, remedy=REMEDY)
            selection = selection_facts(self.selection, points, scores, winner)
        splits = self.final_splits(by_epoch=self.epoch_selection == "best")
        if self.selection in OF_DOMAINS:
            selection["trained_on"] = splits
        learner = trial.train([selection["chosen"]], splits, "refit")
        if learner.best is not None:
            selection |= {"split": self.selection, "best_epoch": learner.best.passes[0]}
        context.note(selection=selection)
        if learner.class_weights is not None:
            by = self.class_weights if isinstance(self.class_weights, str) else "given"
            context.note(class_weights={"by": by, "values": learner.class_weights.tolist()})
        (logits,) = trial.predict(learner, "test")
        if not np.isfinite(logits).all():  # no loss is computed after the last step
            raise NonFiniteLoss(
                f"the final classifier must give finite class scores, but some are not; {REMEDY}."
            )
        trial.keep(learner)
        yield from scores_on_test(torch.from_numpy(logits), dataset, context)


class TuningRun:
    """One encoder on one dataset: the common starting point of all trainings of a run."""

    def __init__(
        self, protocol: Tuning, encoder: Encoder, dataset: Dataset, context: Context
    ) -> None:
        self.protocol, self.dataset, self.context = protocol, dataset, context
        self.encoder = encoder.to(context.device, context.dtype).requires_grad_(False)
        # Every training starts from these tensors; non-persistent buffers are not in the state.
        self.initial = {k: v.clone() for k, v in encoder.state_dict().items()}
        self.buffers = {name: buffer.clone() for name, buffer in encoder.named_buffers()}
        # Each member of several encoders sees the images with its own preprocessing.
        self.prepared = Preparations.of(encoder, protocol.image_size, protocol.preprocessing)
        augment = augmentation(protocol.augmentation, flip=dataset.flip)
        # If an image's features are constant, they are computed once and stored for all runs.
        self.features = None
        if protocol.reads_stored_features(dataset):
            self.features = FrozenFeatures(
                encoder,
                dataset,
                context,
                image_size=protocol.image_size,
                preprocessing=protocol.preprocessing,
            )
        # They share random numbers, so that all members see the same crop.
        self.training_views = [Pipeline(one, augment) for one in self.prepared.distinct]
        test_views = [Pipeline(one) for one in self.prepared.distinct]
        # The selection of epochs reads one split repeatedly, so keep it in memory.
        self.test_data = functools.lru_cache(1)(lambda split: self.view([split], test_views))
        # What the encoder does not fit is refused before any work.
        protocol.trained_part(encoder)
        input_dim(encoder, protocol.head)
        if protocol.layer_decay is not None:
            layer_factors(encoder, protocol.layer_decay)
        self.drop_paths = None
        if protocol.drop_path is not None:
            self.drop_paths = DropPaths(set_drop_path(encoder, protocol.drop_path), context.seed)

    def judge_features(self) -> None:
        """Refuse an encoder with NaN features, and warn of constant features, before training.

        The check uses a few images; stored features are all checked when they are read.
        """
        if self.features is not None:
            return
        train = self.dataset["train"]
        few = np.unique(np.linspace(0, len(train) - 1, JUDGED_IMAGES).astype(np.int64))
        rows = extract(
            self.encoder, train.subset(few), self.prepared, self.context, label="features"
        )
        name = self.encoder.name
        judge(summarise(rows), f"`{name}` on {len(rows)} images of the train split", self.context)

    def start_again(self) -> None:
        """Reset the encoder after an earlier training, which may have ended in its middle.

        Gradients are also removed: a NaN gradient would stay NaN in the next training.
        """
        self.encoder.load_state_dict(self.initial)
        for name, buffer in self.encoder.named_buffers():
            buffer.copy_(self.buffers[name])
        self.encoder.zero_grad(set_to_none=True)
        self.encoder.requires_grad_(False)

    def learner(
        self, points: Sequence[Point], splits: Sequence[str] = ("train",)
    ) -> TunedClassifier:
        """Return a fresh classifier for these splits; every head starts from the same weights."""
        self.start_again()
        built = [
            self.protocol.initial_head(self.encoder, self.dataset, self.context) for _ in points
        ]
        body = network_below(self.encoder, self.protocol.head)
        if self.features is not None:
            body = nn.Identity()
        weights = self.protocol.loss_weights(self.dataset, splits)
        learner = TunedClassifier(
            body,
            built,
            self.protocol.trained_part(self.encoder),
            weights,
            encoder_mode=self.protocol.encoder_mode,
            objective=self.protocol.objective(points),
        )
        if self.drop_paths is not None:
            learner.set_drop_paths(self.drop_paths, self.protocol.batch_size)
        if self.features is None:
            learner.places = self.prepared.places
        if self.protocol.epoch_selection == "best":
            learner.best = BestEpoch(len(points), self.scores)
        return learner.to(self.context.device, self.context.dtype)

    def count_parameters(self) -> dict[str, Any]:
        """Count the trained parameters, and log the counts."""
        learner = self.learner(self.protocol.points()[:1])
        encoder = sum(p.numel() for p in self.encoder.parameters())
        trained = sum(p.numel() for p in self.encoder.parameters() if p.requires_grad)
        head = sum(p.numel() for p in learner.heads.parameters())
        share = trained / encoder
        log.info("trains %s of %s encoder parameters (%.4f %%) and a head of %s",
                 f"{trained:,}", f"{encoder:,}", 100 * share, f"{head:,}")  # fmt: skip
        counts: dict[str, Any] = {
            "parameters": trained + head,
            "encoder_trained": trained,
            "encoder_parameters": encoder,
            "share": share,
            "head_parameters": head,
        }
        if self.protocol.encoder_mode == "train":
            counts["statistics"] = "the encoder's running statistics move with the training images"
        return counts

    def train(self, points: Sequence[Point], splits: Sequence[str], name: str) -> TunedClassifier:
        """Return a classifier trained at one point, or a bank of heads trained at several."""
        learner = self.learner(points, splits)
        groups: list[dict[str, Any]] = [
            {"params": list(head.parameters()), **self.protocol.group(point)}
            for head, point in zip(learner.heads, points, strict=True)
        ]
        groups += self.protocol.encoder_groups(self.encoder, points[0])
        fit(
            learner,
            self.view(splits, self.training_views),
            self.protocol.options(),
            self.context,
            name=name,
            groups=groups,
            order=self.protocol.order(self.dataset, splits, self.context.seed),
        )
        if learner.best is not None:
            learner.best.restore(learner)
        return learner

    def grid_scores(self, points: Sequence[Point]) -> list[float | None]:
        """Return the selection score of every point; None where training diverged."""
        if self.protocol.trainable == "head":
            # Running statistics that move (`encoder_mode=train`) do not depend on the heads.
            scores = self.context.once("grid", lambda: self._bank_scores(points))
            return list(scores)
        # A trained encoder differs from point to point: train the points one after another.
        return [
            self.context.once(f"grid {i}", functools.partial(self._point_score, i, point))
            for i, point in enumerate(points)
        ]

    def _bank_scores(self, points: Sequence[Point]) -> list[float | None]:
        try:
            learner = self.train(points, ["train"], "grid")
        except NonFiniteLoss:  # all heads diverged
            return [None] * len(points)
        scores = self.scores(learner) if learner.best is None else learner.best.scores
        heads = zip(scores, learner.alive.tolist(), strict=True)
        return [score if alive else None for score, alive in heads]

    def _point_score(self, number: int, point: Point) -> float | None:
        try:
            learner = self.train([point], ["train"], f"grid {number}")
        except NonFiniteLoss as error:
            if distributed.is_main():
                log.info("grid point %s: %s", point, str(error))
            return None
        return self.scores(learner)[0]

    def scores(self, learner: TunedClassifier) -> list[float | None]:
        """Return each head's score on the selection split, larger is better.

        The score is None for a head that diverged.
        """
        split, metric = self.protocol.selection, self.dataset.metric
        targets = torch.from_numpy(self.dataset[split].targets)
        heads = zip(learner.alive.tolist(), self.predict(learner, split), strict=True)
        return [
            metrics.goodness(metric, torch.from_numpy(logits), targets)
            if alive and np.isfinite(logits).all()
            else None
            for alive, logits in heads
        ]

    def keep(self, learner: TunedClassifier) -> None:
        """Save the head unless its encoder is lost; prepare the encoder to be saved by the run.

        An unchanged encoder can be built again from the run's configuration.
        """
        if self.protocol.keep_encoder:
            self.encoder.prepare(self.protocol.image_size, self.protocol.preprocessing)
        if distributed.is_main() and (
            self.protocol.keep_encoder or self.protocol.encoder_is_initial
        ):
            head = Head(
                learner.heads[0], self.protocol.head, self.dataset.classes, self.dataset.target
            )
            save_head(head, self.context.folder)

    def predict(
        self, learner: TunedClassifier, split: str
    ) -> list[Float[np.ndarray, "samples classes"]]:
        """Return each head's logits for every sample, with any number of processes."""
        learner.eval()

        def logits(*views: Tensor) -> Float[Tensor, "batch heads classes"]:
            with autocast(self.context):
                outputs = learner.logits(*views)
            return torch.stack([output.to(self.context.dtype) for output in outputs], dim=1)

        outputs = map_samples(logits, self.test_data(split), self.context, label=split)
        return [np.ascontiguousarray(outputs[:, head]) for head in range(outputs.shape[1])]

    def view(self, splits: Sequence[str], pipelines: Sequence[Pipeline]) -> TrainingData:
        """Return the classifier's data: each image by these pipelines, or its stored features."""
        if self.features is not None:
            return FeatureRows(*self.features.load(*splits))
        samples = concatenate(*(self.dataset[split] for split in splits))
        return prepared_once(ViewDataset(samples, pipelines, self.context.seed))
