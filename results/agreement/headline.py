"""One coefficient per proxy: the mean over datasets, by which the best proxy is named."""

import dataclasses
import math
from collections.abc import Sequence

from results.agreement.correlations import Correlation, Name
from results.statistics.estimate import Estimate
from results.statistics.intervals import average

HEADLINE: Name = "spearman"
"""The coefficient of a report's sentences. Ranks decide which encoder is chosen."""


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How well one proxy agrees with the target, as a mean over datasets.

    Args:
        proxy: the proxy's name.
        coefficient: the mean over ``datasets``; NaN with a note if no dataset has a coefficient.
        datasets: the datasets with a coefficient.
    """

    proxy: str
    coefficient: Estimate
    datasets: tuple[str, ...] = ()


def agreements(
    correlations: Sequence[Correlation], datasets: Sequence[str], name: Name = HEADLINE
) -> list[Agreement]:
    """Return one agreement per proxy, the best first.

    A proxy with coefficients on more datasets precedes the others: few datasets may be easy ones.

    Args:
        correlations: correlations of proxies; differences of proxies are left out.
        datasets: the datasets to average over.
        name: the coefficient.
    """
    proxies = dict.fromkeys(entry.proxy for entry in correlations if not entry.is_difference)
    found = [mean_agreement(correlations, proxy, datasets, name) for proxy in proxies]
    return sorted(found, key=_quality)


def mean_agreement(
    correlations: Sequence[Correlation],
    proxy: str,
    datasets: Sequence[str],
    name: Name = HEADLINE,
) -> Agreement:
    """Return the mean of one proxy's coefficients over the datasets on which it has one."""
    by_dataset = {
        entry.dataset: entry.coefficients[name]
        for entry in correlations
        if entry.proxy == proxy and entry.dataset in datasets and name in entry.coefficients
    }
    known = {dataset: c for dataset, c in by_dataset.items() if c}
    return Agreement(proxy, average(list((known or by_dataset).values())), tuple(known))


def _quality(agreement: Agreement) -> tuple[int, float]:
    value = agreement.coefficient.value
    return -len(agreement.datasets), math.inf if math.isnan(value) else -value
