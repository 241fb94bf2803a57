"""Does a cheap score tell which encoder will be best? Correlations of proxies with a target.

The unit is the encoder: its seeds are averaged first, and two encoders never are. As in Ericsson
et al. 2021 (https://arxiv.org/abs/2011.13377, appendix A.7), scores in [0, 1] enter Pearson's
coefficient as logits, unbounded ones as they are, and errors with their sign changed; Pearson on
the scores as they are is given beside it.
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
"""Scores enter logits no nearer to 0 or 1 than half a sample of a test set of 1,000."""


@dataclasses.dataclass
class Scores:
    """A protocol's scores by dataset, then encoder, signed so that more is better.

    Args:
        name: what the user called them.
        raw: the scores; those on dataset ``""`` serve all datasets.
        logits: the same, bounded ones on the scale of logits.
        bounded: the datasets whose scores lie in [0, 1].
        negated: whether they are errors, whose sign was changed.
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
        """Return by what to multiply raw scores to show them."""
        return 100.0 if self._key(dataset) in self.bounded else 1.0

    def mean_logits(self, datasets: Sequence[str]) -> Values:
        """Return logits averaged over datasets, for encoders that have them all."""
        columns = [self.on(dataset)[1] for dataset in datasets]
        complete = set.intersection(*(set(column) for column in columns))
        return {e: math.fsum(column[e] for column in columns) / len(columns) for e in complete}

    def _key(self, dataset: str) -> str:
        return dataset if dataset in self.raw else ""


@dataclasses.dataclass(frozen=True)
class Correlation:
    """How one proxy, or one against another, goes with the target on a dataset or over all."""

    dataset: str
    proxy: str
    target: str
    coefficients: Mapping[Name, Coefficient]
    is_difference: bool = False


def scores(results: Results, proxy: str) -> Scores:
    """Return the scores that ``protocol[:metric]`` names, seeds averaged.

    Raises:
        ResultsError: if there are none.
    """
    protocol, metric = choose(results, proxy)
    found = Scores(proxy)
    for (encoder, dataset), cell in cells(results, protocol, metric).items():
        if cell.values and cell.row is not None:
            sign = 1.0 if cell.row.higher_is_better else -1.0
            value, bounded = cell.mean, cell.row.unit == "fraction"
            inside = min(max(value, CLIP), 1 - CLIP)
            found.negated |= sign < 0
            if bounded:
                found.bounded.add(dataset)
            logit = math.log(inside / (1 - inside)) if bounded else value
            found.raw.setdefault(dataset, {})[encoder] = sign * value
            found.logits.setdefault(dataset, {})[encoder] = sign * logit
    return found


def correlate(results: Results, proxies: Sequence[str], target: str) -> list[Correlation]:
    """Return how each proxy correlates with the target, and how much better than another.

    For each dataset that has the target; then the mean over these datasets; then the coefficient
    of logits averaged over datasets. Two proxies are compared on the encoders they share.

    Raises:
        ResultsError: for an unknown protocol or metric, or a proxy that is the target.
    """
    if target in proxies:
        raise ResultsError(f"a proxy must differ from the target, but both are `{target}`.")
    aim, sources = scores(results, target), [scores(results, proxy) for proxy in proxies]
    return correlate_scores(aim, sources)


def correlate_scores(target: Scores, proxies: Sequence[Scores]) -> list[Correlation]:
    """Do what ``correlate`` says with scores at hand."""
    datasets = sorted((dataset for dataset in target.raw if dataset), key=natural)
    if not datasets:
        raise ResultsError(
            f"the target must have scores on a dataset, but `{target.name}` has none."
        )
    found = []
    for dataset in datasets:
        pairs = {proxy.name: proxy.on(dataset) for proxy in proxies}
        found += list(_compare(dataset, target.name, target.on(dataset), pairs))
    if len(datasets) > 1:
        found += list(_means(found))
        none: Values = {}
        pooled = {proxy.name: (none, proxy.mean_logits(datasets)) for proxy in proxies}
        goal = none, target.mean_logits(datasets)
        found += list(_compare(POOLED, target.name, goal, pooled))
    return found


