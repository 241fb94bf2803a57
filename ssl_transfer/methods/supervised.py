"""Supervised pre-training: the classes of the pre-training set are the objective."""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.nn import functional as F

from ssl_transfer.config.ranges import Positive, Range, checked
from ssl_transfer.datasets import Dataset
from ssl_transfer.datasets.transforms import Augmentation
from ssl_transfer.methods.base import Images, Method, full_precision
from ssl_transfer.models import Encoder
from ssl_transfer.models.heads import Head, HeadKind, build_head

Classifier = Literal["linear", "cosine"]
KINDS: dict[Classifier, HeadKind] = {"linear": "linear", "cosine": "weight_norm_cosine"}


class Supervised(Method):
    """Cross-entropy of a classifier that is trained with the encoder and left beside it.

    Args:
        encoder: the encoder, trained in place.
        num_classes: number of classes of the pre-training set.
        views: one augmentation.
        label_smoothing: share of the target that is spread over all classes.
        head: ``linear``; ``cosine``: the classifier of Baseline++, which Chen et al. 2019 train an
            encoder with (section 3.2, https://arxiv.org/abs/1904.04232).
        scale: factor of the cosines (``None``: the published one, 2 for up to 200 classes and 10
            for more).

    Raises:
        ValueError: if the pre-training set has fewer than two classes, or if a linear classifier
            has a ``scale``.
    """

    separable = True
    minimum_batch = 1
    num_views = 1
    needs_classes = True

    @checked("method.")
    def __init__(
        self,
        encoder: Encoder,
        num_classes: int | None,
        views: Sequence[Augmentation],
        *,
        label_smoothing: Annotated[float, Range(0, 1, open_high=True)] = 0.0,
        head: Classifier = "linear",
        scale: Positive | None = None,
    ) -> None:
        super().__init__(encoder, num_classes, views)
        if num_classes is None or num_classes < 2:
            raise ValueError(
                "`method=supervised` needs a pre-training set with at least two classes, but "
                f"`method.pretrain_on` has {num_classes or 'none'}."
            )
        if head == "linear" and scale is not None:
            raise ValueError(
                f"`method.scale` must be null for `method.head=linear`, but is {scale}; it is the "
                "factor of the cosines of `method.head=cosine`."
            )
        self.label_smoothing = label_smoothing
        self.kind = KINDS[head]
        self.classifier = build_head(
            self.kind, encoder.feature_dim, num_classes, init="torch", scale=scale
        )

    def trained_head(self, dataset: Dataset) -> Head:
        """Return the classifier, whose outputs are the classes of the pre-training set."""
        return Head(self.classifier, self.kind, tuple(dataset.classes))

    def forward(
        self, views: tuple[Images, ...], targets: Int64[Tensor, " batch"]
    ) -> dict[str, Tensor]:
        """Return loss and accuracy (a fraction) of this process's share of the batch."""
        logits = full_precision(self.classifier(self.encoder(views[0])))
        loss = F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)
        with torch.no_grad():
            top1 = (logits.argmax(dim=1) == targets).to(loss.dtype).mean()
        return {"loss": loss, "top1": top1}
