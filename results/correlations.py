"""Correlations of cheap scores (proxies) with a target score over encoders.

The unit is the encoder: the scores of its seeds are averaged first. As in Ericsson et al. 2021
(https://arxiv.org/abs/2011.13377, appendix A.7), Pearson's coefficient uses scores in [0, 1] as
logits, unbounded scores unchanged, and errors with their sign changed. Pearson's coefficient of the
unchanged scores is reported, too.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np

from results.errors import ResultsError
from results.intervals import FEWEST, Coefficient, Kind, average, coefficient, difference
from results.labels import natural
from results.records import Results
from results.rendering import Table, to_csv
from results.scores import cells, choose

Name = Literal["pearson", "pearson (logit)", "spearman", "kendall"]
Values = Mapping[str, float]
"""One number per encoder."""

NAMES: tuple[Name, ...] = ("pearson", "pearson (logit)", "spearman", "kendall")
MEAN, POOLED = "mean over datasets", "average log-odds"

CLIP = 5e-4
"""Distance of scores from 0 and 1 in logits: half a sample of a test set of 1,000 images."""


ALL_PAIRS = 4
"""Number of proxies up to which all differences between them are shown."""


@dataclasses.dataclass
class Scores:
    """A protocol's scores by dataset and encoder, signed so that higher is better.

    Args:
        name: the user's name for them, e.g. ``knn:top1``.
        raw: the scores; those on dataset ``""`` are used for all datasets.
        logits: the scores, those in [0, 1] as logits.
        bounded: the datasets whose scores lie in [0, 1].
        negated: whether the scores are errors with their sign changed.
    """

    name: str
    raw: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    logits: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    bounded: set[str] = dataclasses.field(default_factory=set)
    negated: bool = False

    def on(self, dataset: str) -> tuple[Values, Values]:
        """Return raw scores and logits on a dataset."""
        key = self._key(dataset)
        return self.raw.get(key, {}), self.logits.get(key, {})

    def percent(self, dataset: str) -> float:
        """Return the factor for showing raw scores (100 for percent)."""
        return 100.0 if self._key(dataset) in self.bounded else 1.0

    def mean_logits(self, datasets: Sequence[str]) -> Values:
        """Return logits averaged over datasets, for encoders with scores on all of them."""
        columns = [self.on(dataset)[1] for dataset in datasets]
        complete = set.intersection(*(set(column) for column in columns))
        return {e: math.fsum(column[e] for column in columns) / len(columns) for e in complete}

    def _key(self, dataset: str) -> str:
        return dataset if dataset in self.raw else ""


@dataclasses.dataclass(frozen=True)
class Correlation:
    """Coefficients of a proxy, or differences of two proxies, on one dataset or over all."""

    dataset: str
    proxy: str
    target: str
    coefficients: Mapping[Name, Coefficient]
    is_difference: bool = False


def scores(results: Results, proxy: str) -> Scores:
    """Return the scores that ``protocol[:metric]`` names, seeds averaged.

    Raises:
        ResultsError: if the protocol or the metric is unknown.
    """
    protocol, metric = choose(results, proxy)
    result = Scores(proxy)
    for (encoder, dataset), cell in cells(results, protocol, metric).items():
        if cell.values and cell.row is not None:
            sign = 1.0 if cell.row.higher_is_better else -1.0
            value, bounded = cell.mean, cell.row.unit == "fraction"
            inside = min(max(value, CLIP), 1 - CLIP)
            result.negated |= sign < 0
            if bounded:
                result.bounded.add(dataset)
            logit = math.log(inside / (1 - inside)) if bounded else value
            result.raw.setdefault(dataset, {})[encoder] = sign * value
            result.logits.setdefault(dataset, {})[encoder] = sign * logit
    return result


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
    aim, sources = scores(results, target), [scores(results, proxy) for proxy in proxies]
    return correlate_scores(aim, sources)


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


def to_tables(correlations: Sequence[Correlation]) -> list[Table]:
    """Return one table of texts per dataset."""
    tables = []
    for dataset in dict.fromkeys(entry.dataset for entry in correlations):
        same = [entry for entry in correlations if entry.dataset == dataset]
        names = [name for name in NAMES if name in same[0].coefficients]
        rows = [[entry.proxy, *_cells(entry, names)] for entry in same]
        title = f"{dataset}: correlation with {same[0].target}"
        tables.append(Table(title, ["proxy", "n", *names], rows, _undefined(same)))
    return tables


def to_one_table(correlations: Sequence[Correlation]) -> Table:
    """Return all correlations as one table, for Markdown."""
    rows = [[entry.dataset, entry.proxy, *_cells(entry, NAMES)] for entry in correlations]
    title = f"Correlation with {correlations[0].target}"
    return Table(title, ["dataset", "proxy", "n", *NAMES], rows, legend(correlations), left=2)


def legend(correlations: Sequence[Correlation]) -> list[str]:
    """Return the notes that explain the numbers."""
    notes = [
        "coefficients over n encoders (seeds averaged first) with 95 % intervals; fewer than "
        f"{FEWEST} encoders are too few",
        f"logits: scores in [0, 1] as log-odds, limited to [{CLIP:.2%}, {1 - CLIP:.2%}]; errors "
        "count with their sign changed",
    ]
    if any(entry.is_difference for entry in correlations):
        notes.append("a − b: how much better a correlates than b, on the encoders that have both")
    if any(entry.dataset == MEAN for entry in correlations):
        notes.append(
            f"{MEAN}: its interval is the mean of the datasets' intervals, which holds however "
            f"the datasets depend on each other; {POOLED}: logits averaged over datasets first"
        )
    return notes + _undefined(correlations)


def to_csv_long(correlations: Sequence[Correlation]) -> str:
    """Return CSV with one row of numbers per dataset, proxy and coefficient."""
    header = ["dataset", "proxy", "target", "coefficient", "n", "value", "low", "high", "note"]
    rows: list[list[object]] = []
    for entry in correlations:
        for name, c in entry.coefficients.items():
            ends = [round(number, 6) for number in (c.value, c.low, c.high)]
            label = f"difference of {name}" if entry.is_difference else name
            rows.append([entry.dataset, entry.proxy, entry.target, label, c.n, *ends, c.note])
    return to_csv(header, rows)


def _cells(correlation: Correlation, names: Sequence[Name]) -> list[str]:
    sign = "+" if correlation.is_difference else ""
    counts = sorted({c.n for c in correlation.coefficients.values()})
    texts = [_shown(correlation.coefficients.get(name), sign) for name in names]
    return ["-".join(str(n) for n in counts), *texts]


def _shown(c: Coefficient | None, sign: str) -> str:
    if c is None:
        return "–"
    if not c:
        return c.note.split(":")[0]
    return f"{_short(c.value, sign)} [{_short(c.low)}, {_short(c.high)}]"


def _short(number: float, sign: str = "") -> str:
    """Return a coefficient in [-2, 2] as text: ``.64``, ``-.05``, ``1.00``."""
    rounded = round(number, 2) + 0.0  # no -0.00
    text = f"{rounded:{sign}.2f}"
    return text.replace("0.", ".", 1) if abs(rounded) < 1 else text


def _undefined(correlations: Sequence[Correlation]) -> list[str]:
    """Return one sentence per reason why a coefficient is undefined."""
    notes = (c.note for entry in correlations for c in entry.coefficients.values() if ":" in c.note)
    return list(dict.fromkeys(notes))
