"""The figure of agreement: proxy against target, one panel per dataset and proxy.

Each point is an encoder. Thin bars are 95 % intervals of its scores where they are known. The title
of a panel names the dataset and gives the correlation of proxy and target with its 95 % interval.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from results.agreement.analysis import Analysis
from results.agreement.correlations import Correlation, Name
from results.agreement.scores import Scores
from results.figures.axes import (
    LEFT,
    RIGHT,
    Panel,
    Scale,
    grid_of,
    plain,
    short,
    spanning,
    spanning_log,
)
from results.figures.drawing import Box, Drawing, NotDrawn, Point
from results.figures.labels import around, draw_labels, place
from results.figures.text import common_start, split_label
from results.figures.theme import WIDTH, Theme
from results.records.labels import natural
from results.records.score_intervals import Interval

MOST_COLUMNS = 4
_LARGEST = 400.0
"""Largest width of a panel's inside in pixels."""
_MANY, _FACTOR = 5000, 20
_POINT = 3.0

Bar = tuple[float, float]
Bars = tuple[Bar | None, Bar | None]
"""The intervals of an encoder's two scores: of the proxy, and of the target."""
Intervals = Callable[[Scores, str, str], Interval | None]
"""The interval of a score: of scores, dataset and encoder, in the unit of ``Scores.raw``."""


def chart(analysis: Analysis, theme: Theme) -> Drawing:
    """Return the figure of an analysis.

    Raises:
        NotDrawn: if no encoder has both scores.
    """
    return draw(analysis.target, analysis.proxies, analysis.correlations, theme, analysis.interval)


def draw(
    target: Scores,
    proxies: Sequence[Scores],
    correlations: Sequence[Correlation],
    theme: Theme,
    intervals: Intervals = lambda scores, dataset, encoder: None,
) -> Drawing:
    """Return the figure of given scores.

    Args:
        target: scores on the vertical axes.
        proxies: scores on the horizontal axes.
        correlations: their coefficients, for the titles.
        theme: the colours.
        intervals: the interval of a score, if it is known.

    Raises:
        NotDrawn: if no encoder has both scores.
    """
    datasets = sorted((dataset for dataset in target.raw if dataset), key=natural)
    panels = [
        _Points(dataset, target, proxy, intervals)
        for dataset in datasets
        for proxy in proxies
        if proxy.on(dataset)[0].keys() & target.on(dataset)[0].keys()
    ]
    if not panels:
        raise NotDrawn("the figure of agreement needs an encoder with both scores on a dataset.")
    by_panel = {(c.dataset, c.proxy): c for c in correlations if not c.is_difference}
    columns = _columns(len(panels), len(proxies))
    inside = min(_LARGEST, (WIDTH + 100) / columns - LEFT - RIGHT)
    size = inside, 0.86 * inside
    places = _places(panels, columns)
    _, cell = grid_of(columns, 0, size)
    rows = max(places) // columns + 1
    drawing = Drawing(columns * cell[0], rows * cell[1], theme, _title(target, proxies))
    prefix = common_start([encoder for points in panels for encoder in points.encoders])
    left_out = 0
    for number, points in zip(places, panels, strict=True):
        box, _ = grid_of(columns, number, size)
        correlation = by_panel.get((points.dataset, points.proxy.name))
        left_out += points.draw(drawing, box, prefix, correlation)
    drawing.caption = _caption(prefix, left_out)
    return drawing


def _title(target: Scores, proxies: Sequence[Scores]) -> str:
    names = ", ".join(proxy.name for proxy in proxies)
    return f"Agreement of {names} with {target.name}"


def _caption(prefix: str, left_out: int) -> str:
    """Return how to read the figure, and what it leaves out."""
    sentences = [
        "Each point is an encoder; higher is better on both axes.",
        "r: Pearson's coefficient, of scores in percent on their logits; ρ: Spearman's; "
        "in brackets the 95 % interval.",
    ]
    if prefix:
        sentences.append(f"The labels lack their common start “{prefix.strip()}”.")
    if left_out:
        sentences.append(
            f"{left_out} labels are left out where they would overlap; encoders whose two ranks "
            "differ most are labelled first."
        )
    return " ".join(sentences)


def _columns(panels: int, proxies: int) -> int:
    """Return the number of columns: the proxies of a dataset stand side by side, four at most."""
    if proxies == 1:
        return min(panels, MOST_COLUMNS if panels > 6 else 3)
    return min(panels, math.ceil(proxies / math.ceil(proxies / MOST_COLUMNS)))


def _places(panels: Sequence["_Points"], columns: int) -> list[int]:
    """Return the place of each panel; a dataset of several proxies begins a new row."""
    several = len({points.proxy.name for points in panels}) > 1
    places: list[int] = []
    before = ""
    for points in panels:
        number = places[-1] + 1 if places else 0
        if several and points.dataset != before:
            number = math.ceil(number / columns) * columns
        places.append(number)
        before = points.dataset
    return places


