"""The figure of scores against the size of the encoder, one curve per construction."""

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import NamedTuple

from results.agreement.analysis import Analysis
from results.agreement.scores import Scores
from results.agreement.specs import chosen
from results.figures.axes import (
    ABOVE,
    BELOW,
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
from results.figures.drawing import Box, Drawing, NotDrawn
from results.figures.drawing import Point as Pixel
from results.figures.labels import along, around, draw_labels, place
from results.figures.legend import Legend
from results.figures.text import common_start, split_label
from results.figures.theme import WIDTH, Theme
from results.records.reading import Results
from results.tables.size_curves import AXES, CONSTRUCTIONS, SEVERAL, Point, in_order, points

_INSIDE, _COLUMNS = 320.0, 3
_MOST_NAMED = 40
"""Number of single networks in a panel up to which they are named."""


class _Style(NamedTuple):
    color: int | None
    """Number of the categorical colour; None for the ink."""
    marker: str
    line: str
    numbered: bool = False
    """Whether the number of networks stands beside each point."""


_STYLES = {
    "single": _Style(None, "circle", ""),
    "wide": _Style(0, "square", "solid"),
    "wide_sub": _Style(0, "square", "dashed", True),
    "joint": _Style(3, "diamond", "solid", True),
    "distill": _Style(2, "down", "", True),
    "distill_snapshots": _Style(6, "down", "", True),
    "cat": _Style(1, "circle", "solid", True),
    "cat_snapshots": _Style(4, "diamond", "solid", True),
    "cat_sub": _Style(1, "circle", "dashed", True),
    "init_cat": _Style(5, "up", "solid", True),
    "two_stage": _Style(1, "circle", "solid", True),
    "other": _Style(7, "square", ""),
}
_FROM_SINGLE = ("wide", "joint", "cat", "cat_snapshots", "cat_sub", "init_cat", "two_stage")
"""Constructions that a single network is the smallest one of."""

_SHAPES: dict[str, Sequence[Pixel]] = {
    "square": [(-3, -3), (3, -3), (3, 3), (-3, 3)],
    "diamond": [(0, -4.2), (4.2, 0), (0, 4.2), (-4.2, 0)],
    "up": [(0, -4), (4, 3), (-4, 3)],
    "down": [(0, 4), (4, -3), (-4, -3)],
}
"""Corners of the markers around their middles, in pixels."""

_Curves = Mapping[tuple[str, str, str], list[Point]]


def chart(analysis: Analysis, theme: Theme) -> Drawing:
    """Return the figure of the target's scores.

    Raises:
        NotDrawn: if no encoder with a score states its number of parameters.
    """
    target = analysis.target
    results, protocol, metric = chosen(analysis.results, target.name)
    if any(row.run_id in results.documents for row in results.rows):
        own, _ = points(results.keep(protocols=[protocol]), metric)
        shown = [point for point in own if point.protocol == protocol]
    else:
        shown = list(_stated(results, target, protocol))
    if not shown:
        raise NotDrawn(
            "the figure of sizes needs an encoder with a score of the target whose number of "
            "parameters is known, but there is none."
        )
    return draw(shown, theme)


def _stated(results: Results, target: Scores, protocol: str) -> list[Point]:
    """Return the points of published scores, whose encoders are single networks."""
    encoders = {encoder for column in target.raw.values() for encoder in column}
    sizes = {e: facts.parameters for e, facts in results.facts_by_encoder(encoders).items()}
    return in_order(
        Point(
            protocol, dataset, "single", "", 1, parameters, target.name,
            "fraction" if target.percent(dataset) == 100 else "", value, None, 1, encoder, "",
        )
        for dataset, column in target.raw.items()
        for encoder, value in column.items()
        if dataset and (parameters := sizes[encoder])
    )  # fmt: skip


def draw(shown: Sequence[Point], theme: Theme, x: str = "parameters") -> Drawing:
    """Draw one panel per protocol and dataset, with one curve per construction.

    Published points are hollow, their curves thin. Numbers beside points count the networks.

    Args:
        shown: the points.
        theme: the colours.
        x: ``parameters``, on a logarithmic axis, or ``networks``.
    """
    panels = list(dict.fromkeys(point.panel for point in shown))
    columns = _columns(panels)
    inside = min(_INSIDE, WIDTH / columns - LEFT - RIGHT)
    size = inside, 0.8 * inside
    cell = size[0] + LEFT + RIGHT, size[1] + ABOVE + BELOW
    rows = math.ceil(len(panels) / columns)
    curves = list(dict.fromkeys(point.curve for point in shown))
    names = [_name(curve) for curve in curves]
    legend = Legend(names if len(names) > 1 else [], columns * cell[0])
    drawing = Drawing(
        columns * cell[0], rows * cell[1] + legend.height, theme,
        f"Scores against {AXES[x]}",
        "Numbers beside points count the networks; vertical lines are standard deviations over "
        "repeats. Hollow points are published ones.",
    )  # fmt: skip
    left_out = 0
    for number, panel in enumerate(panels):
        points_inside = [point for point in shown if point.panel == panel]
        left_out += _draw_panel(drawing, grid_of(columns, number, size)[0], points_inside, x)
    if left_out:
        drawing.caption += f" {left_out} labels are left out where they would overlap."

    def mark(number: int, start: Pixel, end: Pixel) -> None:
        _draw_line(drawing, [start, end], curves[number])
        _draw_marker(drawing, ((start[0] + end[0]) / 2, start[1]), curves[number])

    legend.draw(drawing, rows * cell[1], mark)
    return drawing


def _columns(panels: Sequence[tuple[str, str]]) -> int:
    datasets = len({dataset for _, dataset in panels})
    several = len({protocol for protocol, _ in panels}) > 1
    return min(datasets if several and 1 < datasets <= _COLUMNS else _COLUMNS, len(panels))


def _draw_panel(drawing: Drawing, box: Box, inside: Sequence[Point], x: str) -> int:
    """Draw the curves of a panel with deviations and labels; return how many found no place."""
    factor = 100 if inside[0].unit == "fraction" else 1
    ends = [
        factor * (point.mean + sign * (point.deviation or 0))
        for point in inside
        for sign in (-1, 1)
    ]
    panel = Panel(
        box, _sizes([getattr(point, x) for point in inside], box, x),
        spanning(ends, box.bottom, box.top, 0.1),
    )  # fmt: skip
    panel.draw(
        drawing,
        titles=[" · ".join(inside[0].panel)],
        x_title=AXES[x],
        y_title=f"{inside[0].metric}{' (%)' if factor == 100 else ''}",
        x_text=short if x == "parameters" else plain,
    )
    curves: dict[tuple[str, str, str], list[Point]] = {}
    for point in inside:
        curves.setdefault(point.curve, []).append(point)

    def pixel(point: Point) -> Pixel:
        return panel.at(getattr(point, x), factor * point.mean)

    lines = _draw_deviations(drawing, panel, inside, factor, x)
    for curve, members in curves.items():
        whole = sorted([*_base(curve, curves), *members], key=lambda one: getattr(one, x))
        path = [pixel(point) for point in whole]
        _draw_line(drawing, path, curve)
        lines += along(path) if _STYLES[curve[0]].line else []
    return _draw_points(drawing, inside, [pixel(point) for point in inside], lines, box)


def _draw_points(
    drawing: Drawing,
    inside: Sequence[Point],
    pixels: Sequence[Pixel],
    lines: Sequence[Box],
    box: Box,
) -> int:
    """Draw the mark and the label of each point; return how many labels found no place."""
    labels = {at: label for at, label in enumerate(_labels(inside)) if label}
    texts = [split_label(label) for label in labels.values()]
    importance = [-float(len(label)) for label in labels.values()]
    places = place([pixels[at] for at in labels], texts, importance, box, avoid=lines)
    placed = dict(zip(labels, zip(places, texts, strict=True), strict=True))
    for at, (point, pixel) in enumerate(zip(inside, pixels, strict=True)):
        several = SEVERAL in point.encoders
        numbers = f"{point.panel[1]} {point.mean:.4g}"
        with nullcontext() if several else drawing.encoder(point.encoders, numbers):
            _draw_marker(drawing, pixel, point.curve)
            draw_labels(drawing, pixel, *placed.get(at, (None, ())))
    return places.count(None)


def _draw_deviations(
    drawing: Drawing, panel: Panel, inside: Sequence[Point], factor: float, x: str
) -> list[Box]:
    """Draw the deviation of each point over its repeats; return the boxes of the lines."""
    boxes = []
    for point in inside:
        if point.deviation:
            low, high = (factor * (point.mean + sign * point.deviation) for sign in (-1, 1))
            ends = panel.at(getattr(point, x), low), panel.at(getattr(point, x), high)
            drawing.line(*ends, drawing.theme.muted, 0.8)
            boxes.append(around(*ends))
    return boxes


def _sizes(values: Sequence[float], box: Box, x: str) -> Scale:
    if x == "parameters":
        return spanning_log(values, box.left, box.right)
    scale = spanning(values, box.left, box.right)
    return Scale(scale.low, scale.high, scale.start, scale.end, whole=True)


def _labels(inside: Sequence[Point]) -> list[str]:
    """Return the text beside each point: its number of networks, or the name of a single one."""
    single = [point.encoders for point in inside if point.construction == "single"]
    named = 1 < len(single) <= _MOST_NAMED
    prefix = common_start(single)
    labels = []
    for point in inside:
        if _STYLES[point.construction].numbered:
            labels.append(str(point.networks))
        elif named and point.construction == "single" and SEVERAL not in point.encoders:
            labels.append(point.encoders.removeprefix(prefix) or point.encoders)
        else:
            labels.append("")
    return labels


def _base(curve: tuple[str, str, str], curves: _Curves) -> list[Point]:
    """Return the single network that a curve starts from, if there is one."""
    construction, family, source = curve
    return curves.get(("single", family, source), []) if construction in _FROM_SINGLE else []


def _draw_line(drawing: Drawing, pixels: Sequence[Pixel], curve: tuple[str, str, str]) -> None:
    style = _STYLES[curve[0]]
    if style.line and len(pixels) > 1:
        dash = "5 3" if style.line == "dashed" else ""
        drawing.path(pixels, _color(drawing.theme, curve), 0.8 if curve[2] else 1.5, dash)


def _draw_marker(drawing: Drawing, at: Pixel, curve: tuple[str, str, str]) -> None:
    """Draw the marker of a construction; that of published points is hollow."""
    style, color = _STYLES[curve[0]], _color(drawing.theme, curve)
    fill = drawing.theme.paper if curve[2] else color
    if style.marker == "circle":
        drawing.circle(at, 3.2, fill, color)
    else:
        corners = [(at[0] + x, at[1] + y) for x, y in _SHAPES[style.marker]]
        drawing.polygon(corners, fill, color)


def _color(theme: Theme, curve: tuple[str, str, str]) -> str:
    number = _STYLES[curve[0]].color
    return theme.ink if number is None else theme.color(number)


def _name(curve: tuple[str, str, str]) -> str:
    construction, family, source = curve
    name = CONSTRUCTIONS[construction]
    published = source.removeprefix("rich_representations_").replace("_", " ")
    return (
        name + (f", {family}" if family else "") + (f" (published, {published})" if source else "")
    )
