"""BYOL: bootstrap your own latent (Grill et al. 2020, https://arxiv.org/abs/2006.07733)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ssl_transfer.config.ranges import Fraction, Width, checked
from ssl_transfer.datasets.transforms import Augmentation
from ssl_transfer.methods.base import Images, Method, full_precision
from ssl_transfer.methods.cosine import Embeddings, cosine
from ssl_transfer.methods.momentum import cosine_momentum, follow, target_of
from ssl_transfer.methods.multi_crop import mean_over_pairs
from ssl_transfer.methods.projector import Projector
from ssl_transfer.metrics.collapse import spread
from ssl_transfer.models import Encoder


def normalised_mse(predictions: Embeddings, targets: Embeddings) -> Float[Tensor, ""]:
    """Return the mean squared distance of the normalised rows, 2 - 2 cos (equation 2 of the paper).

    It is 0 if they agree and 4 if they are opposite. No gradient flows into the targets.
    """
    return 2 - 2 * cosine(predictions, targets.detach()).mean()


def byol(p0: Embeddings, p1: Embeddings, t0: Embeddings, t1: Embeddings) -> Float[Tensor, ""]:
    """Return the loss of both directions (the sum, section 3.1 of the paper), in [0, 8].

    For more than two views, the loss is the mean over all pairs (``multi_crop.mean_over_pairs``).

    Args:
        p0: predictions from the first view.
        p1: predictions from the second view.
        t0: the target network's embeddings of the first view.
        t1: the target network's embeddings of the second view.
    """
    return normalised_mse(p0, t1) + normalised_mse(p1, t0)


class BYOL(Method):
    """Predict, from one view, a target network's embedding of another view.

    The target network is a moving average of the trained network. The views pass each network one
    after the other, with their own batch statistics, as in the original code. The target's momentum
    rises from ``momentum`` to 1 along half a cosine, step by step. Without a BatchNorm in projector
    or predictor the embeddings may collapse: watch ``spread``.

    Args:
        encoder: the online encoder, trained in place.
        num_classes: not used.
        views: two or more augmentations.
        momentum: momentum of the target network at the start (τ in the paper).
        projector: keys of ``Projector``.
        predictor_dim: width of the predictor's hidden layer.
    """

    separable = True
    minimum_batch = 2
    more_views = True

    @checked("method.")
    def __init__(
        self,
        encoder: Encoder,
        num_classes: int | None,
        views: Sequence[Augmentation],
        *,
        momentum: Fraction,
        projector: Mapping[str, Any],
        predictor_dim: Width,
    ) -> None:
        super().__init__(encoder, num_classes, views)
        self.momentum = momentum
        self.step_momentum = momentum  # of this step, counted from 0 as in the published code
        self.projector = Projector(encoder.feature_dim, **projector)
        self.target = target_of(self.online)
        dim = projector["dims"][-1]
        self.predictor = Projector(dim, [predictor_dim, dim], last_bias=False)

    @property
    def online(self) -> nn.Sequential:
        """Encoder and projector."""
        return nn.Sequential(self.encoder, self.projector)

    def forward(
        self, views: tuple[Images, ...], targets: Int64[Tensor, " batch"]
    ) -> dict[str, Tensor]:
        """Return the loss of this process's share of the batch, and the embeddings' spread."""
        embeddings = [self.online(view) for view in views]
        predictions = [full_precision(self.predictor(z)) for z in embeddings]
        with torch.no_grad():
            goals = [full_precision(self.target(view)) for view in views]
        with torch.autocast(predictions[0].device.type, enabled=False):
            loss = mean_over_pairs(byol, predictions, goals)
            return {"loss": loss, "spread": spread(full_precision(embeddings[0]))}

    def before_step(self, progress: float) -> None:
        """Set the momentum of this step."""
        self.step_momentum = cosine_momentum(self.momentum, progress)

    def after_step(self, progress: float) -> None:
        """Update the target network."""
        follow(self.target, self.online, self.step_momentum)

    def scheduled(self, progress: float) -> dict[str, float]:
        """Return the target's momentum."""
        return {"momentum": cosine_momentum(self.momentum, progress)}
