"""The scores of one protocol and metric by dataset and encoder, as proxies and targets use them.

The unit is the encoder: the scores of its seeds are averaged first. As in Ericsson et al. 2021
(https://arxiv.org/abs/2011.13377, appendix A.7), scores in [0, 1] are available as logits,
unbounded scores unchanged, and errors with their sign changed.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

from results.agreement.specs import chosen
from results.records.cells import cells
from results.records.reading import Results

Values = Mapping[str, float]
"""One number per encoder."""


CLIP = 5e-4
"""Distance of scores from 0 and 1 in logits: half a sample of a test set of 1,000 images."""


@dataclasses.dataclass
class Scores:
    """A protocol's scores by dataset and encoder, signed so that higher is better.

    Args:
        name: the user's name for them, e.g. ``knn:top1``.
        raw: the scores; those on dataset ``""`` are used for all datasets.
        logits: the scores, those in [0, 1] as logits.
        bounded: the datasets whose scores lie in [0, 1].
        negated: whether the scores are errors with their sign changed.
        undefined: why there are no scores, if they cannot exist.
        no_mean: why scores must not be averaged over datasets, if they must not.
    """

    name: str
    raw: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    logits: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    bounded: set[str] = dataclasses.field(default_factory=set)
    negated: bool = False
    undefined: str = ""
    no_mean: str = ""

    def on(self, dataset: str) -> tuple[Values, Values]:
        """Return raw scores and logits on a dataset."""
        key = self._key(dataset)
        return self.raw.get(key, {}), self.logits.get(key, {})

    def percent(self, dataset: str) -> float:
        """Return the factor for showing raw scores (100 for percent)."""
        return 100.0 if self._key(dataset) in self.bounded else 1.0

    def mean_logits(self, datasets: Sequence[str]) -> Values:
        """Return logits averaged over datasets, for encoders with scores on all of them."""
        if self.no_mean:
            return {}
        columns = [self.on(dataset)[1] for dataset in datasets]
        complete = set.intersection(*(set(column) for column in columns))
        return {e: math.fsum(column[e] for column in columns) / len(columns) for e in complete}

    def _key(self, dataset: str) -> str:
        return dataset if dataset in self.raw else ""


def logit(score: float) -> float:
    """Return the log-odds of a score in [0, 1], which is limited to [CLIP, 1 - CLIP]."""
    inside = min(max(score, CLIP), 1 - CLIP)
    return math.log(inside / (1 - inside))


def scores(results: Results, proxy: str, others: Iterable[str] = ()) -> Scores:
    """Return the scores that a spec names, seeds averaged.

    Args:
        results: the results of all protocols.
        proxy: the protocol, the metric (by default each run's primary one) and the variants of
            datasets, see ``specs.chosen``.
        others: further names that the message for an unknown protocol lists.

    Raises:
        ResultsError: if the protocol, the metric or a variant is unknown.
    """
    results, protocol, metric = chosen(results, proxy, others)
    result = Scores(proxy)
    for (encoder, dataset), cell in cells(results, protocol, metric).items():
        if cell.values and cell.row is not None and math.isfinite(cell.mean):
            sign = 1.0 if cell.row.higher_is_better else -1.0
            value, bounded = cell.mean, cell.row.unit == "fraction"
            result.negated |= sign < 0
            if bounded:
                result.bounded.add(dataset)
            result.raw.setdefault(dataset, {})[encoder] = sign * value
            result.logits.setdefault(dataset, {})[encoder] = sign * (
                logit(value) if bounded else value
            )
    return result
