"""The figures of a report; large ones are drawn in parts, so that each fits on a sheet of paper."""

import dataclasses
import math
from collections.abc import Iterator

from results.agreement.analysis import Analysis
from results.agreement.scores import Scores
from results.figures import agreement
from results.figures.catalogue import FIGURES
from results.figures.drawing import Drawing
from results.figures.theme import PAGE
from results.records.score_intervals import Interval

MOST_RUNS = 1000
"""Number of runs up to which the intervals of proxies are drawn."""


def drawn(name: str, analysis: Analysis) -> Iterator[Drawing]:
    """Yield the parts of a figure of the catalogue.

    Raises:
        NotDrawn: if the results do not allow the figure; the message says what is missing.
    """
    if name == "agreement":
        yield from _agreement(analysis)
    else:
        yield FIGURES[name].chart(analysis, PAGE)


def _agreement(analysis: Analysis) -> Iterator[Drawing]:
    """Yield the figure of agreement for a few datasets after the other."""
    proxies = [proxy for proxy in analysis.proxies if proxy.raw]
    intervals = _intervals(analysis)
    size = _datasets_of_a_part(len(proxies))
    for start in range(0, len(analysis.datasets), size):
        target = _restricted(analysis.target, analysis.datasets[start : start + size])
        yield agreement.draw(target, proxies, analysis.correlations, PAGE, intervals)


def _datasets_of_a_part(proxies: int) -> int:
    """Return how many datasets fit on a sheet, which holds one row of panels more than columns.

    A single proxy has three datasets side by side; several ones begin a row with each dataset.
    """
    if proxies < 2:
        return 12
    rows = math.ceil(proxies / agreement.MOST_COLUMNS)
    columns = math.ceil(proxies / rows)
    return max(1, (columns + 1) // rows)


def _intervals(analysis: Analysis) -> agreement.Intervals:
    """Return the intervals of scores; of large sweeps those of the target alone.

    The interval of a run whose predictions are read for the first time takes a tenth of a second.
    """
    runs = {row.run_id for row in analysis.results.rows}

    def interval(scores: Scores, dataset: str, encoder: str) -> Interval | None:
        if scores.name != analysis.target.name and len(runs) > MOST_RUNS:
            return None
        return analysis.interval(scores, dataset, encoder)

    return interval


def _restricted(scores: Scores, datasets: list[str]) -> Scores:
    """Return the scores on some datasets."""
    raw, logits = (
        {dataset: column[dataset] for dataset in datasets} for column in (scores.raw, scores.logits)
    )
    return dataclasses.replace(scores, raw=raw, logits=logits)
