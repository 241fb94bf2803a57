"""Scatter plots: proxy against target, one panel per dataset and proxy.

matplotlib is imported only when a picture is drawn.
"""

import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from results.agreement.correlations import Correlation
from results.agreement.scores import Scores
from results.errors import ResultsError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANEL = (4.6, 3.9)  # inches
INK, DOT, _LINE = "#333333", "#1f6fb4", "#9aa5b1"


def require_matplotlib() -> None:
    """Raise ResultsError if matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ResultsError(
            "pictures need the package matplotlib, but it is not installed; install it (pip "
            "install 'ssl_transfer[report]'), or leave the option that draws them out."
        )


def figure_of(size: tuple[float, float], dpi: int = 150) -> "Figure":
    """Return an empty figure, which needs no display.

    Args:
        size: width and height in inches.
        dpi: pixels per inch.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1)
    figure = Figure(figsize=size, layout=layout, dpi=dpi)
    FigureCanvasAgg(figure)
    return figure


def scatter(
    path: Path, target: Scores, proxies: Sequence[Scores], correlations: Sequence[Correlation]
) -> None:
    """Draw the scores behind the correlations of each dataset.

    Args:
        path: the picture's file; its suffix gives the format.
        target: scores on the vertical axis.
        proxies: scores on the horizontal axis; each of several has its own column of panels.
        correlations: their coefficients, for the titles.

    Raises:
        ResultsError: if matplotlib is not installed.
    """
    require_matplotlib()
    datasets = [
        d for d in dict.fromkeys(entry.dataset for entry in correlations) if d in target.raw
    ]
    panels = [(dataset, proxy) for dataset in datasets for proxy in proxies]
    columns = len(proxies) if len(proxies) > 1 else min(3, len(datasets))
    rows = math.ceil(len(panels) / columns)
    size = (_PANEL[0] * columns, _PANEL[1] * rows)
    figure = figure_of(size)
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    prefix = _common_start({e for d in datasets for e in target.raw[d]})
    drawn = []
    for axes, (dataset, proxy) in zip(grid, panels, strict=False):
        shown = [o for o in correlations if (o.dataset, o.proxy) == (dataset, proxy.name)]
        drawn.append((axes, *_panel(axes, dataset, target, proxy, prefix)))
        axes.set_title(_title(dataset, shown), fontsize=9, color=INK)
    if prefix:
        figure.suptitle(f"encoders: {prefix}…", fontsize=8, color=INK, x=0.99, ha="right")
    figure.draw_without_rendering()  # computes the layout, which the placement of labels needs
    for axes, points, labels in drawn:
        _place(axes, points, labels)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _title(dataset: str, correlations: Sequence[Correlation]) -> str:
    """Return the dataset with Pearson on logits and Spearman, if available."""
    if not correlations:
        return dataset
    parts = [dataset]
    for name, symbol in (("pearson (logit)", "r (logits)"), ("spearman", "ρ")):
        c = correlations[0].coefficients[name]  # type: ignore[index]
        if c:
            parts.append(f"{symbol} = {c.value:.2f} [{c.low:.2f}, {c.high:.2f}]")
        else:
            return f"{dataset}   {c.note.split(':')[0]}, n = {c.n}"
    return "   ".join(parts)


def _panel(
    axes: "Axes", dataset: str, target: Scores, proxy: Scores, prefix: str
) -> tuple[list[tuple[float, float]], list[str]]:
    """Draw the points of a panel; return the points and their labels."""
    x, y = proxy.on(dataset)[0], target.on(dataset)[0]
    shared = sorted(x.keys() & y.keys())
    scale_x, scale_y = proxy.percent(dataset), target.percent(dataset)
    points = [(x[e] * scale_x, y[e] * scale_y) for e in shared]
    axes.scatter([p[0] for p in points], [p[1] for p in points], s=22, color=DOT, zorder=3)
    for scores, scale, set_label in (
        (proxy, scale_x, axes.set_xlabel),
        (target, scale_y, axes.set_ylabel),
    ):
        unit = " (%)" if scale == 100 else ""
        sign = ", sign changed" if scores.negated else ""
        set_label(f"{scores.name}{unit}{sign}", fontsize=9, color=INK)
    axes.margins(x=0.18, y=0.14)
    axes.grid(color="#e6e9ec", linewidth=0.7)
    axes.tick_params(labelsize=8, colors=INK, length=2)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    labels = [encoder.removeprefix(prefix) or encoder for encoder in shared]
    return points, [label.replace(" ", "\n", 1) for label in labels]


