"""SimCLR (Chen et al. 2020, https://arxiv.org/abs/2002.05709)."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from ssl_transfer.config.ranges import Positive, checked
from ssl_transfer.datasets.transforms import Augmentation
from ssl_transfer.methods.base import Images, Method, full_precision
from ssl_transfer.methods.multi_crop import mean_over_pairs
from ssl_transfer.methods.projector import Projector
from ssl_transfer.models import Encoder
from ssl_transfer.system import distributed


def nt_xent(
    z0: Float[Tensor, "batch dim"], z1: Float[Tensor, "batch dim"], temperature: float
) -> Float[Tensor, ""]:
    """Return the normalised, temperature-scaled cross-entropy (equation 1 of the paper).

    Each of the 2B embeddings must identify its other view among the 2B - 1 others by cosine
    similarity; the loss is the mean over the 2B embeddings. Uniform predictions give
    ``log(2B - 1)``; the infimum is 0.

    Args:
        z0: embeddings of the first views of the whole global batch, of any length but 0.
        z1: embeddings of the second views, in the same order.
        temperature: divides the similarities.
    """
    z = F.normalize(torch.cat([z0, z1]))
    similarities = (z @ z.T / temperature).fill_diagonal_(-torch.inf)
    partners = torch.arange(len(z), device=z.device).roll(len(z0))
    return F.cross_entropy(similarities, partners)


class SimCLR(Method):
    """Distinguish an image's other view from all other images of the batch.

    All views pass encoder and projector as one batch in which the views of a sample are adjacent.
    Batch statistics are therefore joint (as in the paper), and a BatchNorm group holds whole
    samples. With more than two views, the loss is computed for each pair of views.

    Args:
        encoder: the encoder, trained in place.
        num_classes: not used.
        views: two or more augmentations.
        temperature: temperature of the loss.
        projector: keys of ``Projector``.
    """

    separable = False
    minimum_batch = 2
    more_views = True

    @checked("method.")
    def __init__(
        self,
        encoder: Encoder,
        num_classes: int | None,
        views: Sequence[Augmentation],
        *,
        temperature: Positive,
        projector: Mapping[str, Any],
    ) -> None:
        super().__init__(encoder, num_classes, views)
        self.temperature = temperature
        self.projector = Projector(encoder.feature_dim, **projector)

    def forward(
        self, views: tuple[Images, ...], targets: Int64[Tensor, " batch"]
    ) -> dict[str, Tensor]:
        """Return the loss over the global batch, and the mean cosine of the positive pairs."""
        images = torch.stack(views, dim=1).flatten(0, 1)
        z = full_precision(self.projector(self.encoder(images)))
        with torch.autocast(z.device.type, enabled=False):
            every = distributed.gather(z.view(-1, len(views), z.shape[1])).unbind(1)
            loss = mean_over_pairs(partial(nt_xent, temperature=self.temperature), every)
        with torch.no_grad():
            cosine = mean_over_pairs(lambda a, b: F.cosine_similarity(a, b).mean(), every)
        return {"loss": loss, "positive_cosine": cosine}
