"""``linear_probe``, ``bn_tune`` and ``finetune``: one family.

They share data pipeline, budget, head and grid, and differ only in what is trainable and which
layers are in train mode: nothing of the encoder, its BatchNorm layers, or all of it.
"""

import dataclasses
import functools
import itertools
import logging
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_transfer import distributed, metrics, randomness
from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset, concatenate
from ssl_transfer.datasets.transforms import Pipeline, ViewDataset, augmentation
from ssl_transfer.features import FeatureRows, FrozenFeatures
from ssl_transfer.inference import map_samples
from ssl_transfer.loading import TrainingData
from ssl_transfer.models import Encoder
from ssl_transfer.models.batch_norm import batch_norm_layers
from ssl_transfer.protocols.base import Score
from ssl_transfer.protocols.classification import scores_on_test
from ssl_transfer.protocols.heads import HeadKind, apply_heads, build_head
from ssl_transfer.trainer import (
    Learner,
    NonFiniteLoss,
    Recipe,
    autocast,
    fit,
)

log = logging.getLogger(__name__)

Trainable = Literal["head", "batch_norm", "all"]
Point = dict[str, float]
"""One point of the grid: values that replace the optimizer's."""


class TunedClassifier(Learner):
    """An encoder with one head or a bank of heads.

    The encoder's layers are in train mode where they are trained and in eval mode elsewhere. A
    bank (only for a frozen encoder) sums its heads' losses: no head sees another's gradient, so
    head i is that head trained alone. A head whose loss is not finite any more is dropped.

    Args:
        encoder: frozen but for ``trained``, in place; the identity where views are features.
        heads: modules from features to logits.
        trained: the encoder's layers that are in train mode, all of whose parameters are trained.
    """

    def __init__(
        self, encoder: nn.Module, heads: Sequence[nn.Module], trained: Sequence[nn.Module]
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.heads = nn.ModuleList(heads)
        self.trained = [layer.requires_grad_() for layer in trained]
        # Plain lists hide the layers from `modules()`: they are the encoder's already.
        self.register_buffer("alive", torch.ones(len(heads), dtype=torch.bool))
        self.alive: Tensor

    def train(self, mode: bool = True) -> "TunedClassifier":
        """Put the heads and the trained layers in train mode, and only those."""
        super().train(mode)
        self.encoder.eval()
        for layer in self.trained:
            layer.train(mode)
        return self

    def logits(self, images: Tensor) -> list[Float[Tensor, "batch classes"]]:
        """Return each head's logits."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and bool(self.trained)):
            features = self.encoder(images)
        return apply_heads(self.heads, features)

    def forward(
        self, views: tuple[Tensor, ...], targets: Int64[Tensor, " batch"]
    ) -> dict[str, Tensor]:
        """Return the cross-entropy, summed over the heads that are still finite."""
        logits = torch.stack(self.logits(views[0]))
        each = F.cross_entropy(logits.flatten(0, 1), targets.repeat(len(logits)), reduction="none")
        losses = each.view(len(logits), -1).mean(1)
        if len(self.heads) == 1:
            return {"loss": losses[0]}
        finite = losses.detach().isfinite().to(torch.float32)
        # A head that one process loses is lost for all.
        self.alive &= distributed.all_reduce_sum(1 - finite) == 0
        return {"loss": torch.where(self.alive, losses, 0.0).sum()}

    def clip_groups(self) -> list[list[nn.Parameter]]:
        """Clip each head by itself, the encoder's parameters with the only head's."""
        if len(self.heads) > 1:
            return [list(head.parameters()) for head in self.heads]
        return super().clip_groups()

    def constant(self) -> frozenset[str]:
        """Return the encoder's tensors that stay as they are: all but the trained layers'."""
        changing = {
            id(tensor)
            for layer in self.trained
            for tensor in itertools.chain(layer.parameters(), layer.buffers())
        }
        tensors = itertools.chain(
            self.encoder.named_parameters(prefix="encoder"),
            self.encoder.named_buffers(prefix="encoder"),
        )
        return frozenset(name for name, tensor in tensors if id(tensor) not in changing)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tuning:
    """Train a classifier on an encoder and score it on the test split.

    One grid point trains on train + validation at once. Several are selected by the validation
    score after the last epoch (epochs are never selected); the best is refitted on train +
    validation for as many epochs and tested once.

    Args:
        trainable: of the encoder: nothing (``head``), its BatchNorm layers, or all.
        bn_scope: which BatchNorm layers ``batch_norm`` means: ``all``, or ``published`` (stem
            and every block's but ``bn1`` and the shortcuts').
        head: kind of classifier.
        epochs: passes over the training images.
        batch_size: images per step over all processes.
        optimizer: keys of an option of ``conf/optimizer``.
        grid: optimizer key -> values to choose among (null: the optimizer's own value).
        schedule: of the learning rate, per step.
        warmup_epochs: linear warm-up.
        clip_grad_norm: largest gradient norm, per head.
        bn_groups: groups of the global batch that share batch statistics.
        augmentation: of the training images: ``none``, ``crop_flip`` or a mapping.
        image_size: in pixels (null: what the encoder's weights expect).
        selection: split that the grid is selected on; ``test`` reproduces published code that
            did so, and the record says it.
    """

    targets: ClassVar[frozenset[str]] = frozenset({"class"})

    trainable: Trainable
    epochs: float
    batch_size: int
    optimizer: dict[str, Any]
    grid: dict[str, list[float] | None] = dataclasses.field(default_factory=dict)
    bn_scope: Literal["all", "published"] = "all"
    head: HeadKind = "linear"
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_epochs: float = 0.0
    clip_grad_norm: float | None = None
    bn_groups: int = 1
    augmentation: str | dict[str, Any] = "crop_flip"
    image_size: int | None = None
    selection: Literal["val", "test"] = "val"

    def points(self) -> list[Point]:
        """Return the grid's points, at least one."""
        axes = {key: values for key, values in self.grid.items() if values}
        return [
            dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())
        ]

    def run(self, encoder: Encoder, dataset: Dataset, context: Context) -> Iterator[Score]:
        """Yield the test scores of the selected classifier."""
        trial = Trial(self, encoder, dataset, context)
        context.note(trainable=trial.count_parameters())
        points = self.points()
        if len(points) == 1:
            chosen, scores, split = points[0], [], None
        else:
            split = self.selection
            scores = trial.grid_scores(points)
            if all(score is None for score in scores):
                raise NonFiniteLoss(
                    "at least one point of the grid must train to a finite loss, but none of "
                    f"{points} does; lower `protocol.grid.lr`."
                )
            ranked = [-1.0 if score is None else score for score in scores]
            chosen = points[int(np.argmax(ranked))]
        context.note(
            selection={
                "split": split,
                "chosen": chosen,
                "scores": [{**p, "value": s} for p, s in zip(points, scores, strict=bool(split))],
            }
        )
        yield from trial.final_scores(chosen)


class Trial:
    """One encoder on one dataset: what every training of a run starts from."""

    def __init__(
        self, protocol: Tuning, encoder: Encoder, dataset: Dataset, context: Context
    ) -> None:
        self.protocol, self.dataset, self.context = protocol, dataset, context
        self.encoder = encoder.to(context.device, context.dtype).requires_grad_(False)
        # Every training starts from these weights again.
        self.initial = {k: v.clone() for k, v in encoder.state_dict().items()}
        preprocessing = encoder.preprocessing.at_size(protocol.image_size)
        augment = augmentation(protocol.augmentation, flip=dataset.flip)
        # Where nothing changes an image's features, they are computed once, for all runs.
        self.features = None
        if protocol.trainable == "head" and augment is None:
            self.features = FrozenFeatures(
                encoder, dataset, context, image_size=protocol.image_size
            )
        self.training_view = Pipeline(preprocessing, augment)
        self.test_view = Pipeline(preprocessing)
        self.trained_layers()  # an encoder without BatchNorm is not applicable: say so first

    def trained_layers(self) -> list[nn.Module]:
        """Return the encoder's layers that the protocol trains."""
        if self.protocol.trainable == "all":
            return [self.encoder]
        if self.protocol.trainable == "batch_norm":
            return list(batch_norm_layers(self.encoder, self.protocol.bn_scope).values())
        return []

    def learner(self, heads: int) -> TunedClassifier:
        """Return a fresh classifier; every head starts from the same weights."""
        self.encoder.load_state_dict(self.initial)
        self.encoder.requires_grad_(False)
        seed = randomness.derive(self.context.seed, "head")
        dim, classes = self.encoder.feature_dim, len(self.dataset.classes)
        built = []
        for _ in range(heads):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                built.append(build_head(self.protocol.head, dim, classes))
        body = self.encoder if self.features is None else nn.Identity()
        learner = TunedClassifier(body, built, self.trained_layers())
        return learner.to(self.context.device, self.context.dtype)

    def count_parameters(self) -> dict[str, Any]:
        """Count what is trained and say it."""
        learner = self.learner(1)
        encoder = sum(p.numel() for p in self.encoder.parameters())
        trained = sum(p.numel() for p in self.encoder.parameters() if p.requires_grad)
        head = sum(p.numel() for p in learner.heads.parameters())
        share = trained / encoder
        log.info("trains %s of %s encoder parameters (%.4f %%) and a head of %s",
                 f"{trained:,}", f"{encoder:,}", 100 * share, f"{head:,}")  # fmt: skip
        return {
            "parameters": trained + head,
            "encoder_trained": trained,
            "encoder_parameters": encoder,
            "share": share,
            "head_parameters": head,
        }

    def train(self, points: Sequence[Point], splits: Sequence[str], name: str) -> TunedClassifier:
        """Return a classifier trained at one point, or a bank of heads trained at several."""
        learner = self.learner(len(points))
        defaults = dict(self.protocol.optimizer)
        groups: list[dict[str, Any]] = [
            {"params": list(head.parameters()), **point}
            for head, point in zip(learner.heads, points, strict=True)
        ]
        encoder_parameters = [p for p in learner.encoder.parameters() if p.requires_grad]
        if encoder_parameters:
            groups.append({"params": encoder_parameters, **points[0]})
        recipe = Recipe(
            epochs=self.protocol.epochs,
            batch_size=self.protocol.batch_size,
            optimizer=defaults,
            schedule=self.protocol.schedule,
            warmup_epochs=self.protocol.warmup_epochs,
            clip_grad_norm=self.protocol.clip_grad_norm,
            bn_groups=self.protocol.bn_groups,
        )
        fit(
            learner,
            self.view(splits, self.training_view),
            recipe,
            self.context,
            name=name,
            groups=groups,
        )
        return learner

    def grid_scores(self, points: Sequence[Point]) -> list[float | None]:
        """Return the selection score of every point; None where training diverged."""
        if self.protocol.trainable == "head":
            found = self.context.once("grid", lambda: self._bank_scores(points))
            return list(found)
        # A trained encoder differs from point to point, so the points train one after another.
        return [
            self.context.once(f"grid {i}", functools.partial(self._point_score, i, point))
            for i, point in enumerate(points)
        ]

    def _bank_scores(self, points: Sequence[Point]) -> list[float | None]:
        bank = self.train(points, ["train"], "grid")
        logits = self.predict(bank, self.protocol.selection)
        return [
            self.score(one) if alive else None
            for one, alive in zip(logits, bank.alive.tolist(), strict=True)
        ]

    def _point_score(self, number: int, point: Point) -> float | None:
        try:
            learner = self.train([point], ["train"], f"grid {number}")
        except NonFiniteLoss as error:
            log.warning("grid point %s is dropped: %s", point, error)
            return None
        (logits,) = self.predict(learner, self.protocol.selection)
        return self.score(logits)

    def final_scores(self, point: Point) -> Iterator[Score]:
        """Refit at the chosen point, test once."""
        learner = self.train([point], ["train", "val"], "refit")
        (logits,) = self.predict(learner, "test")
        yield from scores_on_test(torch.from_numpy(logits), self.dataset, self.context)

    def score(self, logits: Float[np.ndarray, "samples classes"]) -> float:
        """Return the dataset's metric on the split that selects, a fraction."""
        targets = self.dataset[self.protocol.selection].targets
        metric = metrics.CLASSIFICATION[self.dataset.metric]
        return metric(torch.from_numpy(logits), torch.from_numpy(targets))

    def predict(
        self, learner: TunedClassifier, split: str
    ) -> list[Float[np.ndarray, "samples classes"]]:
        """Return each head's logits for every sample once, whatever the number of processes."""
        learner.eval()

        def logits(images: Tensor) -> Float[Tensor, "batch heads classes"]:
            with autocast(self.context):
                outputs = learner.logits(images)
            return torch.stack([output.to(self.context.dtype) for output in outputs], dim=1)

        outputs = map_samples(logits, self.view([split], self.test_view), self.context, label=split)
        return [np.ascontiguousarray(outputs[:, head]) for head in range(outputs.shape[1])]

    def view(self, splits: Sequence[str], pipeline: Pipeline) -> TrainingData:
        """Return what the classifier is fed: one view of each image, or its stored features."""
        if self.features is not None:
            return FeatureRows(*self.features.load(*splits))
        samples = concatenate(*(self.dataset[split] for split in splits))
        return ViewDataset(samples, [pipeline], self.context.seed)
