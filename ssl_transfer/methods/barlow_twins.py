"""Barlow Twins (Zbontar et al. 2021, https://arxiv.org/abs/2103.03230).

The variant with another off-diagonal target: Tsai et al. 2021, https://arxiv.org/abs/2104.13712.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from ssl_transfer.config.ranges import NotNegative, checked
from ssl_transfer.datasets.transforms import Augmentation
from ssl_transfer.methods.base import Images, Method, full_precision
from ssl_transfer.methods.correlation import (
    Embeddings,
    count_constant_features,
    squared_norms,
    standardise,
    warn_of_constant_features,
)
from ssl_transfer.methods.projector import Projector
from ssl_transfer.models import Encoder
from ssl_transfer.system import distributed

Target = Literal[0, -1]


class Terms(NamedTuple):
    """The loss and the two sums it consists of."""

    loss: Float[Tensor, ""]
    on_diagonal: Float[Tensor, ""]
    off_diagonal: Float[Tensor, ""]


def redundancy(
    a: Embeddings,
    b: Embeddings,
    squares: Float[Tensor, ""],
    *,
    lambda_bt: float,
    offdiag_target: Target = 0,
) -> Terms:
    """Return the terms of a cross-correlation matrix whose sum of squares is known.

    Args:
        a: standardised embeddings.
        b: likewise.
        squares: ``‖aᵀ b‖²_F``, not divided by the batch.
        lambda_bt: see ``barlow_twins``.
        offdiag_target: see ``barlow_twins``.
    """
    batch, dim = a.shape
    diagonal = (a * b).sum(dim=0) / batch
    on_diagonal = (diagonal - 1).square().sum()
    off_diagonal = squares / batch**2 - diagonal.square().sum()
    if offdiag_target:
        # Σ_{i≠j} (C_ij - t)² = Σ_{i≠j} C_ij² - 2t Σ_{i≠j} C_ij + t² D(D - 1)
        entries = a.sum(dim=1) @ b.sum(dim=1) / batch - diagonal.sum()
        off_diagonal = off_diagonal - 2 * offdiag_target * entries + dim * (dim - 1)
    return Terms(on_diagonal + lambda_bt * off_diagonal, on_diagonal, off_diagonal)


def barlow_twins(
    a: Embeddings,
    b: Embeddings,
    *,
    lambda_bt: float,
    offdiag_target: Target = 0,
    normalise: bool = False,
    unbiased: bool = False,
    eps: float = 1e-5,
) -> Terms:
    """Return the distance of the views' cross-correlation matrix from the identity (equation 1).

    The sums run over matrix entries, so the loss grows with ``dim``; its minimum is 0
    (``dim / batch**2`` with ``unbiased``). Gradients flow through the statistics. The matrix
    itself is not computed if the batch is smaller than ``dim`` (see ``squared_norms``).

    Args:
        a: embeddings of one view of the whole global batch, at least two.
        b: embeddings of the other view, in the same order.
        lambda_bt: weight of the squared off-diagonal entries (λ in the paper).
        offdiag_target: target of the off-diagonal entries: 0, or -1 as in HSIC-SSL
            (Tsai et al. 2021; `--corr_neg_one` of yaohungt/Barlow-Twins-HSIC).
        normalise: whether to scale each embedding to length 1 first, as in the code for small
            images (yaohungt/Barlow-Twins-HSIC and wgcban/mix-bt).
        unbiased: whether to divide by batch - 1 in the deviation, as in the code for small images;
            the original code uses a BatchNorm, which divides by batch.
        eps: added to the variance; 1e-5 in the original code, 0 in the code for small images.
    """
    if normalise:
        a, b = F.normalize(a), F.normalize(b)
    a, b = (standardise(z, unbiased=unbiased, eps=eps) for z in (a, b))
    (squares,) = squared_norms([a, b], [(0, 1)])
    return redundancy(
        a,
        b,
        squares,
        lambda_bt=lambda_bt,
        offdiag_target=offdiag_target,
    )


class BarlowTwins(Method):
    """Make the views' embeddings agree feature by feature, and the features uncorrelated.

    The views pass the encoder one after the other, each with its own batch statistics, as in the
    original code. In that code the gradient is divided by the number of processes; here it is not.

    Args:
        encoder: the encoder, trained in place.
        num_classes: not used.
        views: two augmentations.
        lambda_bt: λ in the paper.
        projector: keys of ``Projector``.
        offdiag_target: see ``barlow_twins``.
        normalise: see ``barlow_twins``.
        unbiased: see ``barlow_twins``.
        eps: see ``barlow_twins``.
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
        lambda_bt: NotNegative,
        projector: Mapping[str, Any],
        offdiag_target: Target = 0,
        normalise: bool = False,
        unbiased: bool = False,
        eps: NotNegative = 1e-5,
    ) -> None:
        super().__init__(encoder, num_classes, views)
        self.loss_keys: dict[str, Any] = {
            "lambda_bt": lambda_bt,
            "offdiag_target": offdiag_target,
            "normalise": normalise,
            "unbiased": unbiased,
            "eps": eps,
        }
        self.projector = Projector(encoder.feature_dim, **projector)

    def embed(self, views: Sequence[Images]) -> list[Float[Tensor, "global_batch dim"]]:
        """Return each view's embeddings of the global batch."""
        own = [full_precision(self.projector(self.encoder(view))) for view in views]
        return list(distributed.gather_views(own))

    def forward(
        self, views: tuple[Images, ...], targets: Int64[Tensor, " batch"]
    ) -> dict[str, Tensor]:
        """Return the loss over the global batch, its two sums, and the constant features."""
        a, b = self.embed(views)
        with torch.autocast(a.device.type, enabled=False):
            terms = barlow_twins(a, b, **self.loss_keys)
            constant = count_constant_features([a, b])
        return {
            "loss": terms.loss,
            "on_diagonal": terms.on_diagonal.detach(),
            "off_diagonal": terms.off_diagonal.detach(),
            "constant_features": constant,
        }

    def after_loss(self, values: Mapping[str, float]) -> None:
        """Warn of constant features."""
        warn_of_constant_features(values["constant_features"])
