"""All figures by name, for the report and for ``python -m results plot``."""

from collections.abc import Callable
from typing import NamedTuple

from results.agreement.analysis import Analysis
from results.errors import unknown
from results.figures import (
    agreement,
    correlation_map,
    cost_and_agreement,
    invariances,
    label_efficiency,
    maps,
    rank_chart,
    size,
    target_scores,
    training_curves,
)
from results.figures.drawing import Drawing
from results.figures.theme import PAPER, Theme


class Figure(NamedTuple):
    """A figure of the catalogue.

    Args:
        title: what it shows.
        needs: the results without which it is not drawn.
        chart: draws it; raises ``NotDrawn`` with a reason if the results do not allow it.
    """

    title: str
    needs: str
    chart: Callable[[Analysis, Theme], Drawing]


FIGURES = {
    "agreement": Figure(
        "Proxy against target per dataset",
        "an encoder with scores of a proxy and of the target",
        agreement.chart,
    ),
    "correlations": Figure(
        "Correlation of proxies with the target per dataset",
        "a proxy with scores",
        correlation_map.chart,
    ),
    "ranks": Figure(
        "Ranks of encoders by the target",
        "two encoders with scores on the same datasets",
        rank_chart.chart,
    ),
    "cost": Figure(
        "Cost of proxies against their agreement with the target",
        "five encoders, and records that state the time",
        cost_and_agreement.chart,
    ),
    "scores": Figure(
        "Scores of the target per dataset", "a score of the target", target_scores.chart
    ),
    "size": Figure(
        "Scores against the size of the encoder",
        "a score of the target, and the number of parameters",
        size.chart,
    ),
    "label_efficiency": Figure(
        "Scores against the number of labels",
        "an encoder with scores of one protocol for two numbers of labels",
        label_efficiency.chart,
    ),
    "training_curves": Figure("Training curves", "runs that logged a loss", training_curves.chart),
    "invariances": Figure(
        "Invariances to spatial changes and to changes of appearance",
        "runs of `synthetic_invariance` or `real_world_invariance`",
        invariances.chart,
    ),
    "invariance_and_score": Figure(
        "Invariance against the score of the target",
        "invariances, and scores of the target",
        invariances.chart_with_scores,
    ),
    "maps": Figure("t-SNE maps of frozen features", "runs of `tsne`", maps.chart),
}
"""The figures in the order of the report."""


def chart(name: str, analysis: Analysis, theme: Theme = PAPER) -> Drawing:
    """Return a figure by name.

    Raises:
        ResultsError: if the name is unknown; the message lists the known ones.
        NotDrawn: if the results do not allow the figure; the message says what is missing.
    """
    if name not in FIGURES:
        raise unknown("a figure", name, FIGURES)
    return FIGURES[name].chart(analysis, theme)
