"""Variances of few values each, moderated by those of other items."""

import numpy as np
from numpy.typing import NDArray

from results.statistics.bootstrap import Floats

_FEWEST = 3
"""Fewest items whose variances tell how much variances differ."""
_MOST = 1e6
"""Degrees of freedom that stand for infinity."""


def moderated(variances: Floats, degrees: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Return variances that borrow from each other, with their degrees of freedom.

    The empirical Bayes estimate of Smyth (2004, https://doi.org/10.2202/1544-6115.1027, section
    6.2): true variances are assumed to be draws of a scaled inverse chi-squared distribution, whose
    scale and degrees of freedom follow from the mean and the variance of the logarithms. The more
    the variances agree, the more an item's own one counts as a draw of their common one.

    Args:
        variances: sample variances ``[items]``.
        degrees: their degrees of freedom ``[items]``; 0 where there is no variance.

    Returns:
        Variances and degrees of freedom ``[items]``; unchanged for items with a variance of 0 or
        without one, and if fewer than three items remain.

    Example:
        >>> variances, degrees = moderated(np.array([1.0, 2.0, 3.0]), np.array([2, 2, 2]))
        >>> [round(variance, 2) for variance in variances.tolist()], bool(degrees[0] > 100)
        ([3.24, 3.24, 3.24], True)
    """
    from scipy.special import digamma, polygamma  # slow to import, so only where it is needed

    usable = (degrees > 0) & (variances > 0)
    result, certain = variances.astype(np.float64), degrees.astype(np.float64)
    if usable.sum() < _FEWEST:
        return result, certain
    own, half = variances[usable], degrees[usable] / 2
    # The logarithm of a sample variance, without what its degrees of freedom explain.
    logarithms = np.log(own) - digamma(half) + np.log(half)
    excess = float(np.var(logarithms, ddof=1) - polygamma(1, half).mean())
    prior = _inverse_trigamma(excess) if excess > 0 else _MOST / 2
    scale = np.exp(logarithms.mean() + digamma(prior) - np.log(prior))
    result[usable] = (prior * scale + half * own) / (prior + half)
    certain[usable] = 2 * (prior + half)
    return result, certain


def _inverse_trigamma(value: float) -> float:
    """Return the positive number whose trigamma is ``value``, by bisection of its logarithm."""
    from scipy.special import polygamma

    low, high = np.log(1e-6), np.log(_MOST / 2)
    for _ in range(100):
        middle = (low + high) / 2
        if polygamma(1, np.exp(middle)) > value:
            low = middle
        else:
            high = middle
    return float(np.exp(low))
