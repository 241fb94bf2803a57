"""95 % intervals of scores: over test images, and over seeds and test images."""

import dataclasses
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from results.records.cells import Cell
from results.records.reading import Results
from results.records.replicates import replicates
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
    return Interval(*wilson(kept.value, kept.variance, kept.units), kept.unit)


@dataclasses.dataclass(frozen=True)
class Spread:
    """What is known of the sampling error of a cell's mean.

    Args:
        deviations: deviations of the mean over resamples of the test images; None where the runs
            left no predictions.
        units: number of images, groups or episodes.
        seeds: variance of the mean over seeds, without what the images explain; 0 for one seed.
        degrees: degrees of freedom of ``seeds``; 0 for one seed.
        share: part of the total variance that was estimated from seeds, in ``[0, 1]``.
        over: what varies, see ``Interval``.
    """

    deviations: NDArray[np.float64] | None
    units: int
    seeds: float
    degrees: int
    share: float
    over: str

    @property
    def images(self) -> float:
        """Variance of the mean over test sets."""
        return 0.0 if self.deviations is None else _variance(self.deviations)


def cell_spread(results: Results, cell: Cell) -> Spread | None:
    """Return the sampling error of a cell's mean; None if neither seeds nor images tell it.

    The variance over seeds is divided by their number. It holds part of what the images explain:
    seeds differ in the images that they get right, which a resample of the images shows as well.
    This part, estimated from the differences between the seeds' replicates, is counted once.

    Args:
        results: the results that hold the cell's runs.
        cell: a cell with at least one value.
    """
    if cell.row is None or not cell.values:
        return None
    runs = [replicates(results, run_id, cell.row.metric) for _, run_id in sorted(cell.values)]
    kept = [one for one in runs if one is not None]
    count = len(runs)
    across = float(np.var(list(cell.values.values()), ddof=1)) if count > 1 else 0.0
    if len(kept) < count:
        if count == 1:
            return None
        return Spread(None, 0, across / count, count - 1, 1.0, "seeds")
    drawn = np.stack([one.deviations for one in kept]).astype(np.float64)
    mean = drawn.mean(axis=0)
    units, unit = min(one.units for one in kept), kept[0].unit
    if count == 1:
        return Spread(mean, units, 0.0, 0, 0.0, unit)
    both = float(np.nanmean(np.var(drawn, axis=0, ddof=1)))
    seeds = max(0.0, across - both) / count
    share = min(1.0, across / count / (_variance(mean) + seeds)) if across > 0 else 0.0
    return Spread(mean, units, seeds, count - 1, share, f"seeds and {unit}")


def cell_interval(results: Results, cell: Cell) -> Interval | None:
    """Return the interval of a cell's mean over seeds and test images.

    The two variances are added. With few seeds the quantile is that of Student's t with the
    degrees of freedom of Satterthwaite (1946). With one seed the interval is over images alone,
    and without predictions over seeds alone; ``over`` says so.

    Args:
        results: the results that hold the cell's runs.
        cell: a cell of ``results.records.cells``.

    Returns:
        The interval; None with one seed without predictions.
    """
    spread = cell_spread(results, cell)
    if spread is None or cell.row is None:
        return None
    variance = spread.images + spread.seeds
    quantile = Z95 if spread.share == 0 else _student(spread.degrees / spread.share**2)
    if cell.row.unit == "fraction":
        units = spread.units or len(cell.values)
        return Interval(*wilson(cell.mean, variance, units, quantile), spread.over)
    half = quantile * math.sqrt(variance)
    return Interval(cell.mean - half, cell.mean + half, spread.over)


def _student(degrees: float) -> float:
    from scipy.special import stdtrit  # slow to import, so only where there are several seeds

    return float(stdtrit(degrees, 0.975))


def _variance(values: NDArray[np.float64]) -> float:
    return float(np.nanvar(values, ddof=1))
