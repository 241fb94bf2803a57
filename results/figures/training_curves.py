"""The figure of training curves: the loss of runs, one panel per protocol and dataset."""

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from results.agreement.analysis import Analysis
from results.figures.axes import LEFT, RIGHT, Panel, Scale, grid_of, short, spanning, spanning_log
from results.figures.drawing import Box, Drawing, NotDrawn, Point
from results.figures.legend import Legend
from results.figures.theme import WIDTH, Theme
from results.records.labels import natural
from results.records.reading import Results
from results.records.training_curves import read_curves

MOST_RUNS, MOST_POINTS = 200, 50
"""Numbers of runs in the figure, and of points of each run."""
_COLUMNS = 4
_LOG_FROM = 20.0
"""Ratio of the largest and the smallest loss from which the axis is logarithmic."""


class Curve(NamedTuple):
    """The loss of one run's last training.

    Args:
        panel: protocol and dataset, or ``pretrain`` and the method.
        encoder: label of the encoder.
        run_id: id of the run.
        steps: step of each point.
        losses: mean loss of the part of the training that ends at this step.
    """

    panel: str
    encoder: str
    run_id: str
    steps: Sequence[float]
    losses: Sequence[float]


def chart(analysis: Analysis, theme: Theme) -> Drawing:
    """Return the figure of an analysis.

    Raises:
        NotDrawn: if no run has logged a loss.
    """
    every = _runs(analysis.results)
    curves = curves_of(analysis.results, every)
    if not curves:
        raise NotDrawn("the training curves need runs that logged a loss, but there are none.")
    panels: dict[str, list[Curve]] = {}
    for curve in curves:
        panels.setdefault(curve.panel, []).append(curve)
    columns = min(_COLUMNS, len(panels))
    inside = min(400.0, WIDTH / columns - LEFT - RIGHT)
    size = inside, 0.7 * inside
    _, cell = grid_of(columns, 0, size)
    caption = (
        f"The loss of each run's last training; a point is the mean over one of at most "
        f"{MOST_POINTS} equal parts."
    )
    if len(curves) == MOST_RUNS:
        caption += f" {MOST_RUNS} runs are shown, evenly chosen."
    encoders = sorted({curve.encoder for curve in curves}, key=natural)
    named = encoders if len(encoders) <= len(theme.colors) else []
    legend = Legend(named, columns * cell[0])
    rows = math.ceil(len(panels) / columns)
    drawing = Drawing(
        columns * cell[0], rows * cell[1] + legend.height, theme, "Training curves", caption
    )
    for number, (title, inside_panel) in enumerate(panels.items()):
        _draw_panel(drawing, grid_of(columns, number, size)[0], title, inside_panel, named)

    def mark(number: int, start: Point, end: Point) -> None:
        drawing.line(start, end, theme.color(number), 2)

    legend.draw(drawing, rows * cell[1], mark)
    return drawing


def curves_of(results: Results, runs: Sequence[tuple[str, str, str]]) -> list[Curve]:
    """Return the curves of at most ``MOST_RUNS`` runs, evenly chosen among those with a loss.

    Args:
        results: the results.
        runs: panel, encoder and id of each run, in the order of the figure.
    """
    first = {panel: (panel, encoder, run) for panel, encoder, run in reversed(runs)}
    with_loss = {panel for panel, run in first.items() if _curve(results, *run) is not None}
    candidates = [run for run in runs if run[0] in with_loss]
    count = min(len(candidates), MOST_RUNS)
    chosen = [candidates[number * len(candidates) // count] for number in range(count)]
    curves = (_curve(results, *run) for run in chosen)
    return [curve for curve in curves if curve is not None]


def thinned(steps: Sequence[int], losses: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return at most ``MOST_POINTS`` points: the mean loss and the last step of equal parts."""
    count = min(len(steps), MOST_POINTS)
    edges = [len(steps) * part // count for part in range(count + 1)] if count else [0]
    parts = list(itertools.pairwise(edges))
    return (
        [float(steps[end - 1]) for _, end in parts],
        [statistics.fmean(losses[start:end]) for start, end in parts],
    )


def _runs(results: Results) -> list[tuple[str, str, str]]:
    """Return panel, encoder and id of each run with a folder, pre-trainings first."""
    runs = {
        row.run_id: (f"{row.protocol} {row.dataset}".strip(), row.encoder, row.run_id)
        for row in results.rows
        if row.run_id in results.folders
    }
    required: dict[str, str] = {}
    for row in sorted(results.rows, key=lambda row: (natural(row.encoder), row.run_id)):
        for run in (results.documents.get(row.run_id) or {}).get("requires") or ():
            required.setdefault(run, row.encoder)
    pretrained = []
    for run, encoder in required.items():
        document: Mapping[str, Any] = results.documents.get(run) or {}
        if document.get("protocol") == "pretrain" and run in results.folders:
            pretrained.append((f"pretrain {document.get('method') or ''}".strip(), encoder, run))
    in_order = [sorted(part, key=_order) for part in (pretrained, runs.values())]
    return [*in_order[0], *in_order[1]]


def _order(run: tuple[str, str, str]) -> tuple[object, ...]:
    return natural(run[0]), natural(run[1]), run[2]


def _curve(results: Results, panel: str, encoder: str, run_id: str) -> Curve | None:
    """Return the curve of a run's last training with a loss."""
    trainings = read_curves(results.folders[run_id]).trainings
    series = [training.series("loss") for training in trainings]
    with_loss = [one for one in series if len(one[0]) > 1]
    return Curve(panel, encoder, run_id, *thinned(*with_loss[-1])) if with_loss else None


def _draw_panel(
    drawing: Drawing, box: Box, title: str, curves: Sequence[Curve], named: Sequence[str]
) -> None:
    """Draw the curves of a panel, in the colour of their encoder if the legend names it."""
    panel = Panel(
        box,
        spanning((step for curve in curves for step in curve.steps), box.left, box.right, 0.03),
        _loss_scale([loss for curve in curves for loss in curve.losses], box),
    )
    panel.draw(drawing, titles=[title], x_title="step", y_title="loss", x_text=short)
    theme = drawing.theme
    for curve in curves:
        points = [panel.at(*pair) for pair in zip(curve.steps, curve.losses, strict=True)]
        color = theme.color(named.index(curve.encoder)) if named else theme.accent
        with drawing.encoder(curve.encoder, f"{title}: loss {curve.losses[-1]:.4g} at the end"):
            drawing.path(points, color, 1.2, opacity=1.0 if named else 0.6)


def _loss_scale(losses: Sequence[float], box: Box) -> Scale:
    if min(losses) > 0 and max(losses) > _LOG_FROM * min(losses):
        return spanning_log(losses, box.bottom, box.top)
    return spanning(losses, box.bottom, box.top)
