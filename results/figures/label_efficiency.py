"""The figure of label efficiency: scores against the number of labels, one line per encoder."""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from results.agreement.analysis import Analysis
from results.agreement.specs import without_key
from results.figures.axes import LEFT, RIGHT, Panel, grid_of, short, spanning, spanning_log
from results.figures.drawing import Box, Drawing, NotDrawn, Point
from results.figures.legend import Legend
from results.figures.theme import WIDTH, Theme
from results.records.cells import Cell, cells, ordered
from results.records.reading import Results
from results.records.score_intervals import Interval, cell_interval

LIMITS = ("label_fraction", "labels_per_class")
"""Keys of a dataset that limit its labels."""
_LABELLED = ("train", "val", "id_val", "ood_val")
"""Splits whose labels a run uses."""
_COLUMNS, _LARGEST, _POINT = 3, 320.0, 2.6
_STEP, _WIDEST = 2.0, 16.0
"""Distance of two encoders' marks with the same number of labels, and of the outer ones, in pixels;
without it their intervals would cover each other."""


class Level(NamedTuple):
    """The score of an encoder with some number of labels.

    Args:
        labels: number of labelled images, training and validation together.
        score: mean over seeds, in percent if the score is a fraction.
        interval: its 95 % interval, likewise; None where it is unknown.
    """

    labels: int
    score: float
    interval: tuple[float, float] | None


@dataclasses.dataclass(frozen=True)
class Efficiency:
    """The scores of one protocol on one dataset.

    Args:
        protocol: the protocol's label.
        dataset: the dataset's label without the keys that limit labels.
        metric: the metric, with its unit.
        curves: the levels of each encoder by its label, fewest labels first.
    """

    protocol: str
    dataset: str
    metric: str
    curves: Mapping[str, Sequence[Level]]


def chart(analysis: Analysis, theme: Theme) -> Drawing:
    """Return the figure of an analysis.

    Raises:
        NotDrawn: if no encoder has scores of one protocol with two numbers of labels.
    """
    panels = efficiencies(analysis.results)
    if not panels:
        raise NotDrawn(
            "the figure of label efficiency needs an encoder with scores of one protocol for two "
            "numbers of labels of a dataset (`dataset.label_fraction=0.1,1.0`), but there is none."
        )
    return draw(panels, theme)


def efficiencies(results: Results) -> list[Efficiency]:
    """Return the protocols and datasets with an encoder that has scores for two numbers of labels.

    Datasets come in natural order, protocols in natural order within each; other encoders are left
    out.
    """
    panels = []
    for protocol in results.known("protocol"):
        by_dataset: dict[str, dict[str, list[Cell]]] = defaultdict(lambda: defaultdict(list))
        for (encoder, dataset), cell in cells(results, protocol).items():
            if cell.values and math.isfinite(cell.mean):
                by_dataset[_without_limits(dataset)][encoder].append(cell)
        for dataset, encoders in by_dataset.items():
            counted = {e: _counted(results, variants) for e, variants in encoders.items()}
            several = {e: levels for e, levels in counted.items() if len(dict(levels)) > 1}
            if several:
                panels.append(_efficiency(results, protocol, dataset, several))
    order = {name: place for place, name in enumerate(ordered(one.dataset for one in panels))}
    return sorted(panels, key=lambda one: order[one.dataset])


def _counted(results: Results, variants: Sequence[Cell]) -> list[tuple[int, Cell]]:
    """Return the cells of several variants of a dataset with their numbers of labels.

    Of a single cell the records are not read, because it makes no curve.
    """
    if len(variants) < 2:
        return []
    counts = [_labels(results, cell) for cell in variants]
    return [(n, cell) for n, cell in zip(counts, variants, strict=True) if n is not None]


def _efficiency(
    results: Results,
    protocol: str,
    dataset: str,
    encoders: Mapping[str, Sequence[tuple[int, Cell]]],
) -> Efficiency:
    rows = [cell.row for levels in encoders.values() for _, cell in levels if cell.row]
    bounded = all(row.unit == "fraction" for row in rows)
    factor = 100.0 if bounded else 1.0
    curves = {
        encoder: sorted(
            Level(labels, factor * cell.mean, _scaled(cell_interval(results, cell), factor))
            for labels, cell in encoders[encoder]
        )
        for encoder in ordered(encoders)
    }
    return Efficiency(protocol, dataset, f"{rows[0].metric}{' (%)' if bounded else ''}", curves)


def _scaled(interval: Interval | None, factor: float) -> tuple[float, float] | None:
    return None if interval is None else (factor * interval.low, factor * interval.high)


def _without_limits(dataset: str) -> str:
    """Return a dataset's label without the keys that limit labels."""
    for key in LIMITS:
        dataset = without_key(dataset, key)
    return dataset


