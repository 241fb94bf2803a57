"""All figures by name, for the report and for ``python -m results plot``."""

from collections.abc import Callable
from typing import NamedTuple

from results.agreement.analysis import Analysis
from results.errors import unknown
from results.figures import agreement
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
