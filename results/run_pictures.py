"""Pictures of one run: its confusion matrix and its training curves.

matplotlib is imported only when a picture is drawn.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from results.plots import figure_of, require_matplotlib
from results.single_run import Curve, Predictions

_NUMBERED = 20
"""Up to this number of classes, each cell shows its number of images."""
_CELL, _LARGEST, _MARGIN = 0.3, 26.0, 2.6  # inches
_COLUMNS = 3


def draw_confusion(predictions: Predictions, path: Path) -> None:
    """Draw the shares of each true class (row) that were predicted as each class (column).

    Args:
        predictions: of one class per image.
        path: the picture's file; its suffix gives the format.

    Raises:
        ResultsError: if matplotlib is not installed.
    """
    require_matplotlib()
    counts = predictions.confusion()
    totals = counts.sum(1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    size = len(predictions.classes)
    side = min(_LARGEST, _MARGIN + max(_CELL * size, 2.0))
    cell_points = 72 * (side - _MARGIN) / size
    figure = figure_of((side, side))
    axes = figure.subplots()
    image = axes.imshow(100 * shares, cmap="Blues", vmin=0, vmax=100)
    font = min(9.0, 0.8 * cell_points)
    axes.set_xticks(range(size), predictions.classes, rotation=90, fontsize=font)
    axes.set_yticks(range(size), predictions.classes, fontsize=font)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    if size <= _NUMBERED:
        for row, column in np.argwhere(counts > 0).tolist():
            colour = "white" if shares[row, column] > 0.6 else "black"
            axes.text(
                column, row, str(counts[row, column]),
                ha="center", va="center", color=colour, fontsize=font,
            )  # fmt: skip
    figure.colorbar(image, ax=axes, shrink=0.7, label="share of the true class, %")
    figure.savefig(path)


def draw_curves(drawn: Sequence[Curve], path: Path) -> None:
    """Draw the loss and the learning rate of each training.

    Args:
        drawn: the curves, at least one.
        path: the picture's file; its suffix gives the format.

    Raises:
        ResultsError: if matplotlib is not installed.
    """
    require_matplotlib()
    columns = min(_COLUMNS, len(drawn))
    rows = math.ceil(len(drawn) / columns)
    figure = figure_of((4.8 * columns, 3.4 * rows))
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in grid[len(drawn) :]:
        axes.set_visible(False)
    for axes, curve in zip(grid, drawn, strict=False):
        marker = "o" if len(curve.steps) < 30 else None
        axes.plot(curve.steps, curve.losses, color="#1f6fb4", marker=marker, markersize=3)
        axes.set_title(curve.training, fontsize=10)
        axes.set_xlabel("step")
        axes.set_ylabel("loss", color="#1f6fb4")
        other = axes.twinx()
        other.plot(curve.steps, curve.rates, color="#c46a1b", linestyle="--", linewidth=1)
        other.set_ylabel("learning rate", color="#c46a1b")
        other.set_ylim(bottom=0)
    figure.savefig(path)
