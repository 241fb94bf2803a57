"""Correlations of cheap scores (proxies) with a target score over encoders.

The unit is the encoder: the scores of its seeds are averaged first. As in Ericsson et al. 2021
(https://arxiv.org/abs/2011.13377, appendix A.7), Pearson's coefficient uses scores in [0, 1] as
logits, unbounded scores unchanged, and errors with their sign changed. Pearson's coefficient of the
unchanged scores is reported, too.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np

from results.agreement.baselines import proxy_scores
from results.agreement.scores import Scores, Values, scores
from results.errors import ResultsError
from results.records.labels import natural
from results.records.reading import Results
from results.statistics.intervals import Coefficient, Kind, average, coefficient, difference

Name = Literal["pearson", "pearson (logit)", "spearman", "kendall"]
NAMES: tuple[Name, ...] = ("pearson", "pearson (logit)", "spearman", "kendall")
MEAN, POOLED = "mean over datasets", "average log-odds"


ALL_PAIRS = 4
"""Number of proxies up to which all differences between them are shown."""


@dataclasses.dataclass(frozen=True)
class Correlation:
    """Coefficients of a proxy, or differences of two proxies, on one dataset or over all."""

    dataset: str
    proxy: str
    target: str
    coefficients: Mapping[Name, Coefficient]
    is_difference: bool = False


def correlate(results: Results, proxies: Sequence[str], target: str) -> list[Correlation]:
    """Return each proxy's correlation with the target, and the differences between proxies.

    They are computed for each dataset with target scores; then as means over these datasets; then
    for logits averaged over datasets. Two proxies are compared on the encoders that both have; of
    more than ``ALL_PAIRS`` proxies, each is compared with the first one only.

    Raises:
        ResultsError: for an unknown protocol or metric, or a proxy that is the target.
    """
    if target in proxies:
        raise ResultsError(f"a proxy must differ from the target, but both are `{target}`.")
    aim = scores(results, target)
    return correlate_scores(aim, [proxy_scores(results, proxy, aim) for proxy in proxies])


def correlate_scores(target: Scores, proxies: Sequence[Scores]) -> list[Correlation]:
    """Return the result of ``correlate`` for given scores."""
    datasets = sorted((dataset for dataset in target.raw if dataset), key=natural)
    if not datasets:
        raise ResultsError(
            f"the target must have scores on a dataset, but `{target.name}` has none."
        )
    correlations = []
    for dataset in datasets:
        pairs = {proxy.name: proxy.on(dataset) for proxy in proxies}
        correlations += list(_compare(dataset, target.name, target.on(dataset), pairs))
    if len(datasets) > 1:
        correlations += list(_means(correlations))
        none: Values = {}
        pooled = {proxy.name: (none, proxy.mean_logits(datasets)) for proxy in proxies}
        goal = none, target.mean_logits(datasets)
        correlations += list(_compare(POOLED, target.name, goal, pooled))
    return correlations


def _compare(
    dataset: str,
    target_name: str,
    target: tuple[Values, Values],
    proxies: Mapping[str, tuple[Values, Values]],
) -> Iterator[Correlation]:
    """Yield each proxy's correlations, then the differences between proxies.

    Of more than ``ALL_PAIRS`` proxies, each is compared with the first one only.
    """
    for name, proxy in proxies.items():
        yield Correlation(
            dataset,
            name,
            target_name,
            {
                label: _coefficient(goal, source, kind)
                for label, kind, goal, source in _inputs(dataset, target, proxy)
            },
        )
    items = list(proxies.items())
    pairs = list(itertools.combinations(items, 2))
    if len(items) > ALL_PAIRS:
        pairs = pairs[: len(items) - 1]  # those of the first proxy
    for (base_name, base), (name, proxy) in pairs:
        with_base = _inputs(dataset, target, base)
        yield Correlation(
            dataset,
            f"{name} − {base_name}",
            target_name,
            {
                label: _difference(goal, source, other, kind)
                for (label, kind, goal, source), (_, _, _, other) in zip(
                    _inputs(dataset, target, proxy), with_base, strict=True
                )
            },
            is_difference=True,
        )


def _inputs(
    dataset: str, target: tuple[Values, Values], proxy: tuple[Values, Values]
) -> list[tuple[Name, Kind, Values, Values]]:
    """Return the inputs of each coefficient: its name, kind, target and proxy."""
    raw, logits = (target[0], proxy[0]), (target[1], proxy[1])
    ranked = logits if dataset == POOLED else raw
    inputs: list[tuple[Name, Kind, Values, Values]] = [
        ("pearson (logit)", "pearson", *logits),
        ("spearman", "spearman", *ranked),
        ("kendall", "kendall", *ranked),
    ]
    return inputs if dataset == POOLED else [("pearson", "pearson", *raw), *inputs]


def _coefficient(target: Values, proxy: Values, kind: Kind) -> Coefficient:
    shared = sorted(target.keys() & proxy.keys())
    x, y = (np.array([values[e] for e in shared], dtype=np.float64) for values in (proxy, target))
    return coefficient(x, y, kind)


def _difference(target: Values, proxy: Values, base: Values, kind: Kind) -> Coefficient:
    shared = sorted(target.keys() & proxy.keys() & base.keys())
    columns = [
        np.array([values[e] for e in shared], dtype=np.float64) for values in (target, proxy, base)
    ]
    return difference(columns[0], columns[1], columns[2], kind)


def _means(correlations: Sequence[Correlation]) -> Iterator[Correlation]:
    for proxy in dict.fromkeys(entry.proxy for entry in correlations):
        same = [entry for entry in correlations if entry.proxy == proxy]
        means = {name: average([entry.coefficients[name] for entry in same]) for name in NAMES}
        yield dataclasses.replace(same[0], dataset=MEAN, coefficients=means)
