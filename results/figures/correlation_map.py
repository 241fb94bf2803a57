"""The figure of correlations: a map of proxies and datasets with a number in every cell."""

from collections.abc import Sequence

from results.agreement.analysis import Analysis
from results.agreement.correlations import MEAN, POOLED, Correlation, Name
from results.figures.drawing import Box, Drawing, NotDrawn
from results.figures.text import shortened, width
from results.figures.theme import LABEL, TICK, TITLE, WIDTH, Theme
from results.statistics.estimate import Estimate

SHOWN: dict[Name, str] = {"spearman": "Spearman's ρ", "pearson (logit)": "Pearson's r, on logits"}
"""The coefficients of the figure, one map each."""

_CELL = 50.0, 22.0
_LONGEST = 150.0
"""Room for the names of datasets, which are written upwards, and of proxies."""
_STRONG = 0.8
"""Absolute value from which the number is written in the colour for strong cells."""


def chart(analysis: Analysis, theme: Theme) -> Drawing:
    """Return the figure of an analysis.

    Raises:
        NotDrawn: if there is no proxy.
    """
    return draw(analysis.correlations, theme)


def draw(correlations: Sequence[Correlation], theme: Theme) -> Drawing:
    """Return the figure of given correlations; differences of proxies are left out.

    Raises:
        NotDrawn: if there are no correlations.
    """
    single = [entry for entry in correlations if not entry.is_difference]
    if not single:
        raise NotDrawn("the map of correlations needs a proxy with scores, but there is none.")
    proxies = list(dict.fromkeys(entry.proxy for entry in single))
    columns = list(dict.fromkeys(entry.dataset for entry in single))
    left = min(max(width(proxy, LABEL) for proxy in proxies), _LONGEST) + 14
    head = min(max(width(_short(column), LABEL) for column in columns), _LONGEST) + 34
    size = left + len(columns) * _CELL[0] + 24, head + len(proxies) * _CELL[1] + 14
    beside = len(SHOWN) * size[0] <= WIDTH
    drawing = Drawing(
        size[0] * (len(SHOWN) if beside else 1),
        size[1] * (1 if beside else len(SHOWN)),
        theme,
        f"Correlation of proxies with {single[0].target}",
        "A number in brackets has a 95 % interval that holds 0.",
    )
    cells = {(entry.proxy, entry.dataset): entry for entry in single}
    for number, (name, title) in enumerate(SHOWN.items()):
        x, y = (number * size[0], 0.0) if beside else (0.0, number * size[1])
        drawing.text((x + 6, y + 16), title, TITLE, bold=True)
        _draw_heads(drawing, columns, x + left, y + head)
        for row, proxy in enumerate(proxies):
            top = y + head + row * _CELL[1]
            fitting = shortened(proxy, LABEL, _LONGEST)
            drawing.text((x + left - 6, top + 14), fitting, LABEL, anchor="end")
            for column, dataset in enumerate(columns):
                at = x + left + column * _CELL[0]
                box = Box(at + 0.5, top + 0.5, at + _CELL[0] - 0.5, top + _CELL[1] - 0.5)
                entry = cells.get((proxy, dataset))
                _draw_cell(drawing, box, entry.coefficients.get(name) if entry else None)
    return drawing


def _draw_heads(drawing: Drawing, columns: Sequence[str], left: float, bottom: float) -> None:
    for number, column in enumerate(columns):
        place = left + (number + 0.5) * _CELL[0] + LABEL / 3, bottom - 5
        text = shortened(_short(column), LABEL, _LONGEST)
        drawing.text(place, text, LABEL, bold=column in (MEAN, POOLED), upwards=True)


def _short(column: str) -> str:
    return {MEAN: "mean", POOLED: "log-odds"}.get(column, column)


def _draw_cell(drawing: Drawing, box: Box, coefficient: Estimate | None) -> None:
    """Draw a coefficient as a colour and a number, or the reason why there is none."""
    theme = drawing.theme
    drawing.rectangle(box, theme.neutral)
    middle = (box.left + box.right) / 2, (box.top + box.bottom) / 2 + TICK / 3
    if not coefficient:
        reason = "–" if coefficient is None else coefficient.note.split(":")[0]
        drawing.text(middle, reason, 7.5, theme.muted, anchor="middle")
        return
    value = coefficient.value
    end = theme.positive if value > 0 else theme.negative
    drawing.rectangle(box, end, min(abs(value), 1.0))
    uncertain = coefficient.low <= 0 <= coefficient.high
    shown = f"({value:.2f})" if uncertain else f"{value:.2f}"
    color = theme.on_strong if abs(value) >= _STRONG else theme.ink
    drawing.text(middle, shown, TICK, color, anchor="middle")
