"""How often do 95 % intervals of a score over test images hold the score on all images?

    python benchmarks/score_interval_coverage.py        # about five minutes on one core

Coverage in percent and mean width in points of three intervals from the same resamples: percentile,
BCa (Efron 1987) and Wilson's with the effective sample size, which ``results`` uses. The nominal
coverage is 95. The true score is the mean over test sets of the same size. The second table is
about the mean over seeds, whose networks differ by a normal deviation.
"""

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from results.records.replicates import Replicates
from results.records.score_intervals import spread_interval, spread_of
from results.statistics import bootstrap
from results.statistics.prediction_metrics import METRICS

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Draw = Callable[[np.random.Generator, int], tuple[Floats, Ints, Ints | None]]
NORMAL = NormalDist()
SEEDS = 4
"""Sets of resamples that simulations take in turn, since drawing them takes longest."""


def single(share: float, classes: int, spread: float = 0.0, unequal: float = 0.0) -> Draw:
    """Return images of which the networks gets a share right.

    Args:
        share: mean share of right images.
        classes: number of classes.
        spread: standard deviation of the logit of this share between classes.
        unequal: standard deviation of the logarithm of the classes' frequencies.
    """
    fixed = np.random.default_rng(1)
    logits = math.log(share / (1 - share)) + spread * fixed.standard_normal(classes)
    right = 1 / (1 + np.exp(-logits))
    frequency = np.exp(unequal * fixed.standard_normal(classes))

    def draw(generator: np.random.Generator, n: int) -> tuple[Floats, Ints, None]:
        targets = generator.choice(classes, n, p=frequency / frequency.sum())
        wrong = generator.random(n) >= right[targets]
        predicted = (targets + wrong * generator.integers(1, classes, n)) % classes
        return np.eye(classes)[predicted], targets, None

    return draw


