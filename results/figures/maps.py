"""The figure of maps: the t-SNE coordinates that runs of ``tsne`` left, one panel per run."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from results.agreement.analysis import Analysis
from results.figures.axes import ABOVE, RIGHT, Panel, spanning
from results.figures.drawing import Box, Drawing, NotDrawn, Point
from results.figures.legend import Legend
from results.figures.text import shortened
from results.figures.theme import LABEL, WIDTH, Theme
from results.records.labels import natural
from results.records.reading import Results

TABLE = "tsne.csv"
MOST_MAPS, MOST_POINTS = 24, 500
"""Numbers of maps, and of points of each map."""
_COLUMNS, _DOT = 4, 3.8
_SIDE = WIDTH / _COLUMNS - RIGHT
MOST_CLASSES = 16
"""Classes that eight colours and two shapes tell apart; the others are grey."""


class Map(NamedTuple):
    """The map of one encoder on one dataset.

    Args:
        encoder: label of the encoder.
        dataset: label of the dataset.
        points: coordinates of each point.
        classes: class of each point.
    """

    encoder: str
    dataset: str
    points: Sequence[Point]
    classes: Sequence[str]


def chart(analysis: Analysis, theme: Theme) -> Drawing:
    """Return the maps of the first perplexity of each run.

    Raises:
        NotDrawn: if no run has left a map.
    """
    maps = read_maps(analysis.results)
    if not maps:
        raise NotDrawn("the maps need finished runs of `tsne` with `tsne.csv` in their folders.")
    shown = maps[:MOST_MAPS]
    classes = sorted({label for one in shown for label in one.classes}, key=natural)
    columns = min(_COLUMNS, len(shown))
    rows = math.ceil(len(shown) / columns)
    cell = _SIDE + RIGHT, _SIDE + ABOVE
    legend = Legend(classes[:MOST_CLASSES], columns * cell[0])
    caption = _caption(maps, classes)
    drawing = Drawing(
        columns * cell[0], rows * cell[1] + legend.height, theme, "t-SNE maps of frozen features",
        caption,
    )  # fmt: skip
    for number, one in enumerate(shown):
        row, column = divmod(number, columns)
        left, top = column * cell[0] + RIGHT / 2, row * cell[1] + ABOVE
        _draw_map(drawing, Box(left, top, left + _SIDE, top + _SIDE), one, classes)

    def mark(number: int, start: Point, end: Point) -> None:
        color, square = theme.color(number), number >= len(theme.colors)
        drawing.dots([(end[0] - 4, end[1])], color, 6, square=square)

    legend.draw(drawing, rows * cell[1], mark)
    return drawing


def read_maps(results: Results) -> list[Map]:
    """Return the map of each run of ``tsne``, in the order of datasets and encoders."""
    runs = {
        (row.dataset, row.encoder, row.run_id)
        for row in results.rows
        if row.protocol.split(" ")[0] == "tsne" and row.run_id in results.folders
    }
    in_order = sorted(runs, key=lambda run: (natural(run[0]), natural(run[1]), run[2]))
    maps = (
        _read(results.folders[run] / TABLE, encoder, dataset) for dataset, encoder, run in in_order
    )
    return [one for one in maps if one is not None]


def _read(path: Path, encoder: str, dataset: str) -> Map | None:
    """Return the map of the first perplexity of a table; None without a readable table."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = list(csv.DictReader(file))
        first = [line for line in lines if line["perplexity"] == lines[0]["perplexity"]]
        places = [(float(line["x"]), float(line["y"])) for line in first]
        labels = [line["class"] or "" for line in first]
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        return None
    finite = [
        number for number, (x, y) in enumerate(places) if math.isfinite(x) and math.isfinite(y)
    ]
    count = min(len(finite), MOST_POINTS)
    chosen = [finite[number * len(finite) // count] for number in range(count)]
    if not chosen:
        return None
    return Map(encoder, dataset, [places[n] for n in chosen], [labels[n] for n in chosen])


def _draw_map(drawing: Drawing, box: Box, one: Map, classes: Sequence[str]) -> None:
    """Draw one map: a square frame without numbers, since t-SNE has no unit."""
    theme = drawing.theme
    x, y = zip(*one.points, strict=True)
    panel = Panel(
        box, spanning(x, box.left, box.right, 0.05), spanning(y, box.bottom, box.top, 0.05)
    )
    corners = [
        (box.left, box.top),
        (box.right, box.top),
        (box.right, box.bottom),
        (box.left, box.bottom),
    ]
    with drawing.encoder(one.encoder, one.dataset):
        drawing.path([*corners, corners[0]], theme.grid, 1)
        drawing.text(
            (box.left, box.top - 18), shortened(one.encoder, LABEL * 1.09, _SIDE), LABEL, bold=True
        )
        drawing.text((box.left, box.top - 6), shortened(one.dataset, LABEL, _SIDE), LABEL)
        for number, label in enumerate(classes):
            places = [
                panel.at(*point)
                for point, own in zip(one.points, one.classes, strict=True)
                if own == label
            ]
            color = theme.color(number) if number < MOST_CLASSES else theme.muted
            square = len(theme.colors) <= number < MOST_CLASSES
            if places:
                drawing.dots(places, color, _DOT, square=square)


def _caption(maps: Sequence[Map], classes: Sequence[str]) -> str:
    sentences = [
        "Colours and shapes are classes; only neighbourhoods have a meaning, not distances, and "
        f"at most {MOST_POINTS} points of a map are shown."
    ]
    if len(maps) > MOST_MAPS:
        sentences.append(f"{MOST_MAPS} of {len(maps)} maps are shown.")
    if len(classes) > MOST_CLASSES:
        sentences.append(f"{len(classes) - MOST_CLASSES} further classes are grey.")
    return " ".join(sentences)
