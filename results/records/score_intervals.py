"""95 % intervals of scores: over test images, and over seeds and test images.

The interval is Wilson's with the variance of the bootstrap (``bootstrap.wilson``), which was chosen
by simulated coverage (``benchmarks/score_interval_coverage.py``; 400 simulations each):

* Over 50 to 1,000 images it holds the true score in 91-98 % for top-1 of 50, 90 and 99 %, in
  92-96 % for the mean per class, 94-98 % for F1, 92-96 % for AUC, and in 94 % over 20 and 100
  groups of images. The percentile bootstrap covers as well in the middle, but 36 % where all of 50
  images may be right (top-1 of 99 %), and 44 % for an AUC of 99.8 %; BCa 34 and 44 %.
* ``ece`` and the 11-point mAPs are biased upwards on few images. Their interval is for test sets of
  this size: it holds their mean score in 92-96 % (200 and 1,000 images), and the score on all
  images in 85-93 % only.
* Over 2, 3 and 5 seeds that differ little or much, on 200 and 1,000 images, it holds the true mean
  in 95-99 %; two seeds tell little, so that their interval is wide.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from results.records.cells import Cell
from results.records.reading import Results
from results.records.replicates import Replicates, replicates
from results.statistics.bootstrap import Z95, wilson


class Interval(NamedTuple):
    """A 95 % interval of a score, in the score's unit.

    ``over`` says what varies: ``images``, ``groups`` of images or ``episodes``, or ``seeds``, or
    ``seeds and images`` and its like. An interval over images alone is for the networks that were
    trained; another seed may give a score outside of it.
    """

    low: float
    high: float
    over: str = "images"


def score_interval(results: Results, run_id: str, metric: str) -> Interval | None:
    """Return the interval of one run's score over test images.

    Args:
        results: the results that hold the run.
        run_id: id of the run.
        metric: name of the metric.

    Returns:
        The interval over images, over groups where the images have groups, or over episodes; None
        where the run left no predictions from which the score follows.
    """
    kept = replicates(results, run_id, metric)
    if kept is None:
        return None
    spread = spread_of([kept.value], [kept])
    return None if spread is None else spread_interval(kept.value, spread, "fraction")


@dataclasses.dataclass(frozen=True)
class Spread:
    """What is known of the sampling error of a cell's mean.

    Seeds differ in the images that they get right. The variance over seeds holds this part of the
    error, and the variance over resamples of the images holds it as well: it is counted once.

    Args:
        deviations: deviations of the mean over resamples of the test images; None where the runs
            left no predictions.
        units: number of images, groups or episodes; 0 without predictions.
        seeds: variance over seeds divided by their number; 0 for one seed.
        degrees: number of seeds minus 1.
        twice: part of the variance of ``deviations`` that ``seeds`` holds as well.
        over: what varies, see ``Interval``.
    """

    deviations: NDArray[np.float64] | None
    units: int
    seeds: float
    degrees: int
    twice: float
    over: str

    @property
    def images(self) -> float:
        """Variance of the mean over test sets, without what ``seeds`` holds."""
        if self.deviations is None:
            return 0.0
        return max(0.0, float(np.var(self.deviations, ddof=1)) - self.twice)


def cell_spread(results: Results, cell: Cell) -> Spread | None:
    """Return the sampling error of a cell's mean; None if neither seeds nor images tell it.

    Args:
        results: the results that hold the cell's runs.
        cell: a cell of ``results.records.cells``.
    """
    if cell.row is None or not cell.values:
        return None
    drawn = [replicates(results, run_id, cell.row.metric) for _, run_id in sorted(cell.values)]
    return spread_of([cell.values[run] for run in sorted(cell.values)], drawn)


def spread_of(scores: Sequence[float], drawn: Sequence[Replicates | None]) -> Spread | None:
    """Return the sampling error of the mean of scores of several seeds; see ``cell_spread``.

    Args:
        scores: one per seed.
        drawn: their replicates; None where there are none.
    """
    count, kept = len(scores), [one for one in drawn if one is not None]
    across = float(np.var(scores, ddof=1)) if count > 1 else 0.0
    if len(kept) < count:
        return Spread(None, 0, across / count, count - 1, 0.0, "seeds") if count > 1 else None
    deviations = np.stack([one.deviations for one in kept]).astype(np.float64)
    mean, units, unit = deviations.mean(axis=0), min(one.units for one in kept), kept[0].unit
    if count == 1:
        return Spread(mean, units, 0.0, 0, 0.0, unit)
    twice = float(np.var(deviations, axis=0, ddof=1).mean()) / count
    return Spread(mean, units, across / count, count - 1, twice, f"seeds and {unit}")


def cell_interval(results: Results, cell: Cell) -> Interval | None:
    """Return the interval of a cell's mean over seeds and test images.

    With one seed the interval is over images alone, and without predictions over seeds alone;
    ``over`` says so.

    Args:
        results: the results that hold the cell's runs.
        cell: a cell of ``results.records.cells``.

    Returns:
        The interval; None with one seed without predictions.
    """
    spread = cell_spread(results, cell)
    if spread is None or cell.row is None:
        return None
    return spread_interval(cell.mean, spread, cell.row.unit)


def spread_interval(mean: float, spread: Spread, unit: str) -> Interval:
    """Return the interval of a mean with a known sampling error, in the unit of its score.

    The squared half widths for seeds and images are added (Zou and Donner 2008,
    https://doi.org/10.1002/sim.3095). That of few seeds or groups of images is Student's.
    """
    images = spread.images * _widened(spread.units - 1 if "groups" in spread.over else math.inf)
    variance = images + (spread.seeds * _widened(spread.degrees) if spread.degrees else 0.0)
    if unit == "fraction":
        units = spread.units or spread.degrees + 1
        return Interval(*wilson(mean, variance, units), spread.over)
    half = Z95 * math.sqrt(variance)
    return Interval(mean - half, mean + half, spread.over)


def _widened(degrees: float) -> float:
    """Return the square of Student's 97.5 % point over that of the standard normal."""
    if math.isinf(degrees):
        return 1.0
    from scipy.special import stdtrit  # slow to import, so only where it is needed

    return float(stdtrit(degrees, 0.975) / Z95) ** 2
