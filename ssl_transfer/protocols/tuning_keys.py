"""The keys that ``linear_probe``, ``bn_tune``, ``finetune`` and their relatives share."""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ssl_transfer import randomness
from ssl_transfer.config.ranges import PositiveRate, Range, Side
from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset
from ssl_transfer.datasets.transforms import augmentation
from ssl_transfer.models import Encoder
from ssl_transfer.models.batch_norm import Scope
from ssl_transfer.models.depth import layer_factors
from ssl_transfer.models.heads import TOKEN_KINDS, HeadInit, HeadKind, build_head
from ssl_transfer.models.patch_tokens import input_dim
from ssl_transfer.models.trainable import Trainable, Trained, trained_part
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.protocols.classification import require_metrics
from ssl_transfer.protocols.domain_keys import DomainKeys
from ssl_transfer.protocols.grid import NO_OPTIMIZER_KEYS, check_grid
from ssl_transfer.protocols.tuned_classifier import ClassWeights, class_weights
from ssl_transfer.training.options import TrainingOptions

Point = dict[str, float]
"""One point of the grid: values that replace those of the optimizer, and ``NO_OPTIMIZER_KEYS``."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TuningKeys(DomainKeys):
    """The keys that the tuning protocols share, their checks, and what follows from them alone.

    ``DomainKeys`` describes the keys that are not listed; gradients are clipped per head.

    Args:
        trainable: trained part of the encoder: nothing (``head``), its BatchNorm layers, the layers
            of every normalisation (``norm``), its biases, its last block, or all (see
            ``models.trainable``).
        trainable_modules: names of the backbone's modules that ``last_block`` trains (null: by the
            rule of its architecture).
        encoder_mode: mode of an encoder that is not trained (``head``): ``eval``, or ``train`` as
            in some published code: BatchNorm layers use the batch's statistics, and the running
            statistics, which the test uses, move to those of the training images.
        bn_scope: the BatchNorm layers that ``batch_norm`` trains: ``all``, or ``published`` (the
            stem's and every block's except ``bn1`` and the shortcuts').
        head: kind of classifier; ``attention`` and ``attention_block`` read patch tokens.
        head_init: initialisation of its linear layers: W ~ N(0, 0.01), b = 0, or ``torch``'s
            default.
        optimizer: see ``TrainingKeys``; null for the keys that the grid sets.
        encoder_lr: learning rate of the encoder's parameters (null: that of the head).
        layer_decay: factor of the encoder's learning rate from each layer to the one before it
            (null: none; see ``layer_factors``); weight decay stays as it is.
        drop_path: rate of the last block's drop paths (null: those of the network; see
            ``set_drop_path``); for ``all`` only, whose blocks are in train mode.
        grid: optimizer key, ``encoder_lr``, ``penalty_weight`` -> values to select from, or null.
        divide_weight_decay: whether weight decays are nominal and divided by the learning rate.
        class_weights: relative factors of the classes' losses: numbers, or 1 - n_c / n for the
            counts of the training images (``train_frequency``) or of the test split
            (``test_frequency``, as published). They are scaled to a mean of 1 over the training
            images.
        augmentation: augmentation of the training images: ``none``, ``crop_flip`` or a mapping.
        image_size: in pixels (null: the size that the encoder's weights expect).
        preprocessing: fields of ``Preprocessing`` that replace the encoder's own.
        epoch_selection: keep the ``last`` epoch, or the ``best`` on the split ``selection``, which
            is scored after every epoch.
        keep_encoder: whether to save the final encoder and head in the run's folder.

    Raises:
        ValueError: if options contradict each other or a value is out of its range.
    """

    trainable: Trainable
    optimizer: dict[str, Any]
    grid: dict[str, list[float] | None] = dataclasses.field(default_factory=dict)
    encoder_mode: Literal["eval", "train"] = "eval"
    trainable_modules: Sequence[str] | None = None
    bn_scope: Scope = "all"
    head: HeadKind = "linear"
    head_init: HeadInit | None = None
    encoder_lr: PositiveRate | None = None
    layer_decay: Annotated[float, Range(0, 1, open_low=True)] | None = None
    drop_path: Annotated[float, Range(0, 1, open_high=True)] | None = None
    divide_weight_decay: bool = False
    class_weights: ClassWeights | None = None
    augmentation: str | dict[str, Any] = "crop_flip"
    image_size: Side | None = None
    preprocessing: dict[str, Any] | None = None
    epoch_selection: Literal["last", "best"] = "last"
    keep_encoder: bool = False

    def __post_init__(self) -> None:
        fixed = {key: getattr(self, key) for key in NO_OPTIMIZER_KEYS}
        check_grid(self.grid, {**self.optimizer, **fixed})
        self.options()
        augmentation(self.augmentation, flip=True)
        # The run checks later whether its sizes fit those of the encoder.
        Preprocessing(size=1, resize=None).replaced(self.image_size, self.preprocessing)
        if self.head in ("cosine", "weight_norm_cosine") and self.head_init is not None:
            raise ValueError("`head_init` must be null for a cosine head, which has its own, but "
                             f"is {self.head_init}.")  # fmt: skip
        weights = () if isinstance(self.class_weights, str | None) else self.class_weights
        if weights and not (all(0 <= weight < math.inf for weight in weights) and any(weights)):
            raise ValueError(
                "`class_weights` must not be negative, and one of them must be above 0, but they "
                f"are {weights}."
            )
        if self.encoder_mode == "train" and self.trainable != "head":
            raise ValueError(
                "`encoder_mode` must be eval where layers of the encoder are trained, which says "
                f"what is in train mode, but `trainable` is {self.trainable}."
            )
        if self.head in TOKEN_KINDS and self.trainable != "head":
            raise ValueError(
                "`head` must stand on features where layers of the encoder are trained, but is "
                f"{self.head} for `trainable={self.trainable}`; use attentive_probe, or another "
                "head."
            )
        if self.trainable_modules is not None and self.trainable != "last_block":
            raise ValueError(
                "`trainable_modules` must be null unless the protocol is last_block, but is "
                f"{list(self.trainable_modules)} for `trainable={self.trainable}`."
            )
        if self.drop_path is not None and self.trainable != "all":
            raise ValueError(
                "`drop_path` must be null unless the whole encoder is trained (finetune), but is "
                f"{self.drop_path:g} for `trainable={self.trainable}`."
            )
        self._check_rates()
        self.check_domain_keys(self.grid.get("penalty_weight"))

    @property
    def encoder_is_constant(self) -> bool:
        """Whether training changes nothing of the encoder, including its running statistics."""
        return self.trainable == "head" and self.encoder_mode == "eval"

    @property
    def encoder_is_initial(self) -> bool:
        """Whether the final encoder is the one that the run starts from, unchanged."""
        return self.encoder_is_constant

    def trained_part(self, encoder: Encoder) -> Trained:
        """Return the part of an encoder that is trained.

        Raises:
            NotApplicable: if the encoder has no such part.
            ValueError: if it is unknown which part this is.
        """
        return trained_part(
            encoder, self.trainable, bn_scope=self.bn_scope, modules=self.trainable_modules
        )

    def initial_head(self, encoder: Encoder, dataset: Dataset, context: Context) -> nn.Module:
        """Return a new head with the weights that every training starts from."""
        with randomness.seeded(randomness.derive(context.seed, "head")):
            dim, classes = input_dim(encoder, self.head), len(dataset.classes)
            return build_head(self.head, dim, classes, self.head_init)

    def reads_stored_features(self, dataset: Dataset) -> bool:
        """Whether the features of an image never change, so that they are computed once."""
        augment = augmentation(self.augmentation, flip=dataset.flip)
        on_features = self.head not in TOKEN_KINDS
        return self.encoder_is_constant and augment is None and on_features

    def _check_rates(self) -> None:
        rates = [rate for rate in (self.encoder_lr, *(self.grid.get("encoder_lr") or ()))
                 if rate is not None]  # fmt: skip
        if rates and self.trainable == "head":
            raise ValueError("`encoder_lr` must be null where nothing of the encoder is trained "
                             f"(`trainable=head`), but is {rates}.")  # fmt: skip
        if self.layer_decay is not None and self.trainable == "head":
            raise ValueError("`layer_decay` must be null where nothing of the encoder is trained "
                             f"(`trainable=head`), but is {self.layer_decay:g}.")  # fmt: skip
        if self.divide_weight_decay:
            for point in self.points():
                values = {**self.optimizer, **point}
                if values.get("weight_decay") is None or (values.get("lr") or 0) <= 0:
                    raise ValueError(
                        "`divide_weight_decay` needs a `weight_decay` and learning rates above 0, "
                        f"but there is {values}."
                    )

    def check(self, dataset: Dataset) -> None:
        """Refuse a dataset that the options do not fit.

        Raises:
            ValueError: if the dataset does not fit the options.
        """
        self.check_domains(dataset)
        chooses = len(self.points()) > 1 or self.epoch_selection == "best"
        require_metrics(dataset, selects_on=self.selection if chooses else None)
        self.options().check_samples(len(dataset["train"]))
        if self.class_weights is None:
            return
        if dataset.target != "class":
            raise ValueError(
                "`class_weights` must be null for images of several classes, whose targets are "
                f"`{dataset.target}` in `{dataset.name}`, but are {self.class_weights}."
            )
        count = len(dataset.classes if isinstance(self.class_weights, str) else self.class_weights)
        if count != len(dataset.classes):
            raise ValueError(
                f"`class_weights` must be {len(dataset.classes)} numbers, one per class of "
                f"`{dataset.name}`, but are {count}."
            )
        self.loss_weights(dataset, ["train"])

    def loss_weights(
        self, dataset: Dataset, splits: Sequence[str]
    ) -> Float[Tensor, " classes"] | None:
        """Return the factors of the classes' losses in a training on these splits.

        Raises:
            ValueError: if no image of these splits has a weight above 0.
        """
        if self.class_weights is None:
            return None
        taught, tested = (
            np.bincount(
                np.concatenate([dataset[split].targets for split in counted]),
                minlength=len(dataset.classes),
            )
            for counted in (splits, ["test"])
        )
        return torch.from_numpy(class_weights(self.class_weights, taught, tested))

    def options(self) -> TrainingOptions:
        """Return the budget and the optimisation of every training.

        Optimizer keys in the grid get the grid's first values; ``group`` returns each point's.
        """
        first = {k: v for k, v in self.points()[0].items() if k not in NO_OPTIMIZER_KEYS}
        return TrainingOptions.of(vars(self), optimizer={**self.optimizer, **first})

    def points(self) -> list[Point]:
        """Return the grid's points, at least one."""
        axes = {key: values for key, values in self.grid.items() if values}
        return [
            dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())
        ]

    def group(self, point: Point, *, of_encoder: bool = False) -> dict[str, float]:
        """Return the optimizer settings of a parameter group at a point of the grid."""
        values = dict(point)
        encoder_lr = values.pop("encoder_lr", self.encoder_lr)
        values.pop("penalty_weight", None)
        if of_encoder and encoder_lr is not None:
            values["lr"] = encoder_lr
        if self.divide_weight_decay:
            nominal = {**self.optimizer, **values}
            values["weight_decay"] = nominal["weight_decay"] / nominal["lr"]
        return values

    def encoder_groups(self, encoder: Encoder, point: Point) -> list[dict[str, Any]]:
        """Return the parameter groups of an encoder's trained parameters at a point of the grid.

        Raises:
            ValueError: if there is a ``layer_decay`` and the encoder's layers are unknown.
        """
        trained = {id(p): p for p in encoder.parameters() if p.requires_grad}
        if not trained:
            return []
        group = self.group(point, of_encoder=True)
        if self.layer_decay is None:
            return [{"params": list(trained.values()), **group}]
        factors = layer_factors(encoder, self.layer_decay)
        by_factor: dict[float, list[nn.Parameter]] = {}
        for name, parameter in encoder.backbone.named_parameters():
            if id(parameter) in trained:
                by_factor.setdefault(factors[name], []).append(parameter)
        lr = {**self.optimizer, **group}["lr"]
        return [
            {"params": parameters, **group, "lr": factor * lr}
            for factor, parameters in by_factor.items()
        ]