def _common_start(labels: set[str]) -> str:
    """Return the common prefix of all labels, up to its last separator."""
    if len(labels) < 2:
        return ""
    first, last = min(labels), max(labels)
    same = (i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b)
    start = first[: next(same, min(len(first), len(last)))]
    cut = max(start.rfind(separator) for separator in "- ") + 1
    return start[:cut]


def _place(axes: "Axes", points: Sequence[tuple[float, float]], labels: Sequence[str]) -> None:
    """Place each label where it covers least; connect a distant label to its point by a line."""
    to_points = 72 / axes.figure.dpi
    frame = axes.get_window_extent()
    dots = [axes.transData.transform(point) for point in points]
    taken: list[tuple[float, float, float, float]] = [
        (x - 5, y - 5, x + 5, y + 5) for x, y in dots
    ]  # boxes that labels must not cover, in pixels: left, bottom, right, top
    for index in sorted(range(len(dots)), key=lambda i: _crowd(dots, i)):
        width, height = _extent(axes, labels[index])
        best = min(
            (
                (_cost(dots[index], box, taken, frame) + 4 * distance, number, box, distance)
                for number, (box, distance) in enumerate(_candidates(dots[index], width, height))
            ),
        )
        box, distance = best[2], best[3]
        taken.append(box)
        middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        dot = dots[index]
        offset = ((middle[0] - dot[0]) * to_points, (middle[1] - dot[1]) * to_points)
        line = {"arrowstyle": "-", "color": _LINE, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 2}
        axes.annotate(
            labels[index],
            points[index],
            offset,
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=7,
            color=INK,
            arrowprops=line if distance > 12 else None,
            zorder=4,
        )


def _crowd(dots: Sequence[Any], index: int) -> float:
    """Return the distance to the nearest other dot; crowded dots are labelled first."""
    distances = [math.dist(dots[index], dot) for i, dot in enumerate(dots) if i != index]
    return min(distances, default=0.0)


def _extent(axes: "Axes", label: str) -> tuple[float, float]:
    text = axes.text(0, 0, label, fontsize=7)
    box = text.get_window_extent()
    text.remove()
    return box.width, box.height


def _candidates(
    dot: Any, width: float, height: float
) -> list[tuple[tuple[float, float, float, float], float]]:
    """Return possible boxes of a label around a dot with their distances, near ones first."""
    boxes = []
    for distance in (7, 16, 28, 42, 58, 76):
        for step in range(16):
            angle = 2 * math.pi * step / 16
            x = dot[0] + math.cos(angle) * (distance + width / 2)
            y = dot[1] + math.sin(angle) * (distance + height / 2)
            box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
            boxes.append((box, float(distance)))
    return boxes


def _cost(
    dot: Any,
    box: tuple[float, float, float, float],
    taken: Sequence[tuple[float, float, float, float]],
    frame: Any,
) -> float:
    """Return the area of a label that overlaps others or lies outside of its panel.

    Each crossing of the line to its point with a box adds a tenth of the label's area.
    """
    overlap = sum(_common(box, other) for other in taken)
    area = (box[2] - box[0]) * (box[3] - box[1])
    inside = _common(box, (frame.x0, frame.y0, frame.x1, frame.y1))
    end = (min(max(dot[0], box[0]), box[2]), min(max(dot[1], box[1]), box[3]))
    way = [
        (dot[0] + (end[0] - dot[0]) * part / 8, dot[1] + (end[1] - dot[1]) * part / 8)
        for part in range(1, 8)
        if math.dist(dot, end) * part / 8 > 8
    ]
    crossed = sum(a[0] <= x <= a[2] and a[1] <= y <= a[3] for x, y in way for a in taken)
    return float(overlap + 2 * (area - inside) + 0.1 * area * crossed)


def _common(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0.0) * max(height, 0.0)
