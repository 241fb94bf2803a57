"""Similarity of representations: linear centred kernel alignment, unbiased and by minibatches.

Linear CKA (Kornblith et al. 2019, https://arxiv.org/abs/1905.00414, eq. 1) of features X and Y of
the same n samples is HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) with the Gram matrices K = XXᵀ and
L = YYᵀ; in feature space ||YᵀX||² / (||XᵀX|| ||YᵀY||) for centred X and Y. That estimate of HSIC is
biased: with fewer samples than features, CKA is near 1 even for unrelated representations. A layer
usually has more features than there are images, so this module uses the unbiased estimate, averaged
over minibatches (Nguyen et al. 2021, https://arxiv.org/abs/2010.15327, eq. 2 and 3), which only
needs the Gram matrices of one batch.
"""

import math

import torch
from jaxtyping import Float, Float64
from torch import Tensor

MINIMUM = 4
"""Minimum number of samples for the unbiased estimate of HSIC."""


def gram(features: Float[Tensor, "samples *rest"]) -> Float64[Tensor, "samples samples"]:
    """Return the Gram matrix of the samples' flattened features, each centred over the samples."""
    rows = features.flatten(1)
    # Centre the features: this does not change HSIC, but reduces the rounding error in float32.
    rows = rows - rows.mean(0)
    return (rows @ rows.T).double()


def unbiased_hsic(
    K: Float64[Tensor, "samples samples"], L: Float64[Tensor, "samples samples"]
) -> float:
    """Return the unbiased estimate of the Hilbert-Schmidt independence criterion.

    Song et al. 2012 (https://jmlr.org/papers/v13/song12a.html), eq. 5.

    Args:
        K: Gram matrix of at least four samples.
        L: Gram matrix of the same samples.

    Raises:
        ValueError: if there are fewer than four samples.
    """
    n = len(K)
    if n < MINIMUM:
        raise ValueError(f"HSIC's unbiased estimate needs at least {MINIMUM} samples, but has {n}.")
    K, L = (matrix - torch.diag(matrix.diagonal()) for matrix in (K, L))
    trace = (K * L).sum()  # trace of KL, since both are symmetric
    product = K.sum() * L.sum() / ((n - 1) * (n - 2))
    cross = 2 * (K.sum(0) @ L.sum(0)) / (n - 2)
    return float((trace + product - cross) / (n * (n - 3)))


class MinibatchCKA:
    """Linear CKA of two representations, accumulated batch by batch."""

    def __init__(self) -> None:
        self._sums = {"kl": 0.0, "kk": 0.0, "ll": 0.0}

    def add(
        self, K: Float64[Tensor, "samples samples"], L: Float64[Tensor, "samples samples"]
    ) -> None:
        """Add the Gram matrices of a batch; batches should have about the same size."""
        for key, (first, other) in {"kl": (K, L), "kk": (K, K), "ll": (L, L)}.items():
            self._sums[key] += unbiased_hsic(first, other)

    def value(self) -> float | None:
        """Return the similarity of the two representations.

        It is 1 if one is a rotated, scaled and shifted copy of the other, about 0 if they are
        unrelated (possibly slightly negative), and None if one is constant.
        """
        kl, kk, ll = self._sums.values()
        return kl / math.sqrt(kk * ll) if kk > 0 and ll > 0 else None
