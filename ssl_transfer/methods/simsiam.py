"""SimSiam: simple Siamese networks (Chen and He 2021, https://arxiv.org/abs/2011.10566)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ssl_transfer.config.ranges import Width, checked
from ssl_transfer.datasets.transforms import Augmentation
from ssl_transfer.methods.base import Images, Method, full_precision
from ssl_transfer.methods.cosine import Embeddings, cosine
from ssl_transfer.methods.projector import Projector
from ssl_transfer.metrics.collapse import spread
from ssl_transfer.models import Encoder


def simsiam(p0: Embeddings, p1: Embeddings, z0: Embeddings, z1: Embeddings) -> Float[Tensor, ""]:
    """Return the symmetric negative cosine (equation 4 of the paper), in [-1, 1].

    It is -1 if predictions and embeddings agree. The embeddings are detached (stop-gradient);
    otherwise they would collapse to one point.

    Args:
        p0: predictions from the first view.
        p1: predictions from the second view.
        z0: embeddings of the first view.
        z1: embeddings of the second view.
    """
    first = cosine(p0, z1.detach()).mean()
    second = cosine(p1, z0.detach()).mean()
    return -(first + second) / 2


class SimSiam(Method):
    """Predict, from one view, the embedding of the other, without negatives or a target network.

    The views pass the network one after the other, with their own batch statistics, as in the
    original code. The projector ends in a BatchNorm without scale and shift; a bias before it
    would have no effect.

    Args:
        encoder: the encoder, trained in place.
        num_classes: not used.
        views: two augmentations.
        projector: keys of ``Projector``, which a BatchNorm follows.
        predictor_dim: width of the predictor's hidden layer; a quarter of the embedding's width
            in the paper.
        constant_predictor_lr: whether the predictor's learning rate stays constant (table 1 of the
            paper), so that the predictor can follow the embeddings.
    """

    separable = True
    minimum_batch = 2

    @checked("method.")
    def __init__(
        self,
        encoder: Encoder,
        num_classes: int | None,
        views: Sequence[Augmentation],
        *,
        projector: Mapping[str, Any],
        predictor_dim: Width,
        constant_predictor_lr: bool = False,
    ) -> None:
        super().__init__(encoder, num_classes, views)
        self.constant_predictor_lr = constant_predictor_lr
        perceptron = Projector(encoder.feature_dim, **projector)
        dim = projector["dims"][-1]
        self.projector = nn.Sequential(perceptron, nn.BatchNorm1d(dim, affine=False))
        self.predictor = Projector(dim, [predictor_dim, dim])

    def forward(
        self, views: tuple[Images, ...], targets: Int64[Tensor, " batch"]
    ) -> dict[str, Tensor]:
        """Return the loss of this process's share of the batch, and the embeddings' spread."""
        embeddings = [self.projector(self.encoder(view)) for view in views]
        p0, p1 = (full_precision(self.predictor(z)) for z in embeddings)
        z0, z1 = (full_precision(z) for z in embeddings)
        with torch.autocast(p0.device.type, enabled=False):
            return {"loss": simsiam(p0, p1, z0, z1), "spread": spread(z0)}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the encoder's and projector's parameters, and the predictor's."""
        online = [*self.encoder.parameters(), *self.projector.parameters()]
        predictor = list(self.predictor.parameters())
        return [
            {"params": online},
            {"params": predictor, "constant_lr": self.constant_predictor_lr},
        ]
