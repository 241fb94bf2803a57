"""How often do 95 % intervals of a correlation over few encoders hold the true value?

    python benchmarks/correlation_coverage.py        # about fifteen minutes on one core

Coverage in percent of the methods that ``results/statistics/intervals.py`` uses and of those that
it does not, for 6 and 13 encoders drawn from populations with known coefficients. The nominal
value is 95. Populations: ``normal`` is the bivariate normal; ``accuracies`` are logistic functions
of it (mean logit 1, standard deviation 0.7), for which Pearson is taken raw and on logits; ``heavy
tails`` is the bivariate t with 3 degrees of freedom. The second table is about the difference
between two proxies' coefficients with one target.
"""

import argparse
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from results.statistics import intervals
from results.statistics.estimate import Estimate
from results.statistics.intervals import Kind, difference, inverted, population
from results.statistics.simulated import TIE_BREAK

Floats = NDArray[np.float64]
Draw = Callable[[np.random.Generator, float, tuple[int, ...]], tuple[Floats, Floats]]
Method = Callable[[Floats, Floats, Kind], tuple[Floats, Floats]]
RHOS = (0.0, 0.5, 0.8, 0.9, 0.95)
SIZES = (6, 13)
KINDS: tuple[Kind, ...] = (
    "pearson", "spearman", "kendall", "weighted_kendall", "weighted_kendall_by_target"
)  # fmt: skip
TRIPLES = (  # target with first proxy, target with second, first with second
    (0.0, 0.0, 0.0),
    (0.0, 0.0, 0.5),
    (0.5, 0.5, 0.5),
    (0.7, 0.7, 0.7),
    (0.8, 0.8, 0.9),
    (0.5, 0.8, 0.6),
    (0.7, 0.9, 0.8),
    (0.9, 0.9, 0.9),
    (0.9, 0.6, 0.7),
)


def normal(
    generator: np.random.Generator, rho: float, shape: tuple[int, ...]
) -> tuple[Floats, Floats]:
    """Draw from the bivariate normal."""
    x, noise = generator.standard_normal((2, *shape))
    return x, rho * x + math.sqrt(1 - rho**2) * noise


def heavy_tails(
    generator: np.random.Generator, rho: float, shape: tuple[int, ...]
) -> tuple[Floats, Floats]:
    """Draw from the bivariate t with 3 degrees of freedom; Pearson and Kendall are as if normal."""
    scale = np.sqrt(generator.chisquare(3, shape) / 3)
    x, y = normal(generator, rho, shape)
    return x / scale, y / scale


def accuracies(
    generator: np.random.Generator, rho: float, shape: tuple[int, ...]
) -> tuple[Floats, Floats]:
    """Draw scores in (0, 1) whose logits are normal."""
    x, y = normal(generator, rho, shape)
    return 1 / (1 + np.exp(-1 - 0.7 * x)), 1 / (1 + np.exp(-1 - 0.7 * y))


def coefficients(x: Floats, y: Floats, kind: Kind) -> Floats:
    """Return the coefficients of many samples without ties, one per row."""
    if kind.startswith("weighted"):
        return weighted(x, y, kind)
    if kind == "kendall":
        pairs = np.triu_indices(x.shape[1], 1)
        signs = [np.sign(one[:, pairs[0]] - one[:, pairs[1]]) for one in (x, y)]
        return np.asarray((signs[0] * signs[1]).mean(1))
    if kind == "spearman":
        x, y = (one.argsort(1).argsort(1).astype(np.float64) for one in (x, y))
    x, y = (one - one.mean(1, keepdims=True) for one in (x, y))
    with np.errstate(invalid="ignore"):  # a resample may hold one encoder only
        return np.asarray((x * y).sum(1) / np.sqrt((x**2).sum(1) * (y**2).sum(1)))


