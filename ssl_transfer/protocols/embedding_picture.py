"""Pictures and tables of two-dimensional embeddings, by class and with the views of an image."""

import csv
import dataclasses
import importlib.util
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64, Int64

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Zoom = Sequence[float]
"""Left, bottom, right and top, as shares of the picture from 0 to 1."""
MARKERS = {"original": "o", "view 1": "^", "view 2": "s"}
"""Marker of each view."""
INK, GRID = "#333333", "#9aa5b1"
PANEL = 5.2
"""Side of a panel in inches."""
MOST_IN_LEGEND = 20
COLUMNS = ("perplexity", "name", "class", "view", "x", "y")


@dataclasses.dataclass(frozen=True, eq=False)
class Points:
    """What the points of an embedding show.

    Args:
        names: name of the sample of each point.
        labels: its class number.
        views: 0 for an original, 1 and 2 for its views.
        images: number of the image that it shows; points with one number are joined.
        classes: name of each class number.
    """

    names: Sequence[str]
    labels: Int64[np.ndarray, " points"]
    views: Int64[np.ndarray, " points"]
    images: Int64[np.ndarray, " points"]
    classes: Sequence[str]


Embeddings = Mapping[float, Float64[np.ndarray, "points 2"]]
"""The coordinates of the points, by perplexity."""


def require_matplotlib() -> None:
    """Raise ``ValueError`` if matplotlib is missing, before anything is computed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError(
            "the picture needs the package matplotlib, but it is not installed; install it (pip "
            "install 'ssl_transfer[report]')."
        )


def table(points: Points, embeddings: Embeddings) -> str:
    """Return the coordinates of all embeddings as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for perplexity, coordinates in embeddings.items():
        for row, (x, y) in enumerate(coordinates.tolist()):
            label = int(points.labels[row])
            shown = points.classes[label] if points.classes else ""
            writer.writerow(
                [f"{perplexity:g}", points.names[row], shown, int(points.views[row]),
                 f"{x:.6g}", f"{y:.6g}"]
            )  # fmt: skip
    return text.getvalue()


