"""Kendall's weighted coefficients, in which exchanges of the best encoders count most.

The additive hyperbolic weights of Vigna 2015 (https://doi.org/10.1145/2736277.2741088): an exchange
of the encoders of ranks r and s, counted from 0 for the best one, weighs 1 / (r + 1) + 1 / (s + 1).
Published tables contain two different statistics by the name of weighted Kendall, which differ in
what the encoders are ranked by: the mean of the rankings by either score, or the target alone.
"""

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def weighted_kendall(x: Floats, y: Floats) -> float:
    """Return the mean of the coefficients ranked by ``x`` and ranked by ``y``.

    It equals ``scipy.stats.weightedtau(x, y)``. It is 1 for equal and -1 for opposite orders,
    normalised by the weights of the pairs without ties.

    Args:
        x: one finite score per encoder; higher is better. Not all are equal.
        y: the other score of the same encoders.

    Example:
        >>> best_exchanged = weighted_kendall(np.array([1.0, 2, 3, 4]), np.array([1.0, 2, 4, 3]))
        >>> worst_exchanged = weighted_kendall(np.array([1.0, 2, 3, 4]), np.array([2.0, 1, 3, 4]))
        >>> round(best_exchanged, 2), round(worst_exchanged, 2)
        (0.52, 0.81)
    """
    return (_ranked_by_first(x, y) + _ranked_by_first(y, x)) / 2


def weighted_kendall_by_target(proxy: Floats, target: Floats) -> float:
    """Return the coefficient ranked by the target alone.

    It equals ``scipy.stats.weightedtau(target, proxy, rank=None)``: encoders with equal targets are
    ranked by the proxy.

    Args:
        proxy: one finite score per encoder; higher is better. Not all are equal.
        target: the target's score of the same encoders.
    """
    return _ranked_by_first(target, proxy)


def _ranked_by_first(x: Floats, y: Floats) -> float:
    sign_x, sign_y = np.sign(np.subtract.outer(x, x)), np.sign(np.subtract.outer(y, y))
    weights = np.empty(len(x))
    weights[np.lexsort((y, x))[::-1]] = 1 / np.arange(1, len(x) + 1)
    pairs = np.add.outer(weights, weights)
    untied = [float((sign**2 * pairs).sum()) for sign in (sign_x, sign_y)]
    return float((sign_x * sign_y * pairs).sum()) / math.sqrt(untied[0] * untied[1])