def weighted(x: Floats, y: Floats, kind: Kind) -> Floats:
    """Return the weighted coefficients of many samples without ties, one per row."""
    n = x.shape[1]
    same = (x[:, :, None] > x[:, None]) == (y[:, :, None] > y[:, None])
    concordance = 2 * (same.sum(2) - 1) - (n - 1)  # without the encoder itself
    by_rank = 1 / np.arange(1, n + 1)
    by_rank /= by_rank.sum() * (n - 1)
    by_x, by_y = ((concordance * by_rank[(-a).argsort(1).argsort(1)]).sum(1) for a in (x, y))
    return np.asarray(by_y if kind == "weighted_kendall_by_target" else (by_x + by_y) / 2)


def chosen(x: Floats, y: Floats, kind: Kind) -> tuple[Floats, Floats]:
    """Return the intervals of ``intervals.coefficient`` for many samples at once."""
    n = x.shape[1]
    if kind == "pearson":
        return fisher(x, y, kind, 1 / (n - 3))
    keys = coefficients(x, y, kind)
    if kind in ("spearman", "kendall"):
        other = coefficients(x, y, "kendall" if kind == "spearman" else "spearman")
        keys = keys + TIE_BREAK * other
    keys = np.round(keys, 10)
    distinct, places = np.unique(keys, return_inverse=True)
    ends = inverted(kind, n, distinct)
    low, high = (np.array([population(r, kind, n) for r in end])[places] for end in ends)
    return low, high


def fisher(x: Floats, y: Floats, kind: Kind, variance: float | Floats) -> tuple[Floats, Floats]:
    """Return intervals by Fisher's z."""
    z = np.arctanh(np.clip(coefficients(x, y, kind), -1 + 1e-12, 1 - 1e-12))
    width = intervals.Z95 * np.sqrt(variance)
    return np.tanh(z - width), np.tanh(z + width)


def fisher_bonett_wright(x: Floats, y: Floats, kind: Kind) -> tuple[Floats, Floats]:
    """Return Fisher's z with the variance of Bonett and Wright 2000."""
    n = x.shape[1]
    if kind == "kendall":
        return fisher(x, y, kind, 0.437 / (n - 4))
    return fisher(x, y, kind, (1 + coefficients(x, y, kind) ** 2 / 2) / (n - 3))


def fisher_fieller(x: Floats, y: Floats, kind: Kind) -> tuple[Floats, Floats]:
    """Return Fisher's z with the variance of Fieller, Hartley and Pearson 1957."""
    n = x.shape[1]
    spread = {"spearman": 1.06 / (n - 3), "kendall": 0.437 / (n - 4), "pearson": 1 / (n - 3)}
    return fisher(x, y, kind, spread[kind])


def bootstrap(x: Floats, y: Floats, kind: Kind) -> tuple[Floats, Floats]:
    """Return percentile bootstrap intervals, from 400 resamples of the first 1,000 samples."""
    generator = np.random.default_rng(3)
    x, y = x[:1000], y[:1000]
    draws = []
    for _ in range(400):
        take = generator.integers(x.shape[1], size=x.shape)
        again = np.take_along_axis(x, take, 1), np.take_along_axis(y, take, 1)
        draws.append(coefficients(*again, kind) if kind == "pearson" else tied(*again, kind))
    low, high = np.nanpercentile(draws, [2.5, 97.5], axis=0)
    return low, high


def tied(x: Floats, y: Floats, kind: Kind) -> Floats:
    """Return rank coefficients of many samples with ties."""
    if kind == "spearman":
        x, y = (
            (a[:, :, None] < a[:, None]).sum(1) + (a[:, :, None] == a[:, None]).sum(1) / 2
            for a in (x, y)
        )
        return coefficients(x, y, "pearson")
    signs = [np.sign(one[:, :, None] - one[:, None]) for one in (x, y)]
    norm = np.sqrt((signs[0] ** 2).sum((1, 2)) * (signs[1] ** 2).sum((1, 2)))
    with np.errstate(invalid="ignore"):
        return np.asarray((signs[0] * signs[1]).sum((1, 2)) / norm)


