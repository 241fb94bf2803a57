"""Panels that share one row per encoder: dots with intervals, or bars."""

import dataclasses
from collections.abc import Mapping, Sequence

from results.figures.axes import Panel, Scale, spanning
from results.figures.drawing import Box, Drawing
from results.figures.text import shortened, width
from results.figures.theme import AXIS, LABEL, TITLE, WIDTH, Theme

ROW = 14.0
"""Height of a row in pixels."""
_PANEL, _LEAST, _GAP = 190.0, 118.0, 26.0
"""Widest and narrowest inside of a panel, and the distance of two panels, in pixels."""
_ABOVE, _BELOW = 30.0, 44.0
_NAMES = 250.0
"""Room for names, which are shortened if they are longer."""

Interval = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class RowPanel:
    """One panel: a number per encoder.

    Args:
        title: the panel's title, which may have a second line for its group.
        axis: title of the horizontal axis.
        values: number of each encoder; those without one have an empty row.
        intervals: 95 % intervals, as far as they are known.
        bars: whether numbers are bars from 0 rather than dots.
        color: number of the categorical colour; None for the accent.
        span: numbers that the axis must hold, too, so that panels can share a range.
    """

    title: str
    axis: str
    values: Mapping[str, float]
    intervals: Mapping[str, Interval] = dataclasses.field(default_factory=dict)
    bars: bool = False
    color: int | None = None
    span: Sequence[float] = ()

    def scale(self, start: float, end: float) -> Scale:
        """Return the horizontal scale; that of bars holds 0."""
        ends = [v for interval in self.intervals.values() for v in interval]
        numbers = [*self.values.values(), *ends, *self.span, *([0.0] if self.bars else [])]
        return spanning(numbers, start, end)


def draw_rows(
    panels: Sequence[RowPanel], encoders: Sequence[str], theme: Theme, title: str, caption: str
) -> Drawing:
    """Return a figure of panels whose rows are the encoders from above to below.

    Args:
        panels: the panels, side by side in as many lines as they need.
        encoders: labels of the encoders.
        theme: the colours.
        title: what the figure shows.
        caption: how to read it.
    """
    names = min(max(width(encoder, LABEL) for encoder in encoders), _NAMES) + 12
    columns = min(len(panels), max(1, int((WIDTH - names) // (_LEAST + _GAP))))
    inside = min(_PANEL, (WIDTH - names) / columns - _GAP)
    lines = -(-len(panels) // columns)
    height = len(encoders) * ROW
    drawing = Drawing(
        names + columns * (inside + _GAP), lines * (height + _ABOVE + _BELOW), theme, title, caption
    )
    for line in range(lines):
        top = line * (height + _ABOVE + _BELOW) + _ABOVE
        _draw_names(drawing, encoders, names - 8, top)
        for column, panel in enumerate(panels[line * columns : (line + 1) * columns]):
            left = names + column * (inside + _GAP)
            _draw_panel(drawing, panel, encoders, Box(left, top, left + inside, top + height))
    return drawing


def _draw_names(drawing: Drawing, encoders: Sequence[str], right: float, top: float) -> None:
    for number, encoder in enumerate(encoders):
        with drawing.encoder(encoder):
            place = right, top + (number + 0.5) * ROW + LABEL / 3
            drawing.text(place, shortened(encoder, LABEL, _NAMES), LABEL, anchor="end")


def _draw_panel(drawing: Drawing, panel: RowPanel, encoders: Sequence[str], box: Box) -> None:
    theme = drawing.theme
    frame = Panel(box, panel.scale(box.left, box.right), Scale(0, 1, box.top, box.bottom))
    frame.draw(drawing, y_text=None)
    room = box.right - box.left + _GAP - 6
    drawing.text(
        (box.left, box.top - 10), shortened(panel.title, TITLE * 1.09, room), TITLE, bold=True
    )
    middle = (box.left + box.right) / 2
    drawing.text(
        (middle, box.bottom + 28), shortened(panel.axis, AXIS, room), AXIS, anchor="middle"
    )
    color = theme.accent if panel.color is None else theme.color(panel.color)
    for number, encoder in enumerate(encoders):
        if encoder not in panel.values:
            continue
        value, interval = panel.values[encoder], panel.intervals.get(encoder)
        at, y = frame.x(value), box.top + (number + 0.5) * ROW
        shown = f"{value:.4g}" + (f" [{interval[0]:.4g}, {interval[1]:.4g}]" if interval else "")
        with drawing.encoder(encoder, f"{panel.title} {shown}"):
            if panel.bars:
                zero = frame.x(0.0)
                drawing.rectangle(Box(min(zero, at), y - 4, max(zero, at), y + 4), color)
            if interval:
                ends = frame.x(interval[0]), frame.x(interval[1])
                line = theme.muted if panel.bars else color
                drawing.line((ends[0], y), (ends[1], y), line, 1.2)
            if not panel.bars:
                drawing.circle((at, y), 3, color)
