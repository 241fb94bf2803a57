"""TransRate: the coding rate of the features that knowledge of the classes saves."""

from typing import Literal

import torch
from jaxtyping import Float64
from torch import Tensor

from ssl_transfer.config.ranges import Positive
from ssl_transfer.estimators.transferability.moments import (
    Features,
    Labels,
    centred,
    groups_of,
    isometric,
    mean,
    require_variation,
    scatter,
)

Form = Literal["rate", "listing"]


def transrate(
    features: Features, labels: Labels, *, epsilon: Positive = 1e-4, form: Form = "rate"
) -> float:
    """Return TransRate, ``R(F) - R(F | y)`` of centred features; larger is better.

    Huang et al. 2022 (https://arxiv.org/abs/2106.09362), with the coding rate
    ``R(F) = 1/2 log det(I + d / (n epsilon) F^T F)`` of n images and d dimensions, and the mean of
    the classes' rates, weighted by their numbers of images.

    Args:
        features: one row per image.
        labels: class numbers.
        epsilon: the distortion, positive.
        form: ``listing``: as the program printed in the paper, without the factor d and with equal
            weights of all classes.

    Returns:
        A number of nats.

    Raises:
        NotDefined: if the features are constant, or if fewer than two classes occur.
    """
    require_variation(features)
    groups = groups_of(labels)
    coordinates = isometric(features)
    scale = (features.shape[1] if form == "rate" else 1.0) / epsilon
    whole = _rate(scatter(centred(coordinates)) * (scale / len(features)))
    weights = (
        groups.shares if form == "rate" else torch.full_like(groups.counts, 1 / len(groups.counts))
    )
    centre, order = mean(coordinates), groups.numbers.argsort()
    conditional = 0.0
    members = torch.split(order, groups.counts.long().tolist())
    for weight, rows in zip(weights.tolist(), members, strict=True):
        block = coordinates[rows].double() - centre
        # The determinants of I + A A^T and I + A^T A are equal; take the smaller matrix.
        product = block @ block.T if len(block) < block.shape[1] else block.T @ block
        conditional += weight * float(_rate(product * (scale / len(block))))
    return float(whole) - conditional


def _rate(product: Float64[Tensor, "axes axes"]) -> Float64[Tensor, ""]:
    """Return half the logarithm of the determinant of the identity plus a matrix, in place."""
    product.diagonal().add_(1.0)
    rate: Tensor = torch.linalg.cholesky(product).diagonal().log().sum()
    return rate
