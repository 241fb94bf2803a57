"""Pictures of one run: the confusion matrix and the course of training.

matplotlib is imported only when a picture is drawn.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from results.figures.canvas import DOT, INK, figure_of, require_matplotlib
from results.plain_text import one_line
from results.records.training_curves import Curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DPI = 120
_MOST_NAMED = 250
"""Number of classes above which names are left out of the confusion matrix."""
_MOST_COUNTS = 6000
"""Number of cells with a printed count; colour alone shows the smaller counts of more cells."""
_LONGEST_NAME = 32
_MOST_IN_LEGEND = 12


def draw_confusion(
    path: Path, counts: NDArray[np.int64], classes: Sequence[str], title: str
) -> None:
    """Draw how many images of each true class (row) were predicted as each class (column).

    The colour of a cell is its share of the row. Names and counts are legible up to 250 classes;
    of more classes only the colours are drawn.

    Args:
        path: the picture's file.
        counts: numbers of images ``[C, C]``.
        classes: names of the classes.
        title: the title.

    Raises:
        ResultsError: if matplotlib is not installed.
    """
    require_matplotlib()
    n = len(classes)
    cell = min(max(3 / n, 0.45), 1.2) if n <= 30 else max(0.17, 13 / n)  # inches
    if n > _MOST_NAMED:
        cell = 20 / n
    side, size = n * cell, min(9.0, cell * 72 * 0.62)
    longest = max(len(_shortened(name)) for name in classes) if n <= _MOST_NAMED else 0
    margin = longest * size * 0.6 / 72  # inches; for the names
    figure = figure_of((side + margin + 1.9, side + margin + 1.1), _DPI)
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    if n <= _MOST_NAMED:
        _name_classes(axes, classes, size)
        _print_counts(axes, counts, shares, cell)
    else:
        axes.set_xticks([])
        axes.set_yticks([])
    large = min(max(9.0, side), 20.0)  # points
    order = " (in the order of confusion.csv)" if n > _MOST_NAMED else ""
    axes.set_xlabel(f"predicted class{order}", fontsize=large, color=INK)
    axes.set_ylabel(f"true class{order}", fontsize=large, color=INK)
    axes.set_title(one_line(title), fontsize=large, color=INK, parse_math=False, wrap=True)
    bar = figure.colorbar(image, ax=axes, shrink=min(1.0, 4 / side), aspect=25, pad=0.02)
    bar.set_label("share of the true class", fontsize=8, color=INK)
    bar.ax.tick_params(labelsize=7, colors=INK)
    _save(figure, path)


def _name_classes(axes: "Axes", classes: Sequence[str], size: float) -> None:
    names = [_shortened(name) for name in classes]
    style: dict[str, Any] = {"fontsize": size, "color": INK, "parse_math": False}
    axes.set_xticks(range(len(names)), names, rotation=90, **style)
    axes.set_yticks(range(len(names)), names, **style)
    axes.tick_params(length=1.5, pad=2)
    if len(names) > 30:  # guide lines, so that a cell's names are found
        axes.set_xticks(np.arange(-0.5, len(names), 5), minor=True)
        axes.set_yticks(np.arange(-0.5, len(names), 5), minor=True)
        axes.grid(which="minor", color="#d5dade", linewidth=0.4)
        axes.tick_params(which="minor", length=0)


def _shortened(name: str) -> str:
    name = one_line(name)
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 10]}…{name[-9:]}"


def _print_counts(
    axes: "Axes", counts: NDArray[np.int64], shares: NDArray[np.float64], cell: float
) -> None:
    """Print the count of each cell that is not zero."""
    digits = len(str(counts.max(initial=0)))
    size = min(10.0, cell * 72 * 0.9 / (0.62 * max(2, digits)))
    cells = np.argsort(-counts, axis=None, kind="stable")[:_MOST_COUNTS]
    for row, column in zip(*np.unravel_index(cells, counts.shape), strict=True):
        if counts[row, column]:
            color = "white" if shares[row, column] > 0.55 else INK
            text = str(counts[row, column])
            style: dict[str, Any] = {
                "fontsize": size,
                "color": color,
                "ha": "center",
                "va": "center",
            }
            label = axes.text(column, row, text, **style)
            label.set_in_layout(False)  # measuring thousands of counts would take most of the time


def draw_training(path: Path, curves: Curves, title: str) -> bool:
    """Draw loss and learning rate of every training, and the monitored kNN accuracy.

    Args:
        path: the picture's file.
        curves: what the run logged.
        title: the title.

    Returns:
        Whether there was anything to draw.

    Raises:
        ResultsError: if matplotlib is not installed.
    """
    trainings = [one for one in curves.trainings if one.series("loss")[1]]
    if not trainings:
        return False
    require_matplotlib()
    steps, accuracies = curves.monitor.series("knn_top1")
    panels = ["loss", "lr"] + (["kNN accuracy (%)"] if accuracies else [])
    figure = figure_of((7.5, 2.3 * len(panels) + 0.4), _DPI)
    grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    colors = _colors(len(trainings))
    for axes, panel in zip(grid, panels, strict=True):
        axes.set_ylabel(panel, fontsize=9, color=INK)
        axes.grid(color="#e6e9ec", linewidth=0.7)
        axes.tick_params(labelsize=8, colors=INK, length=2)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    for training, color in zip(trainings, colors, strict=True):
        style = {"color": color, "linewidth": 1.2, "marker": "o", "markersize": 2.0}
        grid[0].plot(*training.series("loss"), label=training.name, **style)
        grid[1].plot(*training.series("lr"), **style)
    if accuracies:
        style = {"color": INK, "linewidth": 1.2, "marker": "o", "markersize": 3.0}
        grid[2].plot(steps, [100 * value for value in accuracies], **style)
    grid[-1].set_xlabel("step", fontsize=9, color=INK)
    if 1 < len(trainings) <= _MOST_IN_LEGEND:
        grid[0].legend(fontsize=7, frameon=False, ncols=2)
    elif len(trainings) > _MOST_IN_LEGEND:
        note = f"{len(trainings)} trainings, from {trainings[0].name} to {trainings[-1].name}"
        grid[0].text(1, 1, note, transform=grid[0].transAxes, ha="right", va="top", fontsize=7)
    grid[0].set_title(one_line(title), fontsize=9, color=INK, parse_math=False, wrap=True)
    _save(figure, path)
    return True


def _save(figure: "Figure", path: Path) -> None:
    """Write a figure; letters that the font lacks are drawn as boxes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(path)


def _colors(count: int) -> Sequence[Any]:
    from matplotlib import colormaps

    if count == 1:
        return [DOT]
    if count <= 10:
        return [colormaps["tab10"](number) for number in range(count)]
    return [colormaps["viridis"](number / (count - 1)) for number in range(count)]
