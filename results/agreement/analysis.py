"""Everything that a report and its figures show, computed once from results, proxies and target."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence

from results.agreement.baselines import BASELINES, known_baselines
from results.agreement.ceiling import between_seeds
from results.agreement.choosing import Choice, choices_by_scores, random_choice
from results.agreement.correlations import Correlation, correlate_scores, proxies_of
from results.agreement.cost import Cost, costs
from results.agreement.headline import HEADLINE, Agreement, agreements, mean_agreement
from results.agreement.leave_one_out import By, Influence, families_of, leave_one_out
from results.agreement.ranks import Ranking, ranks
from results.agreement.scores import Scores, scores
from results.agreement.specs import chosen, target_spec
from results.errors import ResultsError
from results.records.cells import Cells, cells, ordered
from results.records.reading import Results
from results.records.score_intervals import Interval, cell_interval
from results.statistics.estimate import Estimate
from results.statistics.intervals import FEWEST

TARGET = "finetune"


@dataclasses.dataclass(frozen=True)
class Analysis:
    """The answers to one question: which of the proxies predict the target?

    What is expensive is computed when it is first used, and kept.

    Args:
        results: the results of all protocols.
        target: the target's scores; their name is the user's, e.g. ``finetune:top1``.
        proxies: the scores of each proxy in the order in which they are shown.
    """

    results: Results
    target: Scores
    proxies: tuple[Scores, ...]

    @functools.cached_property
    def datasets(self) -> list[str]:
        """The datasets with scores of the target, in natural order."""
        return ordered(dataset for dataset in self.target.raw if dataset)

    @functools.cached_property
    def encoders(self) -> list[str]:
        """The encoders with a score of the target on any dataset, in natural order."""
        return ordered(encoder for column in self.target.raw.values() for encoder in column)

    @functools.cached_property
    def protocol(self) -> str:
        """The label of the target's protocol."""
        return chosen(self.results, self.target.name).protocol

    @property
    def too_few(self) -> bool:
        """Whether the encoders are too few for any coefficient."""
        return len(self.encoders) < FEWEST

    @functools.cached_property
    def correlations(self) -> list[Correlation]:
        """The correlation of each proxy with the target, and the differences between proxies."""
        return correlate_scores(self.target, self.proxies)

    @functools.cached_property
    def agreements(self) -> list[Agreement]:
        """The mean agreement of each proxy with the target, the best proxy first."""
        return agreements(self.correlations, self.datasets)

    @functools.cached_property
    def baselines(self) -> frozenset[str]:
        """The names of those proxies that are known without any evaluation."""
        return frozenset(p.name for p in self.proxies if is_baseline(self.results, p.name))

    @functools.cached_property
    def best(self) -> Agreement | None:
        """The proxy that agrees best, a baseline only if there is no other; None if too few."""
        known = [agreement for agreement in self.agreements if agreement.coefficient]
        measured = [one for one in known if one.proxy not in self.baselines]
        return next(iter(measured or known), None)

    @functools.cached_property
    def advantages(self) -> dict[str, Estimate]:
        """Other proxy or baseline -> how much better the best proxy agrees with the target.

        Each difference is computed on the encoders and averaged over the datasets that both have.
        """
        if self.best is None:
            return {}
        by_name = {proxy.name: proxy for proxy in self.proxies}
        best = by_name[self.best.proxy]
        differences = {}
        for agreement in self.agreements:
            if agreement.proxy != best.name:
                entries = correlate_scores(
                    self.target, [by_name[agreement.proxy], best], [HEADLINE]
                )
                label = f"{best.name} − {agreement.proxy}"
                differences[agreement.proxy] = mean_agreement(
                    entries, label, self.datasets
                ).coefficient
        return differences

    @functools.cached_property
    def ceiling(self) -> Estimate:
        """How well the target agrees with itself between seeds, on average over datasets."""
        return between_seeds(self.results, self.target.name, [HEADLINE])[-1].coefficients[HEADLINE]

    @functools.cached_property
    def influences(self) -> dict[By, list[Influence]]:
        """How the mean agreement of each proxy depends on a single encoder, and on a family.

        One encoder is left out at a time, then one family; families only if they are neither
        unknown nor all the same.
        """
        families = families_of(self.results, self.encoders)
        apart: dict[By, Mapping[str, str] | None] = {"encoder": None}
        if 1 < len(set(families.values())) < len(families):
            apart["family"] = families
        whole = {
            by: leave_one_out(self.target, self.proxies, HEADLINE, groups)
            for by, groups in apart.items()
        }
        return {by: entries[-len(self.proxies) :] for by, entries in whole.items()}

    @functools.cached_property
    def ranks(self) -> list[Ranking]:
        """The ranks of the encoders by the target, per dataset and over all datasets."""
        return ranks(self.results, self.target.name)

    @functools.cached_property
    def choices(self) -> list[Choice]:
        """What choosing by each proxy, and a random choice, gives per dataset and on average."""
        return choices_by_scores(self.target, [*self.proxies, random_choice(self.target)])

    @functools.cached_property
    def costs(self) -> dict[str, Cost]:
        """The known costs of the proxies and of the target, by name."""
        return costs(self.results, [*(proxy.name for proxy in self.proxies), self.target.name])

    def interval(self, scores: Scores, dataset: str, encoder: str) -> Interval | None:
        """Return the 95 % interval of a score in the unit and with the sign of ``Scores.raw``.

        None for a baseline, and where neither seeds nor kept predictions tell the uncertainty.
        """
        key = dataset if dataset in scores.raw else ""
        return self._intervals(scores).get((encoder, key))

    def _intervals(self, scores: Scores) -> dict[tuple[str, str], Interval]:
        """Return the known intervals of a target or proxy by encoder and dataset."""
        if scores.name not in self._known_intervals:
            self._known_intervals[scores.name] = dict(_cell_intervals(self.results, scores))
        return self._known_intervals[scores.name]

    @functools.cached_property
    def _known_intervals(self) -> dict[str, dict[tuple[str, str], Interval]]:
        return {}

    @functools.cached_property
    def cells(self) -> dict[str, Cells]:
        """The cells of the primary metric of each protocol, by the protocol's label."""
        return {label: cells(self.results, label) for label in self.results.known("protocol")}


