"""Functions for losses on correlations and covariances of features (Barlow Twins, VICReg)."""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ssl_transfer.system import distributed

Embeddings = Float[Tensor, "batch dim"]


def constant_features(z: Embeddings) -> Bool[Tensor, " dim"]:
    """Return a mask of the features that are constant over the batch, up to rounding."""
    z, eps = z.detach(), torch.finfo(z.dtype).eps
    if z.device.type == "cpu":  # elsewhere the question would synchronise
        # The variance is at least range² / (2 · batch), and takes 30 times as long to compute. The
        # factor 4 instead of 2 is more than its rounding.
        low, high = z.amin(dim=0), z.amax(dim=0)
        largest = torch.maximum(low.abs(), high.abs())
        varies = (high - low).square() > 4 * len(z) * (eps * largest).square()
        if bool(varies.all()):
            return ~varies
    variance, mean = torch.var_mean(z, dim=0, correction=0)
    return variance <= (eps * mean).square()


def count_constant_features(views: Sequence[Embeddings]) -> Float[Tensor, ""]:
    """Return the number of constant features per view, averaged over the views."""
    constant = torch.stack([constant_features(z) for z in views])
    return constant.to(views[0].dtype).sum() / len(views)


def standardise(z: Embeddings, *, unbiased: bool, eps: float) -> Embeddings:
    """Standardise each feature to mean 0 and deviation 1 over the batch.

    A feature that is constant over the batch becomes 0, also if ``eps`` is 0 (the published code
    divides by 0 in this case).

    Args:
        z: embeddings, at least two rows.
        unbiased: whether to divide by batch - 1 in the deviation instead of by batch.
        eps: added to the variance.
    """
    # BatchNorm's kernel takes an eighth of the time of mean, variance and quotient. It divides by
    # the batch: for n/(n-1) of its variance, eps and the result have to shrink.
    shrinkage = (len(z) - 1) / len(z) if unbiased else 1.0
    constant = constant_features(z) if eps == 0 else None
    if constant is not None:
        # Any numbers that vary: the gradient of a deviation of 0 is infinite.
        ramp = torch.linspace(-1, 1, len(z), dtype=z.dtype, device=z.device)
        z = torch.where(constant, ramp[:, None], z)
    positive = eps * shrinkage or torch.finfo(z.dtype).tiny  # the kernel refuses 0
    standardised = F.batch_norm(z, None, None, training=True, eps=positive)
    if constant is not None:
        standardised = standardised.masked_fill(constant, 0.0)
    return standardised * math.sqrt(shrinkage) if unbiased else standardised


class _Gram(torch.autograd.Function):
    """``x xᵀ`` with one matrix product in the backward pass; autograd would need two."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x @ x.T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        product: Tensor = (grad + grad.T) @ x
        return product


def gram(x: Embeddings) -> Float[Tensor, "batch batch"]:
    """Return the inner products of all rows."""
    product: Tensor = _Gram.apply(x)
    return product


def squared_norms(
    factors: Sequence[Embeddings], pairs: Sequence[tuple[int, int]]
) -> list[Float[Tensor, ""]]:
    """Return ``‖xᵀ y‖²_F``, summed over all entries of the dim × dim matrix, for pairs (x, y).

    With fewer rows than features, the function uses
    ``‖xᵀ y‖²_F = tr(xᵀ y yᵀ x) = Σ_ij (x xᵀ)_ij (y yᵀ)_ij`` instead of this matrix. The matrices of
    the last sum are batch × batch; each factor's is computed once.

    Args:
        factors: matrices of one shape.
        pairs: positions of x and y among the factors; both may be equal.
    """
    if len(factors[0]) < factors[0].shape[1]:
        grams = [gram(x) for x in factors]
        return [(grams[i] * grams[j]).sum() for i, j in pairs]
    return [(factors[i].T @ factors[j]).square().sum() for i, j in pairs]


def warn_of_constant_features(count: float) -> None:
    """Warn once per training that features do not depend on the image.

    Args:
        count: number of constant features in a step.
    """
    if count and distributed.is_main():
        warnings.warn(
            "some features of the embeddings are the same for all images of a batch, and are "
            "ignored in the correlations (`constant_features` in the log is their number); if this "
            "persists, lower the learning rate.",
            stacklevel=2,
        )