METHODS: dict[str, Method] = {
    "used here": chosen,
    "Fisher z, Bonett-Wright": fisher_bonett_wright,
    "Fisher z, Fieller": fisher_fieller,
    "percentile bootstrap": bootstrap,
}


def truth(kind: Kind, rho: float, draw: Draw, n: int) -> float:
    """Return the population's coefficient, by a closed form or from draws."""
    if kind.startswith("weighted"):
        x, y = draw(np.random.default_rng(1), rho, (20_000, n))
        return float(weighted(x, y, kind).mean())
    if draw is normal or kind == "kendall" or (draw is heavy_tails and kind == "pearson"):
        return population(rho, kind)
    if draw is accuracies and kind == "spearman":
        return population(rho, kind)
    x, y = draw(np.random.default_rng(1), rho, (1, 4_000_000))
    return float(coefficients(x, y, kind)[0])


def coverage(
    interval: Method,
    kind: Kind,
    n: int,
    rho: float,
    draw: Draw = normal,
    samples: int = 20_000,
) -> float:
    """Return how often a method's interval holds the population's coefficient."""
    low, high = interval(*draw(np.random.default_rng(2), rho, (samples, n)), kind)
    true = truth(kind, rho, draw, n)
    return float(np.mean((low <= true + 1e-9) & (true <= high + 1e-9)))


def difference_coverage(
    kind: Kind, n: int, triple: tuple[float, float, float], samples: int
) -> float:
    """Return how often the interval of a difference holds the population's."""
    first, second, between = triple
    covariance = np.array([[1, first, second], [first, 1, between], [second, between, 1]])
    factor = np.linalg.cholesky(covariance)
    scores = factor @ np.random.default_rng(4).standard_normal((samples, 3, n))
    true = population(first, kind, n) - population(second, kind, n)
    held = [d.low - 1e-9 <= true <= d.high + 1e-9 for d in _differences(scores, kind)]
    return float(np.mean(held))


def _differences(scores: Floats, kind: Kind) -> Iterator[Estimate]:
    for target, first, second in scores:
        yield difference(target, first, second, kind)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--difference-samples", type=int, default=4_000)
    arguments = parser.parse_args()
    print("coverage of the coefficients' 95 % intervals, in percent")
    print(
        f"{'n':>3} {'coefficient':26} {'population':12} {'method':24}", *(f"{r:>6}" for r in RHOS)
    )
    for n in SIZES:
        for kind in KINDS:
            for draw in (normal, accuracies, heavy_tails):
                for name, method in METHODS.items():
                    if draw is not normal and method is not chosen:
                        continue
                    if kind == "pearson" and method in (fisher_fieller, fisher_bonett_wright):
                        continue  # both are what is used
                    if kind.startswith("weighted") and method is not chosen:
                        continue  # there are no formulas for it
                    cells = [
                        100 * coverage(method, kind, n, rho, draw, arguments.samples)
                        for rho in RHOS
                    ]
                    shown = " ".join(f"{cell:6.1f}" for cell in cells)
                    label = draw.__name__.replace("_", " ")
                    print(f"{n:3} {kind:26} {label:12} {name:24} {shown}", flush=True)
    print("\ncoverage of the difference of two proxies' coefficients, in percent")
    print(f"{'n':>3} {'r1, r2, r12':16}", *(f"{kind:>8}" for kind in KINDS))
    for n in SIZES:
        for triple in TRIPLES:
            cells = [
                100 * difference_coverage(kind, n, triple, arguments.difference_samples)
                for kind in KINDS
            ]
            shown = (f"{c:>{max(8, len(k))}.1f}" for c, k in zip(cells, KINDS, strict=True))
            print(f"{n:3} {triple!s:16}", *shown, flush=True)


if __name__ == "__main__":
    main()
