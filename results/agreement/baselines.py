"""Baselines as proxies: what is known about an encoder without any evaluation on the dataset.

A proxy is convincing only if it beats them. The static rank beats every transferability estimator
on published benchmarks (https://arxiv.org/abs/2510.06448).
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence

from results.agreement.scores import Scores, Values, logit, scores
from results.records.cells import ordered
from results.records.encoder_facts import EncoderFacts
from results.records.reading import Results
from results.statistics.intervals import FEWEST

STATIC_RANK = "static_rank"

_FACTS: dict[str, tuple[Callable[[EncoderFacts], float | None], Callable[[float], float]]] = {
    "parameters": (lambda facts: facts.parameters, math.log),
    "imagenet_top1": (lambda facts: facts.imagenet_top1, logit),
    "feature_dim": (lambda facts: facts.feature_dim, math.log),
}
"""The fact behind each baseline, and its scale for Pearson's coefficient."""

BASELINES = (STATIC_RANK, *_FACTS)
"""Names of the baselines, which a protocol of the same name would hide."""


def proxy_scores(results: Results, spec: str, target: Scores) -> Scores:
    """Return the scores of a proxy: of a protocol, or of a baseline.

    Args:
        results: the results of all protocols.
        spec: ``PROTOCOL[:METRIC][@KEY=VALUE]``, or one of ``BASELINES``.
        target: the scores that the static rank is computed from.

    Raises:
        ResultsError: if there is no such protocol, metric or baseline; the message lists all.
    """
    if spec not in BASELINES or any(row.protocol == spec for row in results.rows):
        return scores(results, spec, BASELINES)
    return static_rank(target) if spec == STATIC_RANK else fact_scores(results, spec, target)


def known_baselines(results: Results, target: Scores) -> list[str]:
    """Return the baselines that differ between enough encoders with scores of the target."""
    known = []
    for name in BASELINES:
        baseline = proxy_scores(results, name, target)
        columns = baseline.raw.values()
        if any(len(column) >= FEWEST and len(set(column.values())) > 1 for column in columns):
            known.append(name)
    return known


def static_rank(target: Scores) -> Scores:
    """Return how an encoder ranks by the target on the other datasets, as a score of each dataset.

    The score is the share of the other encoders that it beats there (ties count half), averaged
    over the other datasets on which it has a score. If all encoders have scores on all datasets,
    this orders them by their mean rank; the share makes ranks among differently many encoders
    comparable. No score of the dataset itself enters. The static rank depends on the zoo by its
    definition: an added encoder changes the scores of the others.

    Args:
        target: the target's scores; with fewer than two datasets the result is not defined.
    """
    datasets = ordered(dataset for dataset in target.raw if dataset)
    if len(datasets) < 2:
        return Scores(
            STATIC_RANK,
            undefined=f"`{STATIC_RANK}` ranks encoders by the target on the other datasets, but "
            f"`{target.name}` has scores on {len(datasets)} only",
        )
    beaten = {dataset: _beaten(target.raw[dataset]) for dataset in datasets}
    raw = {
        dataset: _mean([beaten[other] for other in datasets if other != dataset])
        for dataset in datasets
    }
    reason = f"the mean of `{STATIC_RANK}` over all datasets would contain the target itself"
    return Scores(STATIC_RANK, raw, raw, no_mean=reason)


def fact_scores(results: Results, name: str, target: Scores) -> Scores:
    """Return a fact about the target's encoders as a score of every dataset.

    Pearson's coefficient on logits takes the logarithm of a count, and the logit of an accuracy.
    """
    fact, scale = _FACTS[name]
    encoders = ordered(encoder for column in target.raw.values() for encoder in column)
    known = {encoder: fact(one) for encoder, one in results.facts_by_encoder(encoders).items()}
    raw = {encoder: float(value) for encoder, value in known.items() if value is not None}
    if not raw:
        reason = f"`{name}` must be stated for the encoders, but is unknown for all of them"
        return Scores(name, undefined=reason)
    result = Scores(name, {"": raw}, {"": {e: scale(value) for e, value in raw.items()}})
    if scale is logit:
        result.bounded.add("")
    return result


def _beaten(column: Values) -> dict[str, float]:
    """Return for each encoder the share of the others with a lower score."""
    values = list(column.values())
    if len(values) < 2:
        return {}
    return {
        encoder: (sum(other < value for other in values)
                  + (sum(other == value for other in values) - 1) / 2) / (len(values) - 1)
        for encoder, value in column.items()
    }  # fmt: skip


def _mean(columns: Sequence[Values]) -> dict[str, float]:
    """Return the mean of each encoder over the columns that hold it."""
    gathered: dict[str, list[float]] = defaultdict(list)
    for column in columns:
        for encoder, value in column.items():
            gathered[encoder].append(value)
    # Equal means must stay ties, although their sums are rounded differently.
    return {e: round(math.fsum(values) / len(values), 12) for e, values in gathered.items()}