def _labels(results: Results, cell: Cell) -> int | None:
    """Return how many labels the runs of a cell used; None if their records do not say it."""
    for _, run_id in sorted(cell.values):
        data = (results.documents.get(run_id) or {}).get("data")
        sizes = data.get("sizes") if isinstance(data, Mapping) else None
        if isinstance(sizes, Mapping):
            known: list[Any] = [sizes.get(split, 0) for split in _LABELLED]
            if all(type(size) is int and size >= 0 for size in known) and sum(known):
                return int(sum(known))
    return None


def draw(panels: Sequence[Efficiency], theme: Theme) -> Drawing:
    """Return a figure with one panel per dataset and protocol.

    Args:
        panels: the scores of each panel.
        theme: the colours.
    """
    columns = _columns(panels)
    inside = min(_LARGEST, WIDTH / columns - LEFT - RIGHT)
    size = inside, 0.75 * inside
    _, cell = grid_of(columns, 0, size)
    encoders = ordered(encoder for panel in panels for encoder in panel.curves)
    legend = Legend(encoders, columns * cell[0])
    rows = math.ceil(len(panels) / columns)
    levels = [level for panel in panels for curve in panel.curves.values() for level in curve]
    drawing = Drawing(
        columns * cell[0], rows * cell[1] + legend.height, theme,
        "Scores against the number of labels",
        "Labels are those to train and to validate together, on a logarithmic axis; encoders stand "
        "a little beside each other."
        + " Bars are 95 % intervals." * any(level.interval for level in levels),
    )  # fmt: skip
    for number, panel in enumerate(panels):
        beside = [one for one in panels if one.dataset == panel.dataset]
        _draw_panel(drawing, grid_of(columns, number, size)[0], panel, beside, encoders)

    def mark(number: int, start: Point, end: Point) -> None:
        with drawing.encoder(encoders[number]):
            drawing.path([start, end], theme.color(number), 1.5, _dash(number))
            drawing.circle(((start[0] + end[0]) / 2, start[1]), _POINT, theme.color(number))

    legend.draw(drawing, rows * cell[1], mark)
    return drawing


def _columns(panels: Sequence[Efficiency]) -> int:
    """Return the number of columns: the protocols of a dataset stand side by side if they fit."""
    protocols = len({panel.protocol for panel in panels})
    datasets = len({panel.dataset for panel in panels})
    complete = len(panels) == protocols * datasets
    return min(protocols if complete and 1 < protocols <= _COLUMNS else _COLUMNS, len(panels))


def _dash(number: int) -> str:
    """Return the dashes of an encoder's line: colours repeat after eight."""
    return ("", "5 3", "1.5 2.5")[number // 8 % 3]


def _draw_panel(
    drawing: Drawing,
    box: Box,
    shown: Efficiency,
    beside: Sequence[Efficiency],
    encoders: Sequence[str],
) -> None:
    """Draw a panel, whose axes are those of all panels of its dataset and metric."""
    same = [one for one in beside if one.metric == shown.metric]
    levels = [level for one in same for curve in one.curves.values() for level in curve]
    panel = Panel(
        box,
        spanning_log([level.labels for level in levels], box.left, box.right, 0.07),
        spanning([end for level in levels for end in _ends(level)], box.bottom, box.top),
    )
    panel.draw(
        drawing,
        titles=[f"{shown.dataset} · {shown.protocol}"],
        x_title="labels",
        y_title=shown.metric,
        x_text=short,
    )
    for encoder, curve in shown.curves.items():
        number = encoders.index(encoder)
        color, aside = drawing.theme.color(number), _aside(number, len(encoders))
        points = [panel.at(level.labels, level.score) for level in curve]
        points = [(x + aside, y) for x, y in points]
        scores = ", ".join(f"{level.score:.4g} with {level.labels}" for level in curve)
        with drawing.encoder(encoder, f"{shown.dataset}, {shown.protocol}: {scores} labels"):
            for level, (x, _) in zip(curve, points, strict=True):
                if level.interval:
                    low, high = map(panel.y, level.interval)
                    drawing.line((x, low), (x, high), color, 0.9, opacity=0.6)
            drawing.path(points, color, 1.3, _dash(number))
            for point in points:
                drawing.circle(point, _POINT, color)


def _aside(number: int, encoders: int) -> float:
    """Return by how many pixels an encoder's marks stand beside the number of labels."""
    step = min(_STEP, _WIDEST / max(encoders - 1, 1))
    return step * (number - (encoders - 1) / 2)


def _ends(level: Level) -> Iterator[float]:
    yield level.score
    yield from level.interval or ()
