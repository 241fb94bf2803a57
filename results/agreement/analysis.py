"""Everything that a report and its figures show, computed once from results, proxies and target."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence

from results.agreement.correlations import Correlation, correlate_scores
from results.agreement.headline import Agreement, agreements, mean_agreement
from results.agreement.scores import Scores, scores
from results.errors import ResultsError
from results.records.cells import Cells, cells, choose, ordered
from results.records.reading import Results
from results.statistics.intervals import FEWEST, Coefficient

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
    def advantages(self) -> dict[str, Coefficient]:
        """Other proxy -> how much better the best proxy agrees with the target.

        Each difference is computed on the encoders and averaged over the datasets that both
        proxies have.
        """
        by_name = {proxy.name: proxy for proxy in self.proxies}
        best, *others = [by_name[agreement.proxy] for agreement in self.agreements]
        differences = {}
        for other in others:
            entries = correlate_scores(self.target, [other, best])
            label = f"{best.name} − {other.name}"
            differences[other.name] = mean_agreement(entries, label, self.datasets).coefficient
        return differences

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
            encoders and datasets share).
        target: ``PROTOCOL[:METRIC]``.

    Raises:
        ResultsError: if a protocol or metric is unknown (the message lists the known ones), if a
            proxy is the target, or if the target has no score on any dataset.
    """
    target_scores = scores(results, target)
    if not any(target_scores.raw):
        raise ResultsError(f"the target must have scores on a dataset, but `{target}` has none.")
    if proxies is None:
        proxies = list(_default_proxies(results, target_scores))
    elif target in proxies:
        raise ResultsError(f"a proxy must differ from the target, but both are `{target}`.")
    unique = dict.fromkeys(proxies)
    return Analysis(results, target_scores, tuple(scores(results, proxy) for proxy in unique))


def _default_proxies(results: Results, target: Scores) -> Iterator[str]:
    """Yield the label of every other protocol with a score that the target can be compared to."""
    protocol, _ = choose(results, target.name)
    known = {(dataset, encoder) for dataset, column in target.raw.items() for encoder in column}
    # A score of the encoder itself, whose dataset is empty, holds for every dataset.
    known |= {("", encoder) for _, encoder in known}
    shared = {row.protocol for row in results.rows if (row.dataset, row.encoder) in known}
    yield from ordered(shared - {protocol})
