"""Measures of predicted numbers."""

from jaxtyping import Float, Int64
from torch import Tensor


def r2(
    predictions: Float[Tensor, "samples outputs"],
    targets: Float[Tensor, "samples outputs"],
    values: Int64[Tensor, " outputs"] | None = None,
) -> Float[Tensor, " values"]:
    """Return the share of each value's variance that the predictions explain.

    ``R2 = 1 - sum (y - f)^2 / sum (y - mean(y))^2``, as ``sklearn.metrics.r2_score`` computes it:
    1 for exact predictions, 0 for those of the mean, and below 0 for worse ones.

    Args:
        predictions: at least two samples.
        targets: the true numbers; no value is constant.
        values: number of the value that each output is a coordinate of, from 0 (``None``: each
            output is a value). The sums then run over all coordinates of a value. For an angle with
            the coordinates sine and cosine, the result does not depend on where the angle is zero;
            the mean of the coordinates' own R2 would.
    """
    residual = (targets - predictions).square().sum(dim=0)
    total = (targets - targets.mean(dim=0)).square().sum(dim=0)
    if values is not None:
        empty = total.new_zeros(int(values.max()) + 1)
        residual = empty.index_add(0, values, residual)
        total = empty.index_add(0, values, total)
    return 1 - residual / total
