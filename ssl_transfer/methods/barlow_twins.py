"""Barlow Twins (Zbontar et al. 2021, https://arxiv.org/abs/2103.03230)."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from ssl_transfer import distributed
from ssl_transfer.datasets.transforms import Augmentation
from ssl_transfer.methods.base import Images, Method, full_precision
from ssl_transfer.methods.projector import Projector
from ssl_transfer.models import Encoder


class Terms(NamedTuple):
    """The loss and the two sums it consists of."""

    loss: Float[Tensor, ""]
    on_diagonal: Float[Tensor, ""]
    off_diagonal: Float[Tensor, ""]


def standardise(
    z: Float[Tensor, "batch dim"], *, unbiased: bool, eps: float
) -> Float[Tensor, "batch dim"]:
    """Return each feature with mean 0 and deviation 1 over the batch.

    A feature that is constant over the batch becomes 0 if ``eps`` is positive, and not a number
    if it is 0, as in published code without one.
    """
    variance, mean = torch.var_mean(z, dim=0, correction=int(unbiased))
    return (z - mean) / (variance + eps).sqrt()


def barlow_twins(
    a: Float[Tensor, "batch dim"],
    b: Float[Tensor, "batch dim"],
    *,
    off_diagonal_weight: float,
    normalise: bool = False,
    unbiased: bool = False,
    eps: float = 1e-5,
) -> Terms:
    """Return how far the views' cross-correlation matrix is from the identity (equation 1).

    The sums run over matrix entries, so the loss grows with ``dim``; its least value is 0
    (``dim / batch**2`` with ``unbiased``). Gradients flow through the statistics.

    Args:
        a: embeddings of one view of the whole global batch, at least two.
        b: embeddings of the other view, in the same order.
        off_diagonal_weight: of the squared off-diagonal entries (λ in the paper).
        normalise: scale each embedding to length 1 first (code for small images:
            yaohungt/Barlow-Twins-HSIC and wgcban/mix-bt).
        unbiased: divide by batch - 1 inside the deviation (the same two); the original uses a
            BatchNorm, which divides by batch.
        eps: added to the variance, 1e-5 in the original, 0 in the two others.
    """
    if normalise:
        a, b = F.normalize(a), F.normalize(b)
    a, b = (standardise(z, unbiased=unbiased, eps=eps) for z in (a, b))
    correlation = a.T @ b / len(a)
    squares = correlation.square()
    on_diagonal = (correlation.diagonal() - 1).square().sum()
    off_diagonal = squares.sum() - squares.diagonal().sum()
    return Terms(on_diagonal + off_diagonal_weight * off_diagonal, on_diagonal, off_diagonal)


class BarlowTwins(Method):
    """Make the views' embeddings agree feature by feature, and the features uncorrelated.

    The views pass the encoder one after the other, each with batch statistics of its own, as in
    the original code. Its gradient was 1/processes of the true one; here it is the true one.

    Args:
        encoder: trained in place.
        num_classes: not used.
        views: two augmentations.
        off_diagonal_weight: λ in the paper.
        projector: keys of ``Projector``.
        normalise: see ``barlow_twins``.
        unbiased: see ``barlow_twins``.
        eps: see ``barlow_twins``.
    """

    separable = False
    minimum_batch = 2

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int | None,
        views: Sequence[Augmentation],
        *,
        off_diagonal_weight: float,
        projector: Mapping[str, Any],
        normalise: bool = False,
        unbiased: bool = False,
        eps: float = 1e-5,
    ) -> None:
        super().__init__(encoder, num_classes, views)
        self.off_diagonal_weight = off_diagonal_weight
        self.normalise = normalise
        self.unbiased = unbiased
        self.eps = eps
        self.projector = Projector(encoder.feature_dim, **projector)

    def forward(
        self, views: tuple[Images, ...], targets: Int64[Tensor, " batch"]
    ) -> dict[str, Tensor]:
        """Return the loss over the global batch and its two sums."""
        embeddings = [full_precision(self.projector(self.encoder(view))) for view in views]
        with torch.autocast(embeddings[0].device.type, enabled=False):
            a, b = distributed.gather(torch.stack(embeddings, dim=1)).unbind(1)
            terms = barlow_twins(
                a,
                b,
                off_diagonal_weight=self.off_diagonal_weight,
                normalise=self.normalise,
                unbiased=self.unbiased,
                eps=self.eps,
            )
        return {
            "loss": terms.loss,
            "on_diagonal": terms.on_diagonal.detach(),
            "off_diagonal": terms.off_diagonal.detach(),
        }