def analyse(
    results: Results, proxies: Sequence[str] | None = None, target: str = TARGET
) -> Analysis:
    """Return the analysis of results.

    Args:
        results: the results of all protocols.
        proxies: specs of proxies (None: every other protocol with a score that the target's
            encoders and datasets share, and the known baselines).
        target: ``PROTOCOL[:METRIC]``; see ``specs.target_spec``.

    Raises:
        ResultsError: if a protocol or metric is unknown (the message lists the known ones), if a
            proxy is the target, or if the target has no score on any dataset.
    """
    aim = scores(results, target_spec(target, proxies or ()))
    if not any(aim.raw):
        raise ResultsError(f"the target must have scores on a dataset, but `{target}` has none.")
    if proxies is None:
        proxies = [*_other_protocols(results, aim), *known_baselines(results, aim)]
    return Analysis(results, aim, tuple(proxies_of(results, proxies, aim)))


def _other_protocols(results: Results, target: Scores) -> list[str]:
    """Return the label of every other protocol with a score that the target can be compared to."""
    protocol = chosen(results, target.name).protocol
    known = {(dataset, encoder) for dataset, column in target.raw.items() for encoder in column}
    # A score of the encoder itself, whose dataset is empty, holds for every dataset.
    known |= {("", encoder) for _, encoder in known}
    shared = {row.protocol for row in results.rows if (row.dataset, row.encoder) in known}
    return ordered(shared - {protocol})


def _cell_intervals(results: Results, scores: Scores) -> Iterator[tuple[tuple[str, str], Interval]]:
    """Yield encoder, dataset and interval of each cell behind scores; nothing for a baseline."""
    if is_baseline(results, scores.name):
        return
    results, protocol, metric = chosen(results, scores.name)
    for key, cell in cells(results, protocol, metric).items():
        interval = cell_interval(results, cell) if cell.values else None
        if interval is not None and cell.row is not None:
            low, high, over = interval
            upright = cell.row.higher_is_better
            yield key, interval if upright else Interval(-high, -low, over)


def is_baseline(results: Results, spec: str) -> bool:
    """Return whether a spec is a baseline rather than a protocol of the same name."""
    return spec in BASELINES and not any(row.protocol == spec for row in results.rows)
