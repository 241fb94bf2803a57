"""How often do 95 % intervals of a mean over few datasets hold the true mean?

    python benchmarks/choosing_coverage.py        # about a minute on one core

Coverage in percent of ``results/statistics/means.py`` (the wider one of a studentised bootstrap and
of Student's interval), and of methods that it does not use. The nominal value is 95. Regrets are
skewed and often 0; the difference of two proxies' regrets is less so.
"""

import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from results.statistics.means import mean

Floats = NDArray[np.float64]
Interval = tuple[float, float]
DRAWS = 1000
SIZES = (8, 11, 13)
GENERATOR = np.random.default_rng(0)


def regrets(n: int, share: float = 0.7) -> Floats:
    """Draw exponential values of which some are 0."""
    return GENERATOR.exponential(1.0, n) * (GENERATOR.random(n) < share)


POPULATIONS: dict[str, tuple[Callable[[int], Floats], float]] = {
    "normal": (lambda n: GENERATOR.normal(1.0, 1.0, n), 1.0),
    "exponential": (lambda n: GENERATOR.exponential(1.0, n), 1.0),
    "30 % are 0": (regrets, 0.7),
    "log-normal": (lambda n: GENERATOR.lognormal(0.0, 1.0, n), math.exp(0.5)),
    "difference": (lambda n: regrets(n) - regrets(n, 0.5), 0.2),
}
"""Name -> how to draw n values, and their true mean."""


def wider(values: Floats) -> Interval:
    """Return the interval that the project uses."""
    found = mean(values.tolist())
    return found.low, found.high


def percentile(values: Floats) -> Interval:
    """Return the interval of a percentile bootstrap."""
    weights = GENERATOR.multinomial(len(values), [1 / len(values)] * len(values), 1000)
    low, high = np.quantile(weights @ values / len(values), [0.025, 0.975])
    return float(low), float(high)


def student(values: Floats) -> Interval:
    """Return the interval of Student's t."""
    width = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return float(values.mean() - width), float(values.mean() + width)


def coverage(method: Callable[[Floats], Interval], n: int, name: str) -> float:
    """Return how often the interval holds the true mean, in percent."""
    draw, truth = POPULATIONS[name]
    intervals = (method(draw(n)) for _ in range(DRAWS))
    return 100 * float(np.mean([low <= truth <= high for low, high in intervals]))


def main() -> None:
    """Print one line per number of datasets and population."""
    methods = (wider, percentile, student)
    sys.stdout.write(f"{'datasets':>8}  {'population':<12}")
    sys.stdout.write("".join(f"{method.__name__:>13}" for method in methods) + "\n")
    for n in SIZES:
        for name in POPULATIONS:
            values = "".join(f"{coverage(method, n, name):13.1f}" for method in methods)
            sys.stdout.write(f"{n:>8}  {name:<12}{values}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
