"""Correlations of cheap scores (proxies) with a target score over encoders.

The unit is the encoder: the scores of its seeds are averaged first. As in Ericsson et al. 2021
(https://arxiv.org/abs/2011.13377, appendix A.7), Pearson's coefficient uses scores in [0, 1] as
logits, unbounded scores unchanged, and errors with their sign changed. Pearson's coefficient of the
unchanged scores is reported, too.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from results.agreement.baselines import proxy_scores
from results.agreement.scores import Scores, Values, scores
from results.agreement.specs import target_spec
from results.errors import ResultsError, unknown
from results.records.labels import natural
from results.records.reading import Results
from results.statistics.estimate import Estimate
from results.statistics.intervals import Kind, average, coefficient, difference, point

Name = Literal[
    "pearson",
    "pearson (logit)",
    "spearman",
    "kendall",
    "weighted_kendall",
    "weighted_kendall_by_target",
]
NAMES: tuple[Name, ...] = get_args(Name)
DEFAULT: tuple[Name, ...] = ("pearson (logit)", "spearman", "kendall", "weighted_kendall")
"""The coefficients that are computed unless others are named."""
MEAN, POOLED = "mean over datasets", "average log-odds"

ALL_PAIRS = 4
"""Number of proxies up to which all differences between them are shown."""


@dataclasses.dataclass(frozen=True)
class Correlation:
    """Coefficients of a proxy, or differences of two proxies, on one dataset or over all."""

    dataset: str
    proxy: str
    target: str
    coefficients: Mapping[Name, Estimate]
    is_difference: bool = False


def known_names(names: Sequence[str]) -> list[Name]:
    """Return the coefficients of these names, in which an underscore may stand for a space.

    Raises:
        ResultsError: if a name is unknown; the message lists the known ones.
    """
    by_text: dict[str, Name] = {text: name for name in NAMES for text in (name, _spelled(name))}
    for name in names:
        if name not in by_text:
            raise unknown("`--coefficient`", name, map(_spelled, NAMES))
    return list(dict.fromkeys(by_text[name] for name in names))


def _spelled(name: Name) -> str:
    """Return a name without characters that a shell treats specially."""
    return name.replace(" (", "_").replace(")", "")


def correlate(
    results: Results, proxies: Sequence[str], target: str, names: Sequence[Name] = DEFAULT
) -> list[Correlation]:
    """Return each proxy's correlation with the target, and the differences between proxies.

    They are computed for each dataset with target scores; then as means over these datasets; then
    for logits averaged over datasets. Two proxies are compared on the encoders that both have; of
    more than ``ALL_PAIRS`` proxies, each is compared with the first one only.

    Args:
        results: the results of all protocols.
        proxies: ``PROTOCOL[:METRIC][@KEY=VALUE]``, or baselines.
        target: the same; see ``specs.target_spec``.
        names: the coefficients.

    Raises:
        ResultsError: for an unknown protocol or metric, or a proxy that is the target.
    """
    aim = scores(results, target_spec(target, proxies))
    return correlate_scores(aim, proxies_of(results, proxies, aim), names)


def proxies_of(results: Results, proxies: Sequence[str], target: Scores) -> list[Scores]:
    """Return the scores of proxies, each once.

    Raises:
        ResultsError: for an unknown protocol or metric, or a proxy that is the target.
    """
    if target.name in proxies:
        raise ResultsError(f"a proxy must differ from the target, but both are `{target.name}`.")
    return [proxy_scores(results, proxy, target) for proxy in dict.fromkeys(proxies)]


def correlate_scores(
    target: Scores, proxies: Sequence[Scores], names: Sequence[Name] = DEFAULT
) -> list[Correlation]:
    """Return the result of ``correlate`` for given scores."""
    datasets = sorted((dataset for dataset in target.raw if dataset), key=natural)
    if not datasets:
        raise ResultsError(
            f"the target must have scores on a dataset, but `{target.name}` has none."
        )
    correlations = []
    for dataset in datasets:
        columns = [_Column(p.name, *p.on(dataset), p.undefined) for p in proxies]
        aim = _Column(target.name, *target.on(dataset))
        correlations += list(_compare(dataset, aim, columns, names))
    if len(datasets) > 1:
        correlations += list(means(correlations))
        # Averaged logits are ranked, too: scores of several metrics have no raw mean.
        pooled = [
            _Column(p.name, logits, logits, p.undefined or p.no_mean)
            for p, logits in ((p, p.mean_logits(datasets)) for p in (target, *proxies))
        ]
        without_raw = [name for name in names if name != "pearson"]
        if without_raw:
            correlations += list(_compare(POOLED, pooled[0], pooled[1:], without_raw))
    return correlations


class _Column(NamedTuple):
    """The scores of a target or proxy on one dataset, or why there are none."""

    name: str
    raw: Values
    logits: Values
    undefined: str = ""

    def values(self, name: Name) -> Values:
        """Return the scores that a coefficient takes."""
        return self.logits if name == "pearson (logit)" else self.raw


def _compare(
    dataset: str, target: _Column, proxies: Sequence[_Column], names: Sequence[Name]
) -> Iterator[Correlation]:
    """Yield each proxy's correlations, then the differences between those that are defined.

    Of more than ``ALL_PAIRS`` proxies, each is compared with the first one only.
    """
    for proxy in proxies:
        coefficients = {name: _coefficient(target, proxy, name) for name in names}
        yield Correlation(dataset, proxy.name, target.name, coefficients)
    defined = [proxy for proxy in proxies if not proxy.undefined]
    pairs = list(itertools.combinations(defined, 2))
    if len(proxies) > ALL_PAIRS:
        pairs = pairs[: max(len(defined) - 1, 0)]  # those of the first proxy
    for base, proxy in pairs:
        label = f"{proxy.name} − {base.name}"
        coefficients = {name: _difference(target, proxy, base, name) for name in names}
        yield Correlation(dataset, label, target.name, coefficients, is_difference=True)


def _coefficient(target: _Column, proxy: _Column, name: Name) -> Estimate:
    if proxy.undefined:
        return Estimate.none(0, f"undefined: {proxy.undefined}")
    return coefficient_of(target.values(name), proxy.values(name), name)


def coefficient_of(target: Values, proxy: Values, name: Name) -> Estimate:
    """Return a coefficient over the encoders that both have, of scores on its scale."""
    y, x = _shared(target, proxy)
    return coefficient(x, y, kind_of(name))


def value_of(target: Scores, proxy: Scores, dataset: str, name: Name) -> float:
    """Return a coefficient on one dataset without its interval; NaN if there is none."""
    columns = (_Column(one.name, *one.on(dataset)).values(name) for one in (target, proxy))
    y, x = _shared(*columns)
    return point(x, y, kind_of(name))


def _difference(target: _Column, proxy: _Column, base: _Column, name: Name) -> Estimate:
    y, x, other = _shared(target.values(name), proxy.values(name), base.values(name))
    return difference(y, x, other, kind_of(name))


def _shared(*columns: Values) -> list[NDArray[np.float64]]:
    """Return the scores of the encoders that all columns have, in one order."""
    shared = sorted(set.intersection(*(set(column) for column in columns)))
    return [np.array([column[e] for e in shared], dtype=np.float64) for column in columns]


def kind_of(name: Name) -> Kind:
    """Return the coefficient without the scale of its scores."""
    return "pearson" if name == "pearson (logit)" else name


def means(correlations: Sequence[Correlation]) -> Iterator[Correlation]:
    """Yield the mean over datasets of each proxy's coefficients."""
    for proxy in dict.fromkeys(entry.proxy for entry in correlations):
        same = [entry for entry in correlations if entry.proxy == proxy]
        means = {
            name: average([entry.coefficients[name] for entry in same])
            for name in same[0].coefficients
        }
        yield dataclasses.replace(same[0], dataset=MEAN, coefficients=means)
