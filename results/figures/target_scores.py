"""The figure of the target's scores: one panel per dataset, one row per encoder."""

import math
import statistics

from results.agreement.analysis import Analysis
from results.agreement.scores import Scores
from results.figures.drawing import Drawing, NotDrawn
from results.figures.rows import RowPanel, draw_rows
from results.figures.theme import Theme
from results.records.labels import natural


def chart(analysis: Analysis, theme: Theme) -> Drawing:
    """Return the figure; encoders stand in the order of their mean scores.

    Raises:
        NotDrawn: if the target has no scores.
    """
    target = analysis.target
    if not analysis.datasets:
        raise NotDrawn("the figure of scores needs a score of the target, but there is none.")
    panels = [_panel(analysis, dataset) for dataset in analysis.datasets]
    encoders = sorted(
        analysis.encoders, key=lambda encoder: (-_mean(target, encoder), natural(encoder))
    )
    known = any(panel.intervals for panel in panels)
    caption = "Encoders stand in the order of their mean over datasets, the best first." + (
        " Lines are 95 % intervals." if known else ""
    )
    return draw_rows(panels, encoders, theme, f"Scores of {target.name}", caption)


def _panel(analysis: Analysis, dataset: str) -> RowPanel:
    target = analysis.target
    factor, scores = target.percent(dataset), target.on(dataset)[0]
    intervals = {encoder: analysis.interval(target, dataset, encoder) for encoder in scores}
    unit = " (%)" if factor == 100 else ""
    sign = ", sign changed" if target.negated else ""
    return RowPanel(
        title=dataset,
        axis=f"{target.name}{unit}{sign}",
        values={encoder: factor * value for encoder, value in scores.items()},
        intervals={e: (factor * i.low, factor * i.high) for e, i in intervals.items() if i},
    )


def _mean(target: Scores, encoder: str) -> float:
    """Return an encoder's mean deviation from the mean of each dataset that it has a score on."""
    deviations = [
        column[encoder] - statistics.fmean(column.values())
        for column in target.raw.values()
        if encoder in column
    ]
    return statistics.fmean(deviations) if deviations else -math.inf
