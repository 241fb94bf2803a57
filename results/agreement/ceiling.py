"""The noise ceiling: how well the target agrees with itself.

No proxy can be expected to agree with the target better than a repetition of the target does.
"""

import dataclasses
import itertools
import math
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from results.agreement.correlations import (
    DEFAULT,
    Correlation,
    Name,
    coefficient_of,
    correlate_scores,
    kind_of,
    means,
)
from results.agreement.scores import Scores, Values, logit
from results.agreement.specs import chosen
from results.agreement.two_sources import target_from
from results.records.cells import cells, ordered
from results.records.reading import Results
from results.statistics.estimate import Estimate
from results.statistics.intervals import Kind, average, population

_SPLITS = 20
"""Most splits of the seeds; further ones hardly change the mean."""
_RHOS = np.tanh(np.linspace(-3.5, 3.5, 141))


def between_sources(
    results: Results,
    target: Scores,
    spec: str,
    source: str,
    names: Sequence[Name] = DEFAULT,
    tables: Sequence[str] = (),
) -> list[Correlation]:
    """Return how well the target agrees with the same protocol in another source.

    Args:
        results: the results of all protocols.
        target: the target's scores.
        spec: ``PROTOCOL[:METRIC]`` in the other source.
        source: a published table, or a folder that runs write to.
        names: the coefficients.
        tables: the published tables that the results are, if any.

    Raises:
        ResultsError: if there is no such source or protocol, or nothing has a counterpart.
    """
    other, _ = target_from(source, spec, results, tables)
    shared = {dataset: column for dataset, column in target.raw.items() if dataset in other.raw}
    named = dataclasses.replace(other, name=f"ceiling: {other.name}")
    return correlate_scores(dataclasses.replace(target, raw=shared), [named], names)


def between_seeds(
    results: Results, target: str, names: Sequence[Name] = DEFAULT
) -> list[Correlation]:
    """Return how well two repetitions of the target over its seeds would agree.

    The seeds that all encoders share (those with one seed are left out) are divided into two halves
    in all ways, at most 20. The coefficients between the means of the halves are averaged over the
    divisions, and corrected from the seeds of a half to all seeds (Spearman 1910 and Brown 1910, on
    the scale of Pearson's correlation of a normal population). A proxy without any error of its own
    may reach the square root of a reliability, which is what Pearson's coefficient here is.

    Args:
        results: the results of all protocols.
        target: ``PROTOCOL[:METRIC]``.
        names: the coefficients.

    Returns:
        One entry per dataset, then their mean; not defined with fewer than two shared seeds.

    Raises:
        ResultsError: if the protocol or metric is unknown.
    """
    by_dataset = _by_seed(results, target)
    entries = [
        Correlation(
            dataset,
            "ceiling: between seeds",
            target,
            {name: _between_halves(by_dataset[dataset], name) for name in names},
        )
        for dataset in ordered(by_dataset)
    ]
    return entries + (list(means(entries)) if len(entries) > 1 else [])


def spearman_brown(value: float, times: float) -> float:
    """Return the correlation of two means of ``times`` as many repeats each.

    Example:
        >>> spearman_brown(0.5, 2)
        0.6666666666666666
    """
    return times * value / (1 + (times - 1) * value)


Seeds = Mapping[str, Mapping[int, tuple[float, float]]]
"""Encoder -> seed -> raw score and logit, higher is better."""


def _by_seed(results: Results, target: str) -> dict[str, Seeds]:
    """Return the scores of each dataset by encoder and seed."""
    results, protocol, metric = chosen(results, target)
    by_dataset: dict[str, dict[str, dict[int, tuple[float, float]]]] = defaultdict(dict)
    for (encoder, dataset), cell in cells(results, protocol, metric).items():
        if not dataset or cell.row is None or not math.isfinite(cell.mean):
            continue
        sign, bounded = (1.0 if cell.row.higher_is_better else -1.0), cell.row.unit == "fraction"
        runs: dict[int, list[float]] = defaultdict(list)
        for (seed, _), value in cell.values.items():
            runs[seed].append(value)
        scores = {seed: statistics.fmean(values) for seed, values in runs.items()}
        by_dataset[dataset][encoder] = {
            seed: (sign * value, sign * (logit(value) if bounded else value))
            for seed, value in scores.items()
        }
    return dict(by_dataset)


def _between_halves(seeds_of: Seeds, name: Name) -> Estimate:
    several = {encoder: seeds for encoder, seeds in seeds_of.items() if len(seeds) > 1}
    shared = sorted(set.intersection(*(set(s) for s in several.values())) if several else ())
    if len(shared) < 2:
        return Estimate.none(
            len(several),
            "undefined: the ceiling between seeds needs a target with at least two seeds that its "
            "encoders share",
        )
    pairs = [
        tuple(_mean_over(several, half, name) for half in halves) for halves in _halves(shared)
    ]
    whole = average([coefficient_of(y, x, name) for x, y in pairs])
    if not whole:
        return whole
    times = len(shared) / (len(shared) // 2)
    value, low, high = (
        _corrected(one, kind_of(name), whole.n, times)
        for one in (whole.value, whole.low, whole.high)
    )
    return Estimate(value, low, high, whole.n)


def _halves(seeds: Sequence[int]) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Yield disjoint halves of the seeds; of an odd number, one seed stays out of both."""
    size = len(seeds) // 2
    divisions = (
        (first, second)
        for first in itertools.combinations(seeds, size)
        for second in itertools.combinations([s for s in seeds if s not in first], size)
        if first < second
    )
    yield from itertools.islice(divisions, _SPLITS)


def _mean_over(seeds_of: Seeds, half: Sequence[int], name: Name) -> Values:
    place = 1 if name == "pearson (logit)" else 0
    return {
        encoder: statistics.fmean(scores[seed][place] for seed in half)
        for encoder, scores in seeds_of.items()
    }


def _corrected(value: float, kind: Kind, n: int, times: float) -> float:
    """Return a coefficient of means of ``times`` as many seeds, by way of Pearson's correlation."""
    scale = [population(float(rho), kind, n) for rho in _RHOS]
    rho = float(np.interp(value, [-1.0, *scale, 1.0], [-1.0, *_RHOS, 1.0]))
    # The correction of a negative correlation would exceed -1; repeats that disagree stay as found.
    return value if rho <= 0 else population(spearman_brown(rho, times), kind, n)
