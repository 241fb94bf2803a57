"""The figure of cost against agreement: what a proxy costs, and how well it predicts the target."""

import itertools
import math
from collections.abc import Mapping, Sequence

from results.agreement.analysis import Analysis
from results.agreement.choosing import front
from results.agreement.cost import Cost
from results.agreement.headline import HEADLINE, Agreement
from results.figures.axes import ABOVE, BELOW, LEFT, Panel, plain, spanning, spanning_log
from results.figures.drawing import Box, Drawing, NotDrawn, Point
from results.figures.labels import around, draw_labels, place
from results.figures.text import split_label
from results.figures.theme import TICK, Theme

_SIZE = 520.0, 320.0
_FREE = 46.0
"""Width of the strip of proxies without any cost, which a logarithmic axis cannot show."""


def chart(analysis: Analysis, theme: Theme) -> Drawing:
    """Return the figure of an analysis.

    Raises:
        NotDrawn: if no proxy has both a cost and a coefficient.
    """
    return draw(analysis.costs, analysis.agreements, analysis.target.name, theme)


def draw(
    known: Mapping[str, Cost], agreements: Sequence[Agreement], target: str, theme: Theme
) -> Drawing:
    """Return the figure of given costs and agreements.

    Args:
        known: proxy or target -> its cost; baselines have none.
        agreements: mean agreement of each proxy with the target.
        target: name of the target, whose cost is a vertical line.
        theme: the colours.

    Raises:
        NotDrawn: if no proxy has both.
    """
    seconds = {name: cost.per_cell for name, cost in known.items() if math.isfinite(cost.per_cell)}
    shown = [a for a in agreements if a.coefficient and a.proxy in seconds]
    if not any(seconds[a.proxy] > 0 for a in shown):
        raise NotDrawn(
            "the figure of cost needs a proxy with five encoders or more whose records state the "
            "time on one device."
        )
    drawing = Drawing(
        LEFT + _FREE + _SIZE[0] + 20, ABOVE + _SIZE[1] + BELOW, theme,
        f"Cost of proxies against their agreement with {target}",
        _caption(known, seconds, shown, agreements, target),
    )  # fmt: skip
    panel = _frame(drawing, seconds, shown, target)
    free = LEFT + _FREE / 2
    points = {
        a.proxy: (
            panel.x(seconds[a.proxy]) if seconds[a.proxy] > 0 else free,
            panel.y(a.coefficient.value),
        )
        for a in shown
    }
    lines = _draw_front(drawing, seconds, shown, points)
    for agreement in shown:
        x, c = points[agreement.proxy][0], agreement.coefficient
        drawing.line((x, panel.y(c.low)), (x, panel.y(c.high)), theme.muted, 0.7)
        lines.append(((x, panel.y(c.high)), (x, panel.y(c.low))))
    _draw_proxies(drawing, seconds, shown, points, [around(*line) for line in lines])
    return drawing


def _draw_proxies(
    drawing: Drawing,
    seconds: Mapping[str, float],
    shown: Sequence[Agreement],
    points: Mapping[str, Point],
    lines: Sequence[Box],
) -> None:
    """Draw the mark and the name of each proxy, hollow for those without any run."""
    theme, frame = drawing.theme, Box(LEFT, ABOVE, LEFT + _FREE + _SIZE[0], ABOVE + _SIZE[1])
    labels = [split_label(a.proxy) for a in shown]
    importance = [a.coefficient.value for a in shown]
    placed = place([points[a.proxy] for a in shown], labels, importance, frame, avoid=lines)
    for agreement, where, label in zip(shown, placed, labels, strict=True):
        if where is None:
            drawing.caption += f" Without room for its name: {agreement.proxy}."
        point, free = points[agreement.proxy], seconds[agreement.proxy] == 0
        drawing.circle(
            point, 4, theme.paper if free else theme.accent, theme.accent if free else ""
        )
        draw_labels(drawing, point, where, label)


def _frame(
    drawing: Drawing, seconds: Mapping[str, float], shown: Sequence[Agreement], target: str
) -> Panel:
    """Draw axes, the strip of proxies without cost, and the cost of the target."""
    theme = drawing.theme
    left = LEFT + _FREE
    box = Box(left, ABOVE, left + _SIZE[0], ABOVE + _SIZE[1])
    ends = [v for a in shown for v in (a.coefficient.low, a.coefficient.high)]
    times = [seconds[name] for name in (*(a.proxy for a in shown), target) if name in seconds]
    panel = Panel(
        box, spanning_log(times, box.left, box.right), spanning(ends, box.bottom, box.top, 0.04)
    )
    whole = Panel(Box(LEFT, box.top, box.right, box.bottom), panel.x, panel.y)
    whole.draw(
        drawing,
        x_title="device seconds per encoder and dataset",
        y_title=f"{HEADLINE.capitalize()} with {target}, mean over datasets",
        x_text=plain,
    )
    drawing.line((left, box.top), (left, box.bottom), theme.grid, 1.5)
    drawing.text(
        (LEFT + _FREE / 2, box.bottom + TICK + 4), "no run", TICK, theme.muted, anchor="middle"
    )
    if seconds.get(target, 0) > 0:
        x = panel.x(seconds[target])
        drawing.line((x, box.top), (x, box.bottom), theme.muted, 1, "4 3")
        drawing.text((x, box.top - 4), target, TICK, theme.muted, anchor="middle")
    return panel


def _draw_front(
    drawing: Drawing,
    seconds: Mapping[str, float],
    shown: Sequence[Agreement],
    points: Mapping[str, Point],
) -> list[tuple[Point, Point]]:
    """Join the proxies that no cheaper one matches; return the lines."""
    values = {a.proxy: a.coefficient.value for a in shown}
    steps: list[Point] = []
    for name in front({name: seconds[name] for name in values}, values):
        if steps:
            steps.append((points[name][0], steps[-1][1]))
        steps.append(points[name])
    if len(steps) > 1:
        drawing.path(steps, drawing.theme.colors[1], 1.5)
    return list(itertools.pairwise(steps))


def _caption(
    known: Mapping[str, Cost],
    seconds: Mapping[str, float],
    shown: Sequence[Agreement],
    agreements: Sequence[Agreement],
    target: str,
) -> str:
    """Return how to read the figure, and which proxies it lacks."""
    sentences = [
        "The line joins the proxies that no cheaper one matches; vertical bars are 95 % intervals. "
        "Features are counted once per protocol, however many runs use them."
    ]
    if seconds.get(target, 0) > 0:
        sentences.append(f"The dashed line is the cost of {target} itself.")
    drawn = {a.proxy for a in shown}
    missing = [a.proxy for a in agreements if a.proxy not in drawn]
    if missing:
        sentences.append(f"Without cost or coefficient, and not drawn: {', '.join(missing)}.")
    bounds = [name for name in drawn if known[name].unknown]
    if bounds:
        sentences.append(
            "The cost is a lower bound, since some records do not state it: "
            f"{', '.join(sorted(bounds))}."
        )
    return " ".join(sentences)
