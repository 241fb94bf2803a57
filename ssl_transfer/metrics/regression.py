"""Measures of predicted numbers."""

from jaxtyping import Float
from torch import Tensor


def r2(
    predictions: Float[Tensor, "samples outputs"], targets: Float[Tensor, "samples outputs"]
) -> Float[Tensor, " outputs"]:
    """Return the share of each output's variance that the predictions explain.

    ``R2 = 1 - sum (y - f)^2 / sum (y - mean(y))^2``, as ``sklearn.metrics.r2_score`` computes it:
    1 for exact predictions, 0 for those of the mean, and below 0 for worse ones.

    Args:
        predictions: at least two samples.
        targets: none of the outputs is constant.
    """
    return pooled_r2(predictions[:, :, None], targets[:, :, None])


def pooled_r2(
    predictions: Float[Tensor, "samples values coordinates"],
    targets: Float[Tensor, "samples values coordinates"],
) -> Float[Tensor, " values"]:
    """Return the share of each value's variance, summed over its coordinates, that is explained.

    For an angle with the coordinates sine and cosine the result does not depend on where the angle
    is zero; the mean of the coordinates' own R2 does.

    Args:
        predictions: coordinates of every value; at least two samples.
        targets: likewise.
    """
    residual = (targets - predictions).square().sum(dim=(0, 2))
    total = (targets - targets.mean(dim=0)).square().sum(dim=(0, 2))
    return 1 - residual / total
