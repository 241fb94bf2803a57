"""Supervised pre-training: the classes of the pre-training set are the objective."""

from collections.abc import Sequence
from typing import Annotated

import torch
from jaxtyping import Int64
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_transfer.config.ranges import Range, checked
from ssl_transfer.datasets.transforms import Augmentation
from ssl_transfer.methods.base import Images, Method, full_precision
from ssl_transfer.models import Encoder


class Supervised(Method):
    """Cross-entropy of a linear classifier that is trained with the encoder and then discarded.

    Args:
        encoder: the encoder, trained in place.
        num_classes: number of classes of the pre-training set.
        views: one augmentation.
        label_smoothing: share of the target that is spread over all classes.

    Raises:
        ValueError: if the pre-training set has fewer than two classes.
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
    ) -> None:
        super().__init__(encoder, num_classes, views)
        if num_classes is None or num_classes < 2:
            raise ValueError(
                "`method=supervised` needs a pre-training set with at least two classes, but "
                f"`method.pretrain_on` has {num_classes or 'none'}."
            )
        self.label_smoothing = label_smoothing
        self.classifier = nn.Linear(encoder.feature_dim, num_classes)

    def forward(
        self, views: tuple[Images, ...], targets: Int64[Tensor, " batch"]
    ) -> dict[str, Tensor]:
        """Return loss and accuracy (a fraction) of this process's share of the batch."""
        logits = full_precision(self.classifier(self.encoder(views[0])))
        loss = F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)
        with torch.no_grad():
            top1 = (logits.argmax(dim=1) == targets).to(loss.dtype).mean()
        return {"loss": loss, "top1": top1}
