"""The picture of scores against the size of the encoder.

matplotlib is imported only when a picture is drawn.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from results.figures.canvas import INK, figure_of, require_matplotlib
from results.tables.size_curves import AXES, CONSTRUCTIONS, Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

_PANEL = (4.4, 3.6)  # inches


class _Style(NamedTuple):
    color: str
    marker: str
    line: str
    number: int = 0
    """Offset of the number of networks from its point, in typographic points; 0: no number."""


_STYLES = {
    "single": _Style("#333333", "*", "none"),
    "wide": _Style("#1f6fb4", "s", "-"),
    "wide_sub": _Style("#1f6fb4", "s", "--", -10),
    "joint": _Style("#7a52a5", "D", "-", -10),
    "distill": _Style("#2c9c69", "v", "none", 4),
    "distill_snapshots": _Style("#8ab929", "v", "none", 4),
    "cat": _Style("#d9541e", "o", "-", 5),
    "cat_snapshots": _Style("#e8a33d", "P", "-", 5),
    "cat_sub": _Style("#d9541e", "o", "--", -11),
    "init_cat": _Style("#c9468a", "^", "-", -11),
    "two_stage": _Style("#d9541e", "o", "-", 5),
    "other": _Style("#9aa5b1", "x", "none"),
}
_FROM_SINGLE = ("wide", "joint", "cat", "cat_snapshots", "cat_sub", "init_cat", "two_stage")
"""Constructions that a single network is the smallest one of."""


def draw(path: Path, points: Sequence[Point], x: str = "parameters") -> None:
    """Draw one panel per protocol and dataset, with one curve per construction.

    Published points are hollow, their curves thin. Numbers beside points count the networks.

    Args:
        path: the picture's file; its suffix gives the format.
        points: the points.
        x: ``parameters``, on a logarithmic axis, or ``networks``.

    Raises:
        ResultsError: if matplotlib is not installed.
    """
    require_matplotlib()
    protocols = list(dict.fromkeys(point.panel[0] for point in points))
    datasets = list(dict.fromkeys(point.dataset for point in points))
    columns = len(datasets) if len(protocols) > 1 or len(datasets) < 4 else 2
    panels = [(protocol, dataset) for protocol in protocols for dataset in datasets]
    rows = math.ceil(len(panels) / columns)
    figure = figure_of((_PANEL[0] * columns, _PANEL[1] * rows + 1.2))
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    drawn: dict[str, Line2D] = {}
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    for axes, panel in zip(grid, panels, strict=False):
        inside = [point for point in points if point.panel == panel]
        axes.set_visible(bool(inside))
        if inside:
            drawn = {**_panel(axes, inside, x), **drawn}
    figure.legend(
        list(drawn.values()), list(drawn), loc="outside lower center", ncols=columns,
        fontsize=8, frameon=False, labelcolor=INK,
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _panel(axes: "Axes", inside: Sequence[Point], x: str) -> "dict[str, Line2D]":
    """Draw the curves of a panel; return their handles by name."""
    scale = 100 if inside[0].unit == "fraction" else 1
    curves: dict[tuple[str, str, str], list[Point]] = {}
    for point in inside:
        curves.setdefault(point.curve, []).append(point)
    if x == "parameters":
        from matplotlib.ticker import LogLocator, NullLocator

        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda value, _: _short(value))
    handles = {
        _name(curve): _curve(axes, curve, points, _base(curve, curves), x, scale)
        for curve, points in curves.items()
    }
    axes.set_title("   ".join(inside[0].panel), fontsize=9, color=INK)
    axes.set_xlabel(AXES[x], fontsize=9, color=INK)
    unit = " (%)" if scale == 100 else ""
    axes.set_ylabel(f"{inside[0].metric}{unit}", fontsize=9, color=INK)
    axes.margins(x=0.08, y=0.1)
    axes.grid(color="#e6e9ec", linewidth=0.7)
    axes.tick_params(labelsize=8, colors=INK, length=2)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return handles


def _base(
    curve: tuple[str, str, str], curves: dict[tuple[str, str, str], list[Point]]
) -> list[Point]:
    """Return the single network that a curve starts from, if there is one."""
    construction, family, source = curve
    return curves.get(("single", family, source), []) if construction in _FROM_SINGLE else []


def _curve(
    axes: "Axes",
    curve: tuple[str, str, str],
    points: Sequence[Point],
    base: Sequence[Point],
    x: str,
    scale: float,
) -> "Line2D":
    """Draw a curve with the deviations of its points; return its handle for the legend."""
    from matplotlib.lines import Line2D

    style, published = _STYLES[curve[0]], bool(curve[2])
    width = 0.8 if published else 1.4
    look: dict[str, Any] = {
        "color": style.color,
        "marker": style.marker,
        "markersize": 9 if style.marker == "*" else 5.5,
        "markerfacecolor": "white" if published else style.color,
    }
    if style.line != "none":
        whole = sorted([*base, *points], key=lambda point: getattr(point, x))
        axes.plot(
            [getattr(point, x) for point in whole], [scale * point.mean for point in whole],
            linestyle=style.line, color=style.color, linewidth=width, zorder=2,
        )  # fmt: skip
    axes.errorbar(
        [getattr(point, x) for point in points], [scale * point.mean for point in points],
        yerr=[scale * (point.deviation or 0) for point in points],
        linestyle="none", capsize=2, elinewidth=0.9, zorder=3, **look,
    )  # fmt: skip
    for point in points if style.number else ():
        axes.annotate(
            str(point.networks), (getattr(point, x), scale * point.mean), xytext=(4, style.number),
            textcoords="offset points", fontsize=7, color=style.color,
        )  # fmt: skip
    return Line2D([], [], linewidth=width, **{**look, "linestyle": style.line})


def _name(curve: tuple[str, str, str]) -> str:
    construction, family, source = curve
    name = CONSTRUCTIONS[construction]
    published = source.removeprefix("rich_representations_").replace("_", " ")
    return (
        name + (f", {family}" if family else "") + (f" (published, {published})" if source else "")
    )


def _short(value: float) -> str:
    """Return a number of parameters in thousands or millions.

    Example:
        >>> [_short(value) for value in (77392, 2.35e7, 5.8645e8)]
        ['77.4 k', '23.5 M', '586 M']
    """
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return (
                f"{value / size:.3g} {letter}"
                if value < 10 * size
                else (f"{value / size:.0f} {letter}")
            )
    return f"{value:.3g}"
