"""Sampling distributions of rank coefficients over few encoders, by simulation.

The population is a bivariate normal copula with correlation rho. Ranks do not depend on the
margins, so only the dependence is assumed normal.
"""

import functools
import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
RankKind = Literal["spearman", "kendall", "weighted_kendall", "weighted_kendall_by_target"]

Z_GRID = np.linspace(0.0, 3.5, 51)
"""Fisher's z of the simulated populations, up to rho = 0.998."""
TIE_BREAK = 1e-5
"""Far below the step of Spearman's and Kendall's coefficient for n <= 20."""

_SAMPLES = 10_000
_FEWEST_SAMPLES = 1000


class Distribution(NamedTuple):
    """Sorted coefficients of simulated samples, one row per population of the grid.

    Args:
        values: the coefficients at rho.
        mirrored: the coefficients at -rho with their sign changed. They have the same distribution
            if the coefficient treats the best and the worst encoders alike.
    """

    values: Floats
    mirrored: Floats


def simulated(kind: RankKind, n: int) -> Distribution:
    """Return the distribution of a rank coefficient of n encoders.

    The seed is fixed, so the same scores always give the same interval. Equal values of Spearman's
    coefficient are ordered by Kendall's and the other way round, which makes the steps of the
    distributions finer.
    """
    return _weighted(n)[kind] if kind.startswith("weighted") else _unweighted(n)[kind]


def expected(kind: RankKind, n: int, rho: float) -> float:
    """Return the mean coefficient of samples of n encoders from the population of ``rho``.

    Weighted coefficients have no other value of the population: their weights depend on n.
    """
    positive = np.append(_means(kind, n)[0], 1.0)
    negative = np.append(_means(kind, n)[1], 1.0)
    grid = np.append(np.tanh(Z_GRID), 1.0)
    if rho < 0:
        return -float(np.interp(-rho, grid, negative))
    return float(np.interp(rho, grid, positive))


@functools.lru_cache(maxsize=64)
def _means(kind: RankKind, n: int) -> tuple[Floats, Floats]:
    values, mirrored = simulated(kind, n)
    return values.mean(1), mirrored.mean(1)


@functools.lru_cache(maxsize=32)
def _unweighted(n: int) -> dict[str, Distribution]:
    rows: dict[str, list[Floats]] = {"spearman": [], "kendall": []}
    identity = np.arange(n)
    for below, ranks in _samples(n):
        products = identity @ ranks - n * ((n - 1) / 2) ** 2
        rho_s = products / (n * (n**2 - 1) / 12)
        tau = 4 * below.sum(0) / (n * (n - 1)) - 1
        rows["spearman"].append(np.sort(np.round(rho_s + TIE_BREAK * tau, 10)))
        rows["kendall"].append(np.sort(np.round(tau + TIE_BREAK * rho_s, 10)))
    stacked = {kind: np.stack(sorted_rows) for kind, sorted_rows in rows.items()}
    return {kind: Distribution(values, values) for kind, values in stacked.items()}


@functools.lru_cache(maxsize=32)
def _weighted(n: int) -> dict[str, Distribution]:
    rows: dict[str, list[tuple[Floats, Floats]]] = {
        "weighted_kendall": [], "weighted_kendall_by_target": []
    }  # fmt: skip
    weights = 1 / np.arange(n, 0.0, -1.0)  # of ranks in ascending order: the best one is last
    weights /= weights.sum() * (n - 1)
    opposite = weights[::-1].copy()
    places = np.arange(n)[:, None]
    for below, ranks in _samples(n):
        # Concordant minus discordant pairs of each encoder: those below and above it by x and y.
        concordance = 2 * (2 * below + n - 1 - places - ranks) - (n - 1)
        by_x = weights @ concordance
        by_y, by_opposite = ((concordance * one[ranks]).sum(0) for one in (weights, opposite))
        both, mirrored = (np.sort(((by_x + one) / 2).round(10)) for one in (by_y, by_opposite))
        rows["weighted_kendall"].append((both, mirrored))
        # Rankings by the target and by the proxy have the same distribution.
        alone: Floats = np.sort(by_x.round(10))
        rows["weighted_kendall_by_target"].append((alone, alone))
    return {
        kind: Distribution(*(np.stack(column) for column in zip(*pairs, strict=True)))
        for kind, pairs in rows.items()
    }


def _samples(n: int) -> Iterator[tuple[Integers, Integers]]:
    """Yield normal samples for each rho of the grid, ordered by x.

    Yields:
        For each encoder, in ascending order of x, and each sample: how many encoders before it have
        a lower y; and its rank by y, counted from 0 for the lowest.
    """
    samples = min(_SAMPLES, max(_FEWEST_SAMPLES, 4_000_000 // n**2))
    x, noise = np.random.default_rng(0).standard_normal((2, samples, n))
    x, noise = np.sort(x, axis=1).T.copy(), noise.T.copy()
    for rho in np.tanh(Z_GRID):
        y = rho * x + math.sqrt(1 - rho**2) * noise
        below, ranks = np.empty((2, n, samples), dtype=np.int64)
        for place in range(n):
            lower = y < y[place]
            below[place] = lower[:place].sum(0, dtype=np.int16)
            ranks[place] = below[place] + lower[place + 1 :].sum(0, dtype=np.int16)
        yield below, ranks
