"""The contract of a pre-training method."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ssl_transfer.datasets.transforms import Augmentation
from ssl_transfer.models import Encoder
from ssl_transfer.trainer import Learner

Images = Float[Tensor, "batch 3 height width"]


class Method(Learner):
    """An objective around an encoder: what the training loop trains.

    ``forward(views, targets)`` returns ``loss`` and named detached parts of it. The mean of each
    over the processes is its value for the global batch, and the gradients that
    ``DistributedDataParallel`` averages are those of the global loss. ``separable`` says whether
    the loss is a mean over samples, ``minimum_batch`` how small a global batch may be.

    Args:
        encoder: trained in place.
        num_classes: of the pre-training set; only objectives with labels use it.
        views: how each view of an image is drawn.

    Raises:
        ValueError: if the number of views is not ``num_views``.
    """

    num_views: int = 2

    def __init__(
        self, encoder: Encoder, num_classes: int | None, views: Sequence[Augmentation]
    ) -> None:
        super().__init__()
        if len(views) != self.num_views:
            raise ValueError(
                f"`method.views` must describe {self.num_views} view(s) for "
                f"{type(self).__name__}, but describes {len(views)}."
            )
        self.encoder = encoder
        self.num_classes = num_classes
        self.views = tuple(views)


def full_precision(x: Tensor) -> Tensor:
    """Return half-precision embeddings as float32, in which losses are computed."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