@dataclasses.dataclass(frozen=True)
class _Points:
    """The scores of one panel, and how they are drawn."""

    dataset: str
    target: Scores
    proxy: Scores
    intervals: Intervals

    @functools.cached_property
    def encoders(self) -> list[str]:
        """The encoders with both scores."""
        both = self.proxy.on(self.dataset)[0].keys() & self.target.on(self.dataset)[0].keys()
        return sorted(both, key=natural)

    def draw(self, drawing: Drawing, box: Box, prefix: str, correlation: Correlation | None) -> int:
        """Draw the panel; return the number of labels that found no place."""
        encoders = self.encoders
        across, up = self._shown(self.proxy), self._shown(self.target)
        bars = [(self._bar(self.proxy, e), self._bar(self.target, e)) for e in encoders]
        panel = self._frame(drawing, box, correlation, bars)
        points = [panel.at(across[e], up[e]) for e in encoders]
        lines = [list(_lines(panel, p, both)) for p, both in zip(points, bars, strict=True)]
        avoid = [around(*line) for own in lines for line in own]
        texts = [split_label(e.removeprefix(prefix) or e) for e in encoders]
        importance = _disagreement(across, up, encoders)
        placed = place(points, texts, importance, box, avoid=avoid)
        for encoder, point, own, where, text in zip(
            encoders, points, lines, placed, texts, strict=True
        ):
            scores = (
                f"{self.proxy.name} {across[encoder]:.4g}, {self.target.name} {up[encoder]:.4g}"
            )
            with drawing.encoder(encoder, f"{self.dataset}, {scores}"):
                for start, end in own:
                    drawing.line(start, end, drawing.theme.muted, 0.7, opacity=0.45)
                drawing.circle(point, _POINT, drawing.theme.accent)
                draw_labels(drawing, point, where, text)
        return placed.count(None)

    def _frame(
        self, drawing: Drawing, box: Box, correlation: Correlation | None, bars: Sequence[Bars]
    ) -> Panel:
        """Draw and return the panel's frame, whose axes hold all scores and intervals."""
        ends = [[v for bar in column if bar for v in bar] for column in zip(*bars, strict=True)]
        panel = Panel(
            box,
            _scale([*self._shown(self.proxy).values(), *ends[0]], box.left, box.right),
            _scale([*self._shown(self.target).values(), *ends[1]], box.bottom, box.top),
        )
        panel.draw(
            drawing,
            titles=[self.dataset, *_coefficients(correlation)],
            x_title=self._name(self.proxy),
            y_title=self._name(self.target),
            x_text=short if panel.x.high > _MANY else plain,
            y_text=short if panel.y.high > _MANY else plain,
        )
        return panel

    def _shown(self, scores: Scores) -> Mapping[str, float]:
        """Return the scores of the panel's encoders as shown, in percent if they are bounded."""
        factor, column = scores.percent(self.dataset), scores.on(self.dataset)[0]
        return {encoder: factor * column[encoder] for encoder in self.encoders}

    def _bar(self, scores: Scores, encoder: str) -> Bar | None:
        interval = self.intervals(scores, self.dataset, encoder)
        factor = scores.percent(self.dataset)
        return None if interval is None else (factor * interval.low, factor * interval.high)

    def _name(self, scores: Scores) -> str:
        unit = " (%)" if scores.percent(self.dataset) == 100 else ""
        return f"{scores.name}{unit}{', sign changed' if scores.negated else ''}"


def _scale(values: Sequence[float], start: float, end: float) -> Scale:
    """Return a scale over values; a logarithmic one for large counts that span a factor of 20."""
    if min(values) >= 1 and max(values) > max(_MANY, _FACTOR * min(values)):
        return spanning_log(values, start, end, 0.13)
    return spanning(values, start, end, 0.13)


def _lines(panel: Panel, point: Point, bars: Bars) -> Iterator[tuple[Point, Point]]:
    """Yield the intervals of a point's two scores as lines, as far as they are known."""
    if bars[0]:
        yield (panel.x(bars[0][0]), point[1]), (panel.x(bars[0][1]), point[1])
    if bars[1]:
        yield (point[0], panel.y(bars[1][0])), (point[0], panel.y(bars[1][1]))


def _coefficients(correlation: Correlation | None) -> list[str]:
    """Return the line of coefficients below a panel's title."""
    if correlation is None:
        return []
    shown = []
    symbols: dict[Name, str] = {"pearson (logit)": "r", "spearman": "ρ"}
    for name, symbol in symbols.items():
        c = correlation.coefficients.get(name)
        if c is None:
            continue
        if not c:
            return [f"n = {c.n}: {c.note.split(':')[0]}"]
        shown.append(f"{symbol} = {c.value:.2f} [{c.low:.2f}, {c.high:.2f}]")
    return ["   ".join(shown)] if shown else []


def _disagreement(
    across: Mapping[str, float], up: Mapping[str, float], encoders: Sequence[str]
) -> list[float]:
    """Return how far the two ranks of each encoder differ; the best by the target comes first."""
    by_proxy, by_target = (
        {e: rank for rank, e in enumerate(sorted(encoders, key=lambda e: (scores[e], e)))}
        for scores in (across, up)
    )
    best = max(encoders, key=lambda e: (up[e], e))
    return [math.inf if e == best else float(abs(by_proxy[e] - by_target[e])) for e in encoders]