def picture(points: Points, embeddings: Embeddings, title: str, zoom: Zoom | None) -> bytes:
    """Return a picture (PNG) with one panel per embedding.

    Args:
        points: what the points show.
        embeddings: the coordinates, by perplexity.
        title: title of the picture.
        zoom: a region that a second row of panels shows larger (``None``: no second row).
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count, rows = len(embeddings), 1 if zoom is None else 2
    figure = Figure(
        figsize=(PANEL * count + 1.6, PANEL * rows + 0.5), layout="constrained", dpi=150
    )
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, count, squeeze=False)
    for column, (perplexity, coordinates) in enumerate(embeddings.items()):
        whole = panels[0, column]
        _scatter(whole, points, coordinates, size=14)
        _frame(whole, coordinates)
        whole.set_title(f"perplexity {perplexity:g}", fontsize=9, color=INK)
        if zoom is not None:
            _scatter(panels[1, column], points, coordinates, size=40)
            _enlarge(panels[1, column], whole, zoom)
    figure.suptitle(title, fontsize=10, color=INK, parse_math=False)
    _legend(figure, points)
    data = io.BytesIO()
    figure.savefig(data, format="png")
    return data.getvalue()


def _colours(points: Points) -> dict[int, tuple[float, float, float, float]]:
    """Return the colour of each class that occurs: up to 20 distinct ones, then a scale."""
    from matplotlib import colormaps

    labels = np.unique(points.labels).tolist()
    if len(labels) <= MOST_IN_LEGEND:
        name = "tab10" if len(labels) <= 10 else "tab20"
        return {label: colormaps[name](place) for place, label in enumerate(labels)}
    scale = colormaps["turbo"]
    return {label: scale(place / (len(labels) - 1)) for place, label in enumerate(labels)}


def _scatter(
    axes: "Axes", points: Points, coordinates: Float64[np.ndarray, "points 2"], *, size: float
) -> None:
    """Draw the points by class and view, and join the views of an image."""
    from matplotlib.collections import PolyCollection

    colours = _colours(points)
    triangles = list(_triangles(points, coordinates))
    if triangles:
        edges = [(*colours[label][:3], 0.45) for label, _ in triangles]
        corners = [corner for _, corner in triangles]
        axes.add_collection(
            PolyCollection(corners, facecolors="none", edgecolors=edges, linewidths=0.6, zorder=1)
        )
    for view, marker in enumerate(MARKERS.values()):
        rows = np.flatnonzero(points.views == view)
        faces = [colours[label] for label in points.labels[rows].tolist()]
        axes.scatter(
            coordinates[rows, 0],
            coordinates[rows, 1],
            s=size if view == 0 else 0.8 * size,
            c=faces,
            marker=marker,
            linewidths=0.3,
            edgecolors="white",
            alpha=0.9,
            zorder=3 - view / 2,
        )


def _triangles(
    points: Points, coordinates: Float64[np.ndarray, "points 2"]
) -> Iterator[tuple[int, Float64[np.ndarray, "corners 2"]]]:
    """Yield the class and the points of every image that has several."""
    order = np.argsort(points.images, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(points.images[order])) + 1):
        if len(rows) > 1:
            yield int(points.labels[rows[0]]), coordinates[rows]


def _frame(axes: "Axes", coordinates: Float64[np.ndarray, "points 2"]) -> None:
    """Show all points with a margin; the units of a t-SNE mean nothing and are left out."""
    low, high = coordinates.min(axis=0), coordinates.max(axis=0)
    margin = np.maximum(0.04 * (high - low), 1e-6)
    axes.set_xlim(low[0] - margin[0], high[0] + margin[0])
    axes.set_ylim(low[1] - margin[1], high[1] + margin[1])
    _bare(axes)


def _bare(axes: "Axes") -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(GRID)


def _enlarge(axes: "Axes", whole: "Axes", zoom: Zoom) -> None:
    """Limit a panel to a region of another one, and outline the region there."""
    from matplotlib.patches import Rectangle

    left, bottom, right, top = zoom
    (x_low, x_high), (y_low, y_high) = whole.get_xlim(), whole.get_ylim()
    across, up = x_high - x_low, y_high - y_low
    corner = x_low + left * across, y_low + bottom * up
    sides = (right - left) * across, (top - bottom) * up
    whole.add_patch(
        Rectangle(corner, *sides, fill=False, edgecolor=INK, linewidth=1.0, linestyle="--")
    )
    axes.set_xlim(corner[0], corner[0] + sides[0])
    axes.set_ylim(corner[1], corner[1] + sides[1])
    axes.set_title("the outlined region", fontsize=9, color=INK)
    _bare(axes)


def _legend(figure: "Figure", points: Points) -> None:
    """Name classes by colour and views by marker, beside the panels."""
    from matplotlib.lines import Line2D

    colours = _colours(points)
    dot: dict[str, Any] = {"linestyle": "none", "markersize": 6, "markeredgewidth": 0}
    handles = []
    if points.classes and len(colours) <= MOST_IN_LEGEND:
        handles += [
            Line2D([], [], color=colour, marker="o", label=_plain(points.classes[label]), **dot)
            for label, colour in colours.items()
        ]
    if points.views.any():
        handles += [
            Line2D([], [], color=INK, marker=marker, label=view, **dot)
            for view, marker in MARKERS.items()
        ]
    if handles:
        figure.legend(
            handles=handles, loc="outside right center", fontsize=8, frameon=False, labelcolor=INK
        )


def _plain(name: str) -> str:
    """Return a name that matplotlib shows as it is: no formula, no hidden label."""
    escaped = name.replace("$", r"\$")
    return f" {escaped}" if escaped.startswith("_") else escaped
