"""Correlation coefficients over few encoders, each with a 95 % interval of correct coverage.

The methods were chosen by their simulated coverage at 6 and 13 encoders. A percentile bootstrap
covers only about 88 % at 6 encoders; ``benchmarks/correlation_coverage.py`` prints the comparison.

* **Pearson** (also on logits): Fisher's z with standard error ``1 / sqrt(n - 3)``.
* **Spearman, Kendall**, up to 20 encoders, and the **weighted Kendalls**: they have few possible
  values at small n and are bounded by 1. Normal approximations ignore this and cover only 77-87 %
  at n = 6 and rho = 0.9. Their sampling distribution under a bivariate normal copula is therefore
  simulated (``simulated.py``), and the test of each rho is inverted: values are rejected in the
  order of their smaller tail probability (Blaker 2000, https://doi.org/10.2307/3315916) until the
  rejected probability is as close to 5 % as the discrete steps allow.
* **Spearman, Kendall**, over 20 encoders: Fisher's z with the standard errors of Bonett and Wright
  (2000, https://doi.org/10.1007/BF02294183) and of the normal population (Esscher 1924).

The population values of a bivariate normal with correlation rho are rho itself for Pearson,
``6 / pi * asin(rho / 2)`` for Spearman and ``2 / pi * asin(rho)`` for Kendall. The weights of the
weighted coefficients depend on the number of encoders; what their intervals cover is the mean
coefficient of as many encoders of the population.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from results.statistics.estimate import Estimate
from results.statistics.simulated import TIE_BREAK, Z_GRID, RankKind, expected, simulated
from results.statistics.weighted_kendall import weighted_kendall, weighted_kendall_by_target

Kind = Literal["pearson", RankKind]
Floats = NDArray[np.float64]

FEWEST = 5
"""Minimal number of encoders for a coefficient."""
SIMULATED_UP_TO = 20
Z95 = 1.959963984540054  # 97.5 % point of the standard normal


def coefficient(x: Floats, y: Floats, kind: Kind) -> Estimate:
    """Return the correlation of two scores over encoders with its 95 % interval.

    Simulated coverage for bivariate normal populations, at 6 as well as at 13 encoders: 95-96 %
    for Pearson, 94-97 % for Spearman (average ranks) and Kendall (tau-b), 94-96 % for the weighted
    Kendalls at every rho from 0 to 0.99. Heavy tails (t with 3 degrees of freedom) reduce the
    coverage of Pearson strongly (88 % at 6 encoders, 82 % at 13) and that of the others slightly
    (92-96 and 90-93 %).

    Args:
        x: one finite score per encoder.
        y: the other score of the same encoders: the target, if the coefficient ranks by it.
        kind: the coefficient.
    """
    if note := _missing(x, y):
        return Estimate.none(len(x), note)
    value = MEASURES[kind](x, y)
    return Estimate(value, *_interval(x, y, kind, value), len(x))


def point(x: Floats, y: Floats, kind: Kind) -> float:
    """Return the value of ``coefficient`` without its interval; NaN if there is none."""
    return math.nan if _missing(x, y) else MEASURES[kind](x, y)


def _missing(x: Floats, y: Floats) -> str:
    """Return why two scores have no coefficient; empty if they have one."""
    if len(x) < FEWEST:
        return "too few"
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return "undefined: one of the two scores is the same for all encoders"
    return ""


def _interval(x: Floats, y: Floats, kind: Kind, value: float) -> tuple[float, float]:
    n = len(x)
    if kind == "pearson":
        return _fisher(value, 1 / math.sqrt(n - 3))
    if kind not in ("spearman", "kendall"):
        ends = _inverted(kind, n, round(value, 10))
    elif n > SIMULATED_UP_TO:
        return _fisher(value, _standard_error(value, n, kind))
    else:
        other = kendall(x, y) if kind == "spearman" else spearman(x, y)
        ends = _inverted(kind, n, round(value + TIE_BREAK * other, 10))
    low, high = (population(rho, kind, n) for rho in ends)
    return low, high


def difference(target: Floats, first: Floats, second: Floats, kind: Kind) -> Estimate:
    """Return how much better ``first`` correlates with the target than ``second`` does.

    The interval recovers the variance of the difference from the two coefficients' own
    intervals and from the correlation between the coefficients, which share the target (Zou
    2007, https://doi.org/10.1037/1082-989X.12.4.399, section "overlapping"). Simulated coverage
    over nine trivariate normal populations: at 6 encoders 93-99 % (98-99 % where both coefficients
    are near 1, else up to 97 %; Pearson 95-98 %), at 13 encoders 94-97 %.
    """
    coefficient_1, coefficient_2 = (
        coefficient(first, target, kind),
        coefficient(second, target, kind),
    )
    if not coefficient_1 or not coefficient_2:
        return Estimate.none(len(target), coefficient_1.note or coefficient_2.note)
    measure = pearson if kind == "pearson" else spearman
    together = _ATTENUATION[kind] * _overlap(
        measure(target, first), measure(target, second), measure(first, second)
    )
    delta = coefficient_1.value - coefficient_2.value
    low = _combined(
        coefficient_1.value - coefficient_1.low, coefficient_2.high - coefficient_2.value, together
    )
    high = _combined(
        coefficient_1.high - coefficient_1.value, coefficient_2.value - coefficient_2.low, together
    )
    return Estimate(delta, delta - low, delta + high, len(target))


def average(coefficients: Sequence[Estimate]) -> Estimate:
    """Return the mean coefficient over datasets; its interval is the mean of the intervals.

    The same encoders are evaluated on every dataset, so the coefficients are dependent, and few
    encoders do not suffice to estimate how much. The mean interval is valid for any dependence: the
    simulated coverage is 96-98 % if datasets nearly agree, and up to 100 % if they are unrelated.
    """
    missing = [item for item in coefficients if not item]
    fewest = min((item.n for item in coefficients), default=0)
    if missing or not coefficients:
        return Estimate.none(fewest, missing[0].note if missing else "too few")
    value, low, high = np.mean([(item.value, item.low, item.high) for item in coefficients], axis=0)
    return Estimate(float(value), float(low), float(high), fewest)


def pearson(x: Floats, y: Floats) -> float:
    """Return the product-moment correlation."""
    x, y = x - x.mean(), y - y.mean()
    value = float(x @ y / math.sqrt(float(x @ x) * float(y @ y)))
    return min(1.0, max(-1.0, value))


def spearman(x: Floats, y: Floats) -> float:
    """Return the correlation of average ranks."""
    return pearson(_ranks(x), _ranks(y))


def kendall(x: Floats, y: Floats) -> float:
    """Return tau-b: concordant minus discordant pairs, normalised by the pairs without ties."""
    sign_x, sign_y = np.sign(np.subtract.outer(x, x)), np.sign(np.subtract.outer(y, y))
    untied = math.sqrt(float((sign_x**2).sum()) * float((sign_y**2).sum()))
    return float((sign_x * sign_y).sum()) / untied


MEASURES: Mapping[Kind, Callable[[Floats, Floats], float]] = {
    "pearson": pearson,
    "spearman": spearman,
    "kendall": kendall,
    "weighted_kendall": weighted_kendall,
    "weighted_kendall_by_target": weighted_kendall_by_target,
}
"""The coefficients, as functions of a proxy and its target."""

_ATTENUATION: Mapping[Kind, float] = {
    "pearson": 1.0,
    "spearman": 0.95,
    "kendall": 0.9,
    "weighted_kendall": 0.9,
    "weighted_kendall_by_target": 0.9,
}
"""Correlation between two coefficients in simulated samples, in units of the formula's."""


def population(rho: float, kind: Kind, n: int = 0) -> float:
    """Return the coefficient of a bivariate normal population with correlation ``rho``.

    Args:
        rho: the correlation.
        kind: the coefficient.
        n: number of encoders, which matters for weighted coefficients only.
    """
    if kind == "spearman":
        return 6 / math.pi * math.asin(rho / 2)
    if kind == "kendall":
        return 2 / math.pi * math.asin(rho)
    return rho if kind == "pearson" else expected(kind, n, rho)


def _ranks(x: Floats) -> Floats:
    below, equal = np.less.outer(x, x).sum(0), np.equal.outer(x, x).sum(0)
    return np.asarray(below + (equal + 1) / 2, dtype=np.float64)


def _fisher(value: float, standard_error: float) -> tuple[float, float]:
    if abs(value) == 1:
        return value, value
    z, width = math.atanh(value), Z95 * standard_error
    return math.tanh(z - width), math.tanh(z + width)


def _standard_error(value: float, n: int, kind: Kind) -> float:
    """Return the standard error of a rank coefficient on the scale of Fisher's z."""
    if kind == "spearman":
        return math.sqrt((1 + value**2 / 2) / (n - 3))
    rho = math.sin(math.pi * value / 2)
    pairs = 1 - 4 * math.asin(rho) ** 2 / math.pi**2
    triples = 1 / 9 - 4 * math.asin(rho / 2) ** 2 / math.pi**2
    variance = 2 / (n * (n - 1)) * (pairs + 2 * (n - 2) * triples)
    return math.sqrt(max(variance, 0.0)) / max(1 - value**2, 1e-12)


def _overlap(r_1: float, r_2: float, r_12: float) -> float:
    """Return the correlation between two sample correlations that share a variable.

    Pearson and Filon 1898, as in Zou 2007, equation 13.
    """
    r_1, r_2 = (min(0.999, max(-0.999, r)) for r in (r_1, r_2))  # 1 has no variance
    spread = (r_12 - r_1 * r_2 / 2) * (1 - r_1**2 - r_2**2 - r_12**2) + r_12**3
    return min(1.0, max(-1.0, spread / ((1 - r_1**2) * (1 - r_2**2))))


def _combined(a: float, b: float, together: float) -> float:
    return math.sqrt(max(a * a + b * b - 2 * together * a * b, 0.0))


@functools.lru_cache(maxsize=4096)
def _inverted(kind: RankKind, n: int, observed: float) -> tuple[float, float]:
    low, high = inverted(kind, n, np.array([observed]))
    return float(low[0]), float(high[0])


def inverted(kind: RankKind, n: int, observed: Floats) -> tuple[Floats, Floats]:
    """Return the smallest and largest rho under which each observed value is not rejected.

    Args:
        kind: one of the rank coefficients.
        n: number of encoders.
        observed: the coefficients, those of Spearman and Kendall with ties broken as in
            ``simulated``.
    """
    values, mirrored = simulated(kind, n)
    at_negative = _acceptability(mirrored, -observed)[:0:-1]
    accepted = np.concatenate([at_negative, _acceptability(values, observed)]) > 0.05
    # Beyond the grid the order is nearly perfect, which is compatible with a perfect observed one.
    accepted[0] |= (observed <= -1) | (~accepted.any(0) & (observed < 0))
    accepted[-1] |= (observed >= 1) | (~accepted.any(0) & (observed >= 0))
    z = np.concatenate([-Z_GRID[:0:-1], Z_GRID])
    half_step = (z[1] - z[0]) / 2
    first, last = accepted.argmax(0), len(z) - 1 - accepted[::-1].argmax(0)
    low = np.where(first == 0, -1.0, np.tanh(z[first] - half_step))
    high = np.where(last == len(z) - 1, 1.0, np.tanh(z[last] + half_step))
    return low, high


def _acceptability(samples: Floats, observed: Floats) -> Floats:
    """Return for each population the probability of values at most as plausible as observed.

    The observed value itself counts half, so that the rejection rate of a discrete distribution is
    5 % on average rather than at most 5 %.

    Args:
        samples: sorted values, one row per population.
        observed: the observed values, one column of the result each.
    """
    size = samples.shape[1]
    result = np.empty((len(samples), len(observed)))
    for row, values in zip(result, samples, strict=True):
        below, above = _tails(values, observed)
        tail = np.minimum(below, above)
        # The other tail extends inwards as long as it is no more probable than this one.
        top, bottom = values[np.minimum(size - tail, size - 1)], values[np.maximum(tail - 1, 0)]
        upto_bottom, from_bottom = _tails(values, bottom)
        upto_top, from_top = _tails(values, top)
        upper = np.where(from_top <= tail, from_top, size - upto_top)
        lower = np.where(upto_bottom <= tail, upto_bottom, size - from_bottom)
        other = np.where(tail == 0, 0, np.where(below <= above, upper, lower))
        itself = below + above - size
        row[:] = (tail + other - itself / 2) / size
    return result


def _tails(values: Floats, observed: Floats) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return how many sorted values are <= and how many are >= each observed value."""
    below = np.searchsorted(values, observed, "right")
    return below, len(values) - np.searchsorted(values, observed, "left")
