"""VICReg (Bardes, Ponce and LeCun 2022, https://arxiv.org/abs/2105.04906)."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from ssl_transfer.config.ranges import NotNegative, Positive, checked
from ssl_transfer.datasets.transforms import Augmentation
from ssl_transfer.methods.base import Images, Method, full_precision
from ssl_transfer.methods.correlation import (
    Embeddings,
    count_constant_features,
    squared_norms,
    warn_of_constant_features,
)
from ssl_transfer.methods.projector import Projector
from ssl_transfer.models import Encoder
from ssl_transfer.system import distributed


class Terms(NamedTuple):
    """The three terms without their weights."""

    invariance: Float[Tensor, ""]
    variance: Float[Tensor, ""]
    covariance: Float[Tensor, ""]


def regularisers(z: Embeddings, eps: float) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return the variance and the covariance term of one view.

    Equations 1 and 4 of the paper. The covariance matrix itself is not computed if the batch is
    smaller than ``dim`` (see ``squared_norms``).

    Args:
        z: embeddings of the whole global batch, at least two.
        eps: added to the variance.
    """
    centred = z - z.mean(dim=0)
    variances = centred.square().sum(dim=0) / (len(z) - 1)
    (squares,) = squared_norms([centred], [(0, 0)])
    off_diagonal = squares / (len(z) - 1) ** 2 - variances.square().sum()
    return F.relu(1 - (variances + eps).sqrt()).mean(), off_diagonal / z.shape[1]


def vicreg(a: Embeddings, b: Embeddings, *, eps: float = 1e-4) -> Terms:
    """Return the invariance, variance and covariance terms (equations 5, 1 and 4 of the paper).

    The normalisation follows the released code, for which the published weights hold: the squared
    distance is the mean over features (in the paper: the sum), the variance term is the mean over
    the views (in the paper: the sum), and the covariance term is the sum over the views.

    Args:
        a: embeddings of one view of the whole global batch, at least two.
        b: embeddings of the other view, in the same order.
        eps: added to the variance.
    """
    (variance_a, covariance_a), (variance_b, covariance_b) = (regularisers(z, eps) for z in (a, b))
    return Terms(F.mse_loss(a, b), (variance_a + variance_b) / 2, covariance_a + covariance_b)


class VICReg(Method):
    """Make the views' embeddings agree, and keep features uncorrelated with a minimum variance.

    The views pass the encoder one after the other, each with its own batch statistics, as in the
    original code.

    Args:
        encoder: the encoder, trained in place.
        num_classes: not used.
        views: two augmentations.
        invariance_weight: λ in the paper.
        variance_weight: μ in the paper.
        covariance_weight: ν in the paper.
        projector: keys of ``Projector`` (the paper's expander).
        eps: see ``vicreg``.

    Raises:
        ValueError: if ``eps`` is not positive.
    """

    separable = False
    minimum_batch = 2

    @checked("method.")
    def __init__(
        self,
        encoder: Encoder,
        num_classes: int | None,
        views: Sequence[Augmentation],
        *,
        invariance_weight: NotNegative,
        variance_weight: NotNegative,
        covariance_weight: NotNegative,
        projector: Mapping[str, Any],
        eps: Positive = 1e-4,
    ) -> None:
        super().__init__(encoder, num_classes, views)
        self.weights = (invariance_weight, variance_weight, covariance_weight)
        self.eps = eps
        self.projector = Projector(encoder.feature_dim, **projector)

    def forward(
        self, views: tuple[Images, ...], targets: Int64[Tensor, " batch"]
    ) -> dict[str, Tensor]:
        """Return the loss over the global batch, its three terms, and the constant features."""
        own = [full_precision(self.projector(self.encoder(view))) for view in views]
        with torch.autocast(own[0].device.type, enabled=False):
            a, b = distributed.gather_views(own)
            terms = vicreg(a, b, eps=self.eps)
            loss = sum(
                (weight * term for weight, term in zip(self.weights, terms, strict=True)),
                start=a.new_zeros(()),
            )
            constant = count_constant_features([a, b])
        parts = {name: term.detach() for name, term in terms._asdict().items()}
        return {"loss": loss, **parts, "constant_features": constant}

    def after_loss(self, values: Mapping[str, float]) -> None:
        """Warn of constant features."""
        warn_of_constant_features(values["constant_features"])
