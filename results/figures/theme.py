"""Colours, fonts and sizes of all figures, and how a page finds an encoder in them.

A figure is drawn as SVG in one of two themes. ``PAPER`` has fixed colours on white, for files.
``PAGE`` has CSS variables with the same colours as fallback and no background; it follows a page
that defines ``--ink``, ``--muted``, ``--line``, ``--paper``, ``--accent``, ``--c1`` … ``--c8``,
``--negative``, ``--neutral``, ``--positive`` and ``--on-strong``, for example differently in dark
mode.

**Marks of encoders.** Every point, bar or curve that belongs to one encoder lies, with its label
and its interval, in a group of this form::

    <g class="encoder" data-encoder="resnet50-simclr epochs=100"
       aria-label="resnet50-simclr epochs=100, dtd: knn 71.3, finetune 84.2"> … </g>

``data-encoder`` is the exact label of the encoder, escaped as HTML, so a page's script finds all
marks of an encoder in all figures by comparing ``element.dataset.encoder`` with the label.
``aria-label`` holds the numbers for a tooltip. Labels that a crowded panel leaves out do not exist
as text. The root element is ``<svg class="figure">``; its ``aria-label`` is the figure's title.

The categorical colours are those of Okabe and Ito (https://jfly.uni-koeln.de/color/), which
readers with any common kind of colour blindness can tell apart. Values around zero go from
vermilion through a light grey to blue, which differ for these readers in hue and in lightness.
"""

import dataclasses
from collections.abc import Sequence

FONT = "Liberation Sans, Arial, Helvetica, sans-serif"
"""Fonts of equal metrics, so that texts have the same widths in files and in every browser."""

TITLE, AXIS, TICK, LABEL = 11.0, 10.0, 9.0, 8.5
"""Sizes of text in pixels: titles of panels, titles of axes, numbers at axes, labels of points."""

WIDTH = 1000.0
"""Width in pixels that a figure of several panels should not exceed."""

OKABE_ITO = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#A6A600", "#555555"
)  # fmt: skip
"""The colours of Okabe and Ito; yellow is darker, black is a grey: both then show on white."""


@dataclasses.dataclass(frozen=True)
class Theme:
    """The colours of a figure, each a colour or a CSS variable with a fallback.

    Args:
        name: ``paper`` or ``page``.
        ink: text, and marks without a category.
        muted: secondary text, leader lines.
        grid: grid lines.
        paper: the background; also the inside of hollow marks.
        accent: points of single-coloured figures.
        colors: the categorical colours, in the order of their use.
        negative: the end of the diverging scale at -1.
        neutral: the middle of the diverging scale at 0.
        positive: the end of the diverging scale at 1.
        on_strong: text on cells near either end of the diverging scale.
        background: whether the background is drawn.
    """

    name: str
    ink: str
    muted: str
    grid: str
    paper: str
    accent: str
    colors: Sequence[str]
    negative: str
    neutral: str
    positive: str
    on_strong: str
    background: bool

    def color(self, number: int) -> str:
        """Return the categorical colour of a number; they repeat after eight."""
        return self.colors[number % len(self.colors)]


PAPER = Theme(
    name="paper",
    ink="#222222",
    muted="#5f6b76",
    grid="#e3e7ea",
    paper="#ffffff",
    accent=OKABE_ITO[0],
    colors=OKABE_ITO,
    negative="#D55E00",
    neutral="#f2f2f2",
    positive="#0072B2",
    on_strong="#ffffff",
    background=True,
)


def _on_page(theme: Theme) -> Theme:
    """Return a theme whose colours are CSS variables with the given colours as fallback."""
    names = ("ink", "muted", "paper", "accent", "negative", "neutral", "positive")
    variables = {name: f"var(--{name},{getattr(theme, name)})" for name in names}
    variables["grid"] = f"var(--line,{theme.grid})"
    variables["on_strong"] = f"var(--on-strong,{theme.on_strong})"
    colors = tuple(f"var(--c{number},{color})" for number, color in enumerate(theme.colors, 1))
    return dataclasses.replace(theme, name="page", colors=colors, background=False, **variables)


PAGE = _on_page(PAPER)