def grouped(share: float, frames: int, together: float) -> Draw:
    """Return groups of ``frames`` images; ``together`` is their correlation on the normal scale."""
    threshold = NORMAL.inv_cdf(share)

    def draw(generator: np.random.Generator, n: int) -> tuple[Floats, Ints, Ints]:
        groups = np.repeat(np.arange(n // frames), frames)
        common = generator.standard_normal(n // frames)[groups]
        own = generator.standard_normal(len(groups))
        wrong = math.sqrt(together) * common + math.sqrt(1 - together) * own > threshold
        targets = generator.integers(0, 10, len(groups))
        return np.eye(10)[(targets + wrong) % 10], targets, groups

    return draw


def two(distance: float, share: float) -> Draw:
    """Return two classes whose margins are normal with means ``distance`` apart."""

    def draw(generator: np.random.Generator, n: int) -> tuple[Floats, Ints, None]:
        targets = (generator.random(n) < share).astype(np.int64)
        margins = generator.standard_normal(n) + distance * (targets - 0.5)
        return np.stack([np.zeros(n), margins], axis=1), targets, None

    return draw


def several(distance: float, share: float, classes: int) -> Draw:
    """Return images that show each of some classes with a probability of ``share``."""

    def draw(generator: np.random.Generator, n: int) -> tuple[Floats, Ints, None]:
        targets = (generator.random((n, classes)) < share).astype(np.int64)
        return generator.standard_normal((n, classes)) + distance * targets, targets, None

    return draw


POPULATIONS: dict[str, tuple[str, Draw, tuple[int, ...]]] = {
    "top1 50 %": ("top1", single(0.5, 10), (50, 200, 1000)),
    "top1 90 %": ("top1", single(0.9, 10), (50, 200, 1000)),
    "top1 99 %": ("top1", single(0.99, 10), (50, 200, 1000)),
    "top1 80 %, groups of 10 images": ("top1", grouped(0.8, 10, 0.5), (200, 1000)),
    "mean per class, 10 classes": ("mean_per_class", single(0.85, 10, 1.0, 0.5), (200, 1000)),
    "mean per class, 50 classes": ("mean_per_class", single(0.85, 50, 1.0, 0.5), (200, 1000)),
    "f1, 20 % positive": ("f1", two(2.0, 0.2), (50, 200, 1000)),
    "auc 92 %, 20 % positive": ("auc", two(2.0, 0.2), (50, 200, 1000)),
    "auc 99.8 %": ("auc", two(4.0, 0.5), (50, 200, 1000)),
    "11-point mAP, 5 classes": ("map_11_point", several(2.0, 0.1, 5), (200, 1000)),
    "ece, two classes": ("ece", two(2.0, 0.5), (200, 1000)),
}


def truth(metric: str, draw: Draw, n: int) -> float:
    """Return the mean score of test sets of ``n`` images.

    It is the score on all images but for ``ece`` and ``map_11_point``, which are biased upwards:
    the first by the noise of each bin, the second by the best precision at levels of recall.
    """
    generator, values = np.random.default_rng(2), []
    for _ in range(max(1_000, 300_000 // n)):
        scores, targets, _ = draw(generator, n)
        if metric != "auc" or len(set(targets.tolist())) == 2:
            values.append(METRICS[metric](scores, targets)(np.ones((len(targets), 1)))[0])
    return float(np.mean(values))


def bca(values: Floats, value: float, jackknife: Floats) -> tuple[float, float]:
    """Return the bias-corrected and accelerated interval."""
    below = float((values < value).mean() + (values == value).mean() / 2)
    below = min(max(below, 0.5 / len(values)), 1 - 0.5 / len(values))
    shift, pulls = NORMAL.inv_cdf(below), jackknife.mean() - jackknife
    power = float((pulls**2).sum()) ** 1.5
    bend = float((pulls**3).sum()) / (6 * power) if power else 0.0
    levels = []
    for z in (-bootstrap.Z95, bootstrap.Z95):
        levels.append(NORMAL.cdf(shift + (shift + z) / (1 - bend * (shift + z))))
    low, high = np.quantile(values, levels)
    return float(low), float(high)


def intervals(
    metric: str, scores: Floats, targets: Ints, groups: Ints | None, seed: int
) -> dict[str, tuple[float, float]]:
    """Return the three intervals of one set of test images."""
    statistic, n = METRICS[metric](scores, targets), len(targets)
    value = float(statistic(np.ones((n, 1)))[0])
    values = bootstrap.replicates(statistic, n, seed, groups)
    values = values[np.isfinite(values)]
    units = np.arange(n) if groups is None else groups
    size = int(units.max()) + 1
    kept = (units[:, None] != np.arange(size)).astype(np.float64)
    low, high = np.quantile(values, [0.025, 0.975])
    # As in results/records: with groups, the variance and the quantile are Student's.
    wider = size / (size - 1) * (float(stdtrit(size - 1, 0.975)) / bootstrap.Z95) ** 2
    scale = wider if groups is not None else 1.0
    return {
        "percentile": (float(low), float(high)),
        "BCa": bca(values, value, statistic(kept)),
        "Wilson": bootstrap.wilson(value, scale * float(values.var(ddof=1)), size),
    }


def of_images(simulations: int) -> None:
    """Print the first table."""
    print(f"{'population':32}{'images':>7}   percentile          BCa       Wilson")
    for name, (metric, draw, sizes) in POPULATIONS.items():
        for n in sizes:
            true = truth(metric, draw, n)
            generator = np.random.default_rng(n)
            held: dict[str, list[tuple[bool, float]]] = {}
            for simulation in range(simulations):
                scores, targets, groups = draw(generator, n)
                if metric == "auc" and len(set(targets.tolist())) < 2:
                    continue
                made = intervals(metric, scores, targets, groups, simulation % SEEDS)
                for method, (low, high) in made.items():
                    held.setdefault(method, []).append((low <= true <= high, high - low))
            texts = []
            for pairs in held.values():
                coverage, width = 100 * np.mean(pairs, axis=0)
                texts.append(f"{coverage:5.1f} ({width:4.1f})")
            print(f"{name:32}{n:>7}   " + "  ".join(texts), flush=True)


def of_cells(simulations: int) -> None:
    """Print the second table: seeds whose networks differ, on common test images."""
    print(f"\n{'mean of top1 80 %':26}{'seeds':>6}{'deviation':>11}   coverage (width)")
    for n in (200, 1000):
        for seeds in (1, 2, 3, 5):
            for deviation in (0.0, 0.1, 0.3):
                pairs = [one_cell(n, seeds, deviation, number) for number in range(simulations)]
                coverage, width = 100 * np.mean(pairs, axis=0)
                print(
                    f"{f'{n} images':26}{seeds:>6}{deviation:>11}   {coverage:5.1f} ({width:4.1f})",
                    flush=True,
                )


def one_cell(n: int, seeds: int, deviation: float, number: int) -> tuple[bool, float]:
    """Return whether the interval of a mean over seeds holds the true mean, and its width.

    An image is right if its difficulty, which seeds share, and a deviation of seed and image stay
    below a threshold that varies between seeds with the stated deviation. With one seed the true
    score is that of its network.
    """
    generator = np.random.default_rng([n, seeds, number])
    thresholds = NORMAL.inv_cdf(0.8) + deviation * generator.standard_normal(seeds)
    difficulty, own = generator.standard_normal(n), generator.standard_normal((seeds, n))
    right = math.sqrt(0.7) * difficulty + math.sqrt(0.3) * own < thresholds[:, None]
    drawn = []
    for one in right:
        values = bootstrap.replicates(
            METRICS["top1"](np.eye(2)[one.astype(np.int64)], np.ones(n)), n, number % SEEDS
        )
        deviations = (values - values.mean()).astype(np.float32)
        drawn.append(Replicates(float(one.mean()), deviations, "images", n, 0))
    scores = [one.value for one in drawn]
    # The mean over seeds of the normal distribution function at a normal threshold.
    expected = NORMAL.cdf(NORMAL.inv_cdf(0.8) / math.sqrt(1 + deviation**2))
    true = NORMAL.cdf(thresholds[0]) if seeds == 1 else expected
    interval = spread_interval(float(np.mean(scores)), spread_of(scores, drawn), "fraction")
    return interval.low <= true <= interval.high, interval.high - interval.low


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulations", type=int, default=2000)
    options = parser.parse_args()
    of_images(options.simulations)
    of_cells(options.simulations)


if __name__ == "__main__":
    main()