def _compare(
    dataset: str,
    target_name: str,
    target: tuple[Values, Values],
    proxies: Mapping[str, tuple[Values, Values]],
) -> Iterator[Correlation]:
    """Yield each proxy's correlations, then the differences between proxies."""
    for name, proxy in proxies.items():
        yield Correlation(
            dataset,
            name,
            target_name,
            {
                one: _coefficient(goal, source, kind)
                for one, kind, goal, source in _inputs(dataset, target, proxy)
            },
        )
    for (base_name, base), (name, proxy) in itertools.combinations(proxies.items(), 2):
        with_base = _inputs(dataset, target, base)
        yield Correlation(
            dataset,
            f"{name} − {base_name}",
            target_name,
            {
                one: _difference(goal, source, other, kind)
                for (one, kind, goal, source), (_, _, _, other) in zip(
                    _inputs(dataset, target, proxy), with_base, strict=True
                )
            },
            is_difference=True,
        )


def _inputs(
    dataset: str, target: tuple[Values, Values], proxy: tuple[Values, Values]
) -> list[tuple[Name, Kind, Values, Values]]:
    """Return what each coefficient is computed from."""
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


def _means(found: Sequence[Correlation]) -> Iterator[Correlation]:
    for proxy in dict.fromkeys(one.proxy for one in found):
        same = [one for one in found if one.proxy == proxy]
        means = {name: average([one.coefficients[name] for one in same]) for name in NAMES}
        yield dataclasses.replace(same[0], dataset=MEAN, coefficients=means)


def to_tables(found: Sequence[Correlation]) -> list[Table]:
    """Return one table per dataset, as texts to read."""
    tables = []
    for dataset in dict.fromkeys(one.dataset for one in found):
        same = [one for one in found if one.dataset == dataset]
        names = [name for name in NAMES if name in same[0].coefficients]
        rows = [[one.proxy, *_cells(one, names)] for one in same]
        title = f"{dataset}: correlation with {same[0].target}"
        tables.append(Table(title, ["proxy", "n", *names], rows, _undefined(same)))
    return tables


def to_one_table(found: Sequence[Correlation]) -> Table:
    """Return everything as one table, for Markdown."""
    rows = [[one.dataset, one.proxy, *_cells(one, NAMES)] for one in found]
    title = f"Correlation with {found[0].target}"
    return Table(title, ["dataset", "proxy", "n", *NAMES], rows, legend(found), left=2)


def legend(found: Sequence[Correlation]) -> list[str]:
    """Return what a reader must know about the numbers."""
    notes = [
        "coefficients over n encoders (seeds averaged first) with 95 % intervals; fewer than "
        f"{FEWEST} encoders are too few",
        f"logits: scores in [0, 1] as log-odds, limited to [{CLIP:.2%}, {1 - CLIP:.2%}]; errors "
        "count with their sign changed",
    ]
    if any(one.is_difference for one in found):
        notes.append("a − b: how much better a correlates than b, on the encoders that have both")
    if any(one.dataset == MEAN for one in found):
        notes.append(
            f"{MEAN}: its interval is the mean of the datasets' intervals, which holds however "
            f"the datasets depend on each other; {POOLED}: logits averaged over datasets first"
        )
    return notes + _undefined(found)


def to_csv_long(found: Sequence[Correlation]) -> str:
    """Return one row per dataset, proxy and coefficient, as numbers to compute with."""
    header = ["dataset", "proxy", "target", "coefficient", "n", "value", "low", "high", "note"]
    rows: list[list[object]] = []
    for one in found:
        for name, c in one.coefficients.items():
            ends = [round(number, 6) for number in (c.value, c.low, c.high)]
            label = f"difference of {name}" if one.is_difference else name
            rows.append([one.dataset, one.proxy, one.target, label, c.n, *ends, c.note])
    return to_csv(header, rows)


def _cells(one: Correlation, names: Sequence[Name]) -> list[str]:
    sign = "+" if one.is_difference else ""
    counts = sorted({c.n for c in one.coefficients.values()})
    texts = [_shown(one.coefficients.get(name), sign) for name in names]
    return ["-".join(str(n) for n in counts), *texts]


def _shown(c: Coefficient | None, sign: str) -> str:
    if c is None:
        return "–"
    if not c:
        return c.note.split(":")[0]
    return f"{_short(c.value, sign)} [{_short(c.low)}, {_short(c.high)}]"


def _short(number: float, sign: str = "") -> str:
    """Return a number in [-2, 2] as coefficients are written: ``.64``, ``-.05``, ``1.00``."""
    rounded = round(number, 2) + 0.0  # no -0.00
    text = f"{rounded:{sign}.2f}"
    return text.replace("0.", ".", 1) if abs(rounded) < 1 else text


def _undefined(found: Sequence[Correlation]) -> list[str]:
    """Return one sentence per reason why a coefficient is undefined."""
    notes = (c.note for one in found for c in one.coefficients.values() if ":" in c.note)
    return list(dict.fromkeys(notes))
