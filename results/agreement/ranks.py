"""Ranks of encoders by a target's scores, per dataset and over all, with their uncertainty.

The best encoder has rank 1; equal scores share their mean rank. Ranks have intervals where the
scores of all encoders have one: from kept predictions, from several seeds, or from both. Encoders
on the same test images share their resamples, so that their differences are paired.

Simulated coverage (``benchmarks/rank_coverage.py``: 100 and 500 test images, 1 and 3 seeds, 50 to
200 simulations each):

* At 6 and 13 encoders the interval of a rank holds the true one in 98-100 %, that of the mean rank
  over four datasets in 100 %. A bootstrap of ranks over images holds it in 84-100 %.
* Mean width in ranks on 500 images: at 6 encoders 1.9 if their accuracies spread by 5 points, 3.1
  if pairs of them are equal and spread by 3 points, 4.9 if all are equal; at 13 encoders 5.7, 8.5
  and 11.9. Over three seeds 1.6, 2.9 and 4.9; 5.2, 8.2 and 11.9. Four datasets: as wide.
* Letters tell no equal pair apart in 93-100 % (90 % for 13 equal encoders on 100 images).
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from results.agreement.scores import CLIP
from results.agreement.specs import chosen
from results.records.cells import Cell, cells, ordered
from results.records.reading import Results
from results.records.replicates import independent_seed
from results.records.score_intervals import Spread, cell_spread
from results.statistics.bootstrap import RESAMPLES
from results.statistics.moderated import moderated
from results.statistics.rank_intervals import Floats, Sampled, letters, rank_bounds, told_apart
from results.statistics.rank_intervals import ranks as rank_scores

Table = Mapping[tuple[str, str], Cell]
"""Cells by encoder and dataset."""
Spreads = Mapping[tuple[str, str], Spread | None]
"""Sampling errors by encoder and dataset; None where they are unknown."""

OVERALL = "all datasets"
"""What stands for the dataset in the ranking by mean rank."""


@dataclasses.dataclass(frozen=True)
class Rank:
    """The rank of an encoder, or its mean rank over datasets.

    Args:
        encoder: label of the encoder.
        rank: from 1, the best; a mean rank need not be whole.
        low: the best rank of the 95 % interval; None where the uncertainty is unknown.
        high: the worst rank of the interval.
        group: letters; encoders that share one cannot be told apart. Empty if unknown.
    """

    encoder: str
    rank: float
    low: float | None
    high: float | None
    group: str


@dataclasses.dataclass(frozen=True)
class Ranking:
    """The ranks on one dataset or over all.

    Args:
        dataset: label of the dataset, or ``OVERALL``.
        ranks: one per encoder, the best first.
        left_out: encoders with scores elsewhere that have none here.
        note: what the intervals are over, or why there are none.
        target: what the ranks are by, ``PROTOCOL[:METRIC]``.
    """

    dataset: str
    ranks: list[Rank]
    left_out: list[str] = dataclasses.field(default_factory=list)
    note: str = ""
    target: str = ""


@dataclasses.dataclass(frozen=True)
class _Column:
    """The scores of encoders on one dataset, or their means over datasets, with their errors.

    Args:
        scores: one per encoder, higher being better ``[E]``.
        common: deviations over resamples of the test images ``[E, RESAMPLES]``.
        own: deviations over seeds, which encoders do not share ``[E, RESAMPLES]``.
        twice: part of the variance of ``common`` that ``own`` holds as well ``[E]``.
        added: variance that each encoder adds to its differences from others ``[E]``: that over
            seeds, and for the discreteness of scores half of ``1 / units ** 2``, as if a pair of
            encoders had one image more that only the one gets right, and one that only the other
            does (Agresti and Min 2005, https://doi.org/10.1002/sim.1781).
    """

    scores: Floats
    common: Floats
    own: Floats
    twice: Floats
    added: Floats

    def sampled(self) -> Sampled:
        """Return the scores with deviations, and the standard errors of their differences."""
        covariances = np.atleast_2d(np.cov(self.common))
        of_common = _sums(covariances.diagonal()) - 2 * covariances
        images = np.maximum(of_common - _sums(self.twice), 0.0)
        ratio = np.divide(images, of_common, out=np.zeros_like(images), where=of_common > 0)
        errors = np.sqrt(images + _sums(self.added))
        return Sampled(self.scores, self.common, self.own, np.sqrt(ratio), errors)

    def as_logits(self, sign: float) -> "_Column":
        """Return the column on the scale of logits, with deviations to first order."""
        scores = np.clip(sign * self.scores, CLIP, 1 - CLIP)
        slope = 1 / (scores * (1 - scores))
        logits = sign * np.log(scores / (1 - scores))
        common, own = slope[:, None] * self.common, slope[:, None] * self.own
        return _Column(logits, common, own, slope**2 * self.twice, slope**2 * self.added)


def _sums(values: Floats) -> Floats:
    """Return the sums of pairs ``[E, E]``."""
    return values[:, None] + values[None, :]


def ranks(results: Results, target: str) -> list[Ranking]:
    """Return the ranking on each dataset, and by mean rank over all datasets if there are several.

    Args:
        results: the results.
        target: ``PROTOCOL[:METRIC]``.

    Raises:
        ResultsError: if the protocol or the metric is unknown.
    """
    results, protocol, metric = chosen(results, target)
    table = {key: cell for key, cell in cells(results, protocol, metric).items() if cell.values}
    # Runs of one dataset follow each other, since they share the resamples of its test images.
    by_dataset = sorted(table, key=lambda key: (key[1], key[0]))
    spreads = {key: cell_spread(results, table[key]) for key in by_dataset}
    return [dataclasses.replace(one, target=target) for one in rankings(table, spreads)]


def rankings(table: Table, spreads: Spreads) -> list[Ranking]:
    """Return the ranking on each dataset, and by mean rank over all datasets if there are several.

    Args:
        table: the cells with scores, by encoder and dataset.
        spreads: the sampling error of each cell, as far as it is known.
    """
    encoders = ordered(encoder for encoder, _ in table)
    datasets = ordered(dataset for _, dataset in table)
    each = []
    for dataset in datasets:
        here = [encoder for encoder in encoders if (encoder, dataset) in table]
        each.append(_on(dataset, here, encoders, table, spreads))
    if len(datasets) > 1:
        complete = [e for e in encoders if all((e, dataset) in table for dataset in datasets)]
        each.append(_over_all(datasets, complete, encoders, table, spreads))
    return each


def _on(
    dataset: str, here: Sequence[str], encoders: Sequence[str], table: Table, spreads: Spreads
) -> Ranking:
    """Return the ranking on one dataset."""
    keys = [(encoder, dataset) for encoder in here]
    column = _column(keys, table, spreads)
    left_out = [encoder for encoder in encoders if encoder not in here]
    places, note = rank_scores(column.scores), _note(keys, spreads)
    if not _known(keys, spreads):
        return _ranking(dataset, here, places, None, None, left_out, note)
    sampled = column.sampled()
    return _ranking(dataset, here, places, rank_bounds(sampled), sampled, left_out, note)


def _over_all(
    datasets: Sequence[str],
    complete: Sequence[str],
    encoders: Sequence[str],
    table: Table,
    spreads: Spreads,
) -> Ranking:
    """Return the ranking by mean rank over datasets.

    The interval is the mean of the intervals on the datasets. Pairs are told apart by the mean
    difference of their scores, those in [0, 1] as logits.
    """
    left_out = [encoder for encoder in encoders if encoder not in complete]
    keys = [(encoder, dataset) for dataset in datasets for encoder in complete]
    columns = [_column([(e, d) for e in complete], table, spreads) for d in datasets]
    places = np.mean([rank_scores(column.scores) for column in columns], axis=0)
    note = _note(keys, spreads)
    if not complete or not _known(keys, spreads):
        return _ranking(OVERALL, complete, places, None, None, left_out, note)
    bounds = [rank_bounds(column.sampled()) for column in columns]
    low, high = np.mean(bounds, axis=0)
    scaled = []
    for dataset, column in zip(datasets, columns, strict=True):
        row = table[complete[0], dataset].row
        bounded = row is not None and row.unit == "fraction"
        sign = 1.0 if row is None or row.higher_is_better else -1.0
        scaled.append(column.as_logits(sign) if bounded else column)
    mean = _Column(
        np.mean([one.scores for one in scaled], axis=0),
        np.mean([one.common for one in scaled], axis=0),
        np.mean([one.own for one in scaled], axis=0),
        np.sum([one.twice for one in scaled], axis=0) / len(scaled) ** 2,
        np.sum([one.added for one in scaled], axis=0) / len(scaled) ** 2,
    )
    return _ranking(OVERALL, complete, places, (low, high), mean.sampled(), left_out, note)


def _column(keys: Sequence[tuple[str, str]], table: Table, spreads: Spreads) -> _Column:
    """Return the scores of some cells of one dataset.

    Few seeds tell little about an encoder's variance over seeds, so that the variances of all
    encoders are moderated by each other.
    """
    count = len(keys)
    scores, twice, added = np.zeros((3, count))
    common, own = np.zeros((2, count, RESAMPLES))
    for place, key in enumerate(keys):
        row, spread = table[key].row, spreads[key]
        sign = 1.0 if row is None or row.higher_is_better else -1.0
        scores[place] = sign * table[key].mean
        if spread is not None and spread.deviations is not None:
            common[place] = sign * spread.deviations
            twice[place], added[place] = spread.twice, 0.5 / spread.units**2
    seeds = np.array([len(table[key].values) for key in keys])
    of_means = np.array([0.0 if (one := spreads[key]) is None else one.seeds for key in keys])
    variances, degrees = moderated(of_means * seeds, seeds - 1)
    for place, key in enumerate(keys):
        if variances[place] > 0:
            added[place] += variances[place] / seeds[place]
            draws = _seed_draws(key, float(degrees[place]))
            own[place] = math.sqrt(variances[place] / seeds[place]) * draws
    return _Column(scores, common, own, twice, added)


def _seed_draws(key: tuple[str, str], degrees: float) -> Floats:
    """Return draws of Student's t from a seed that is a function of the cell's labels alone."""
    generator = np.random.default_rng(independent_seed(*key))
    return generator.standard_t(degrees, RESAMPLES)


def _known(keys: Sequence[tuple[str, str]], spreads: Spreads) -> bool:
    return all(spreads[key] is not None for key in keys)


def _note(keys: Sequence[tuple[str, str]], spreads: Spreads) -> str:
    """Return what the intervals are over, or which encoders prevent them."""
    unknown = ordered(encoder for encoder, _ in keys if spreads[encoder, _] is None)
    if unknown:
        whose = "any encoder" if len(unknown) == len({e for e, _ in keys}) else ", ".join(unknown)
        return (
            "ranks have no interval: one seed without kept predictions says nothing about the "
            f"uncertainty of {whose}"
        )
    over = sorted({spread.over for spread in map(spreads.get, keys) if spread is not None})
    return f"intervals are over {'; '.join(over)}" if over else ""


def _ranking(
    dataset: str,
    encoders: Sequence[str],
    places: Floats,
    bounds: tuple[Floats, Floats] | None,
    sampled: Sampled | None,
    left_out: list[str],
    note: str,
) -> Ranking:
    order = sorted(range(len(encoders)), key=lambda place: (places[place], place))
    group = [""] * len(encoders)
    if sampled is not None:
        group = letters(told_apart(sampled), order)
    entries = [
        Rank(
            encoders[i],
            float(places[i]),
            None if bounds is None else float(bounds[0][i]),
            None if bounds is None else float(bounds[1][i]),
            group[i],
        )
        for i in order
    ]
    return Ranking(dataset, entries, left_out, note)
