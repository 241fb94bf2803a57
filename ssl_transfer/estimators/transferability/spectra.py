"""Scores without labels: spectra of the features (RankMe, α-ReQ) and of their views (LiDAR)."""

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ssl_transfer.config.ranges import Count, NotNegative, Positive
from ssl_transfer.estimators.blocks import BLOCK_ELEMENTS, Features, blocks
from ssl_transfer.estimators.transferability.moments import (
    NotDefined,
    centred,
    isometric,
    require_variation,
    rounding_level,
    scatter,
)
from ssl_transfer.metrics import collapse

LEAST_RANKS = 2  # that a line needs


def rankme(features: Features, *, eps: NotNegative = 1e-7) -> float:
    """Return RankMe, the effective rank of the features; larger is better.

    See ``metrics.collapse.rankme``; the features are reduced to a triangular matrix with the same
    singular values first, block by block.

    Args:
        features: one row per image, not centred.
        eps: added to the shares of the singular values.

    Returns:
        A number of dimensions, from about 1 to that of the features.

    Raises:
        NotDefined: if the features are constant.
    """
    require_variation(features)
    return float(collapse.rankme(_triangular(isometric(features)), eps))


def _triangular(features: Features) -> Float64[Tensor, "axes dim"]:
    """Return the triangular factor of a QR decomposition."""
    factor = torch.empty(0, features.shape[1], dtype=torch.float64, device=features.device)
    for _, rows in blocks(features):
        factor = torch.linalg.qr(torch.cat([factor, rows]), mode="r").R
    return factor


def decay_exponent(features: Features, *, first: Count = 4, last: Count = 100) -> float:
    """Return the exponent α of the decay ``rank ** -α`` of the covariance's eigenvalues.

    Agrawal et al. 2022 (NeurIPS, "α-ReQ: Assessing representation quality in self-supervised
    learning by measuring eigenspectrum decay"). The line through logarithms of ranks and
    eigenvalues minimises squared distances with weights ``1 / rank``, as in the authors' code
    (github.com/kumarkrishna/fastssl, powerlaw.py, after Stringer et al. 2019); the paper gives no
    range of ranks, and that of the code's scripts is taken.

    Args:
        features: one row per image.
        first: first rank of the line, at least 1.
        last: last rank of the line; limited to the eigenvalues above rounding.

    Raises:
        NotDefined: if the features are constant, or if there are fewer than two ranks in the range.
    """
    require_variation(features)
    values = torch.linalg.eigvalsh(scatter(centred(isometric(features)))).flip(0)
    ranks = torch.arange(1, len(values) + 1, dtype=torch.float64, device=values.device)
    chosen = (values > rounding_level(values, features)) & (ranks >= first) & (ranks <= last)
    if int(chosen.sum()) < LEAST_RANKS:
        raise NotDefined(f"the covariance has fewer than {first + 1} eigenvalues above rounding")
    x, y, weights = ranks[chosen].log(), values[chosen].log(), 1 / ranks[chosen]
    weights = weights / weights.sum()
    x = x - (weights * x).sum()
    return -float((weights * x * y).sum() / (weights * x.square()).sum())


def alpha_req(features: Features, *, first: Count = 4, last: Count = 100) -> float:
    """Return ``-|α - 1|`` with the exponent α of ``decay_exponent``; larger is better.

    Representations generalise best with an exponent near 1 (Agrawal et al. 2022); larger and
    smaller exponents are both worse.

    Args:
        features: one row per image.
        first: see ``decay_exponent``.
        last: see ``decay_exponent``.

    Returns:
        A number of at most 0.

    Raises:
        NotDefined: see ``decay_exponent``.
    """
    return -abs(decay_exponent(features, first=first, last=last) - 1)


def lidar(
    views: Float[Tensor, "images views dim"], *, delta: Positive = 1e-4, eps: NotNegative = 1e-7
) -> float:
    """Return LiDAR, the effective rank of the views' discriminant matrix; larger is better.

    Thilak et al. 2024 (https://arxiv.org/abs/2312.04000), equations 1 to 4: each image is a class
    of its augmented views. With the covariance ``S_b`` of the images' means and the mean covariance
    ``S_w`` of an image's views plus ``delta I``, it is the exponential of the entropy of the
    eigenvalues' shares of ``S_w^-1/2 S_b S_w^-1/2``. All means are divided by the number of terms.

    Args:
        views: features of several views of each image; there should be more images than dimensions.
        delta: added to the variance of the views.
        eps: added to the shares of the eigenvalues.

    Returns:
        A number of dimensions.

    Raises:
        NotDefined: if there are fewer than two images or views, or if the views or their means do
            not vary.
    """
    images, count, dim = views.shape
    if images < 2 or count < 2:
        raise NotDefined("LiDAR needs at least two images with two views each")
    require_variation(views.flatten(0, 1))
    means = views.double().mean(dim=1)
    within = torch.zeros(dim, dim, dtype=torch.float64, device=views.device)
    step = max(1, BLOCK_ELEMENTS // (count * dim))
    for start in range(0, images, step):
        part = slice(start, start + step)
        deviations = (views[part].double() - means[part, None]).flatten(0, 1)
        within.addmm_(deviations.T, deviations)
    within /= images * count
    within.diagonal().add_(delta)
    between = (means - means.mean(dim=0)) / images**0.5
    whitened = torch.linalg.solve_triangular(torch.linalg.cholesky(within), between.T, upper=False)
    # Both products have the same eigenvalues up to zeros; take the smaller matrix.
    product = whitened.T @ whitened if images < dim else whitened @ whitened.T
    values = torch.linalg.eigvalsh(product).clamp(min=0)
    if values.sum() <= 0:
        raise NotDefined("the mean of the views is the same for every image")
    shares = torch.zeros(dim, dtype=torch.float64, device=views.device)
    shares[: len(values)] = values / values.sum()
    shares += eps
    return float(torch.special.entr(shares).sum().exp())
