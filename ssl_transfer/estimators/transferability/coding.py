"""TransRate: the coding rate of the features that knowledge of the classes saves."""

from typing import Literal

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from ssl_transfer.config.ranges import Positive
from ssl_transfer.estimators.blocks import BLOCK_ELEMENTS, Features, mean
from ssl_transfer.estimators.transferability.moments import (
    Labels,
    centred,
    groups_of,
    isometric,
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
    order, centre, conditional = groups.numbers.argsort(), mean(coordinates), 0.0
    members = torch.split(order, groups.counts.long().tolist())
    for weight, rows in zip(weights.tolist(), members, strict=True):
        product = _smaller_product(coordinates, rows, centre)
        conditional += weight * float(_rate(product * (scale / len(rows))))
    return float(whole) - conditional


def _smaller_product(
    features: Float[Tensor, "samples axes"],
    rows: Int64[Tensor, " members"],
    centre: Float64[Tensor, " axes"],
) -> Float64[Tensor, "size size"]:
    """Return ``A A^T`` or ``A^T A`` for centred rows A; ``I`` plus either has one determinant."""
    if len(rows) < features.shape[1]:
        few = features[rows].double() - centre
        return few @ few.T
    step = max(1, BLOCK_ELEMENTS // features.shape[1])
    starts = range(0, len(rows), step)
    parts = (slice(start, start + step) for start in starts)
    return scatter((part, features[rows[part]].double() - centre) for part in parts)


def _rate(product: Float64[Tensor, "axes axes"]) -> Float64[Tensor, ""]:
    """Return half the logarithm of the determinant of the identity plus a matrix, in place."""
    product.diagonal().add_(1.0)
    rate: Tensor = torch.linalg.cholesky(product).diagonal().log().sum()
    return rate
