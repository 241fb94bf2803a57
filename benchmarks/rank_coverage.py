"""How often do 95 % intervals of ranks hold the true rank, and how wide are they?

    python benchmarks/rank_coverage.py        # about six minutes on one core

Encoders are judged on common test images; their true shares of right images lie at equal distances
(the number is their standard deviation in points), in pairs of equal encoders, or are all equal.
Printed are the coverage of the rank in percent, averaged over encoders, its lowest value among
them, and the mean width in ranks; the same for the percentile bootstrap of ranks over images; and
how often letters tell no equal pair apart (nominal: at least 95). Of several sets, the mean rank
over them is judged.
"""

import argparse
import functools
import itertools
import math
import sys
from pathlib import Path
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from results.agreement.ranks import Rank, Ranking, rankings
from results.records.cells import Cell
from results.records.reading import Row
from results.records.replicates import Replicates
from results.records.score_intervals import Spread, spread_of
from results.statistics import bootstrap
from results.statistics.rank_intervals import ranks

Floats = NDArray[np.float64]
NORMAL = NormalDist()
SETS = 4
"""Sets of resamples that simulations take in turn, since drawing them takes longest."""
SHARED = 0.6
"""Correlation between two encoders on an image, on the normal scale."""


def thresholds(kind: str, encoders: int, spread: float) -> Floats:
    """Return the true quality of encoders as normal quantiles of their shares of right images."""
    places = np.linspace(-1, 1, encoders)
    if kind == "pairs":
        places = np.repeat(np.linspace(-1, 1, (encoders + 1) // 2), 2)[:encoders]
    if kind == "equal":
        places = np.zeros(encoders)
    scale = places.std() or 1.0
    return NORMAL.inv_cdf(0.8) + spread / 100 / NORMAL.pdf(NORMAL.inv_cdf(0.8)) * places / scale


@functools.lru_cache(maxsize=64)
def counts(n: int, number: int) -> NDArray[np.float32]:
    """Return how often resamples draw each image ``[n, RESAMPLES]``."""
    drawn = np.random.default_rng(number).multinomial(n, np.full(n, 1 / n), bootstrap.RESAMPLES)
    return np.ascontiguousarray(drawn.T, dtype=np.float32)


def column(quality: Floats, deviation: float, seeds: int, n: int, draw: np.random.Generator,
           number: int, dataset: str) -> tuple[list[Cell], list[Spread]]:  # fmt: skip
    """Return the scores of encoders on the test images of one dataset."""
    difficulty = draw.standard_normal(n)
    limits = quality[:, None] + deviation * draw.standard_normal((len(quality), seeds))
    own = draw.standard_normal((*limits.shape, n))
    right = math.sqrt(SHARED) * difficulty + math.sqrt(1 - SHARED) * own < limits[..., None]
    scores = right.mean(axis=-1)
    deviations = right.astype(np.float32) @ counts(n, number) / n
    deviations -= deviations.mean(axis=-1, keepdims=True)
    row = Row("", "", "finetune", dataset, 0, "top1", 0, "fraction", True, True, "test", "")
    cells, spreads = [], []
    for values, drawn in zip(scores.tolist(), deviations, strict=True):
        cells.append(Cell({(seed, str(seed)): one for seed, one in enumerate(values)}, row=row))
        pairs = zip(values, drawn, strict=True)
        spread = spread_of(values, [Replicates(v, d, "images", n, number) for v, d in pairs])
        assert spread is not None
        spreads.append(spread)
    return cells, spreads


def simulated(kind: str, encoders: int, spread: float, n: int, seeds: int, datasets: int,
              deviation: float, number: int) -> tuple[Ranking, Floats, Floats]:  # fmt: skip
    """Return the last ranking, the true ranks, and the naive interval of the ranks."""
    draw = np.random.default_rng([encoders, n, seeds, datasets, number])
    table: dict[tuple[str, str], Cell] = {}
    spreads: dict[tuple[str, str], Spread | None] = {}
    true, naive = [], []
    for place in range(datasets):
        quality, dataset = draw.permutation(thresholds(kind, encoders, spread)), f"d{place:02}"
        true.append(ranks(quality))
        resamples = number % SETS + SETS * place
        of = column(quality, deviation, seeds, n, draw, resamples, dataset)
        for encoder, (cell, error) in enumerate(zip(*of, strict=True)):
            table[f"{encoder:02}", dataset], spreads[f"{encoder:02}", dataset] = cell, error
        drawn = [cell.mean + error.deviations for cell, error in zip(*of, strict=True)]
        naive.append((-np.stack(drawn, axis=1)).argsort(axis=1).argsort(axis=1) + 1)
    last = rankings(table, spreads)[-1]
    bounds = np.quantile(np.mean(naive, axis=0), [0.025, 0.975], axis=0)
    return last, np.mean(true, axis=0), bounds


def summary(cases: list[tuple[Ranking, Floats, Floats]]) -> str:
    """Return coverage and width of both intervals, and how often letters are right."""
    held, widths, naive, narrow, right = [], [], [], [], []
    for ranking, true, bounds in cases:
        entries: list[Rank] = sorted(ranking.ranks, key=lambda one: one.encoder)
        low = np.array([one.low for one in entries], dtype=float)
        high = np.array([one.high for one in entries], dtype=float)
        held.append((low <= true) & (true <= high))
        widths.append(high - low)
        naive.append((bounds[0] <= true) & (true <= bounds[1]))
        narrow.append(bounds[1] - bounds[0])
        pairs = itertools.combinations(range(len(entries)), 2)
        equal = [(i, j) for i, j in pairs if true[i] == true[j]]
        right.append(all(set(entries[i].group) & set(entries[j].group) for i, j in equal))
    each = 100 * np.mean(held, axis=0)
    return (
        f"{each.mean():6.1f} {each.min():6.1f} {np.mean(widths):6.1f}"
        f"{100 * np.mean(naive):9.1f} {np.mean(narrow):6.1f}{100 * np.mean(right):9.1f}"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulations", type=int, default=300)
    options = parser.parse_args()
    head = f"{'population':14}{'encoders':>9}{'images':>7}{'seeds':>6}{'sets':>5}"
    print(f"{head}   mean lowest  width    naive  width  letters")
    cases = [
        (kind, spread, encoders, n, seeds, datasets)
        for kind, spread in (("equal", 0.0), ("pairs", 3.0), ("distances", 1.0), ("distances", 5.0))
        for encoders in (6, 13)
        for n, seeds, datasets in (
            (100, 1, 1), (500, 1, 1), (500, 3, 1), (500, 3, 4)
        )
    ]  # fmt: skip
    for kind, spread, encoders, n, seeds, datasets in cases:
        deviation = 0.0 if seeds == 1 else 0.05
        runs = [
            simulated(kind, encoders, spread, n, seeds, datasets, deviation, number)
            for number in range(options.simulations)
        ]
        text = f"{kind} {spread:g}"
        print(f"{text:14}{encoders:>9}{n:>7}{seeds:>6}{datasets:>5}  {summary(runs)}", flush=True)


if __name__ == "__main__":
    main()
