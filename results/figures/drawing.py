"""A drawing: marks and texts in pixels, written as one compact SVG.

The figures compute all positions themselves, because the placement of labels needs them. What a
drawing adds is small: elements, escaping, groups of encoders, and the box of every text, from which
tests see that no two overlap.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from results.errors import ResultsError
from results.figures.text import ASCENT, DESCENT, LEADING, width
from results.figures.theme import FONT, Theme
from results.plain_text import html_text, one_line

Anchor = Literal["start", "middle", "end"]
Point = tuple[float, float]


class NotDrawn(ResultsError):
    """A figure that the results do not allow; the message says in one sentence what is missing."""


class Box(NamedTuple):
    """A rectangle in pixels; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def common(self, other: "Box") -> float:
        """Return the area that two boxes share."""
        across = min(self.right, other.right) - max(self.left, other.left)
        down = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(across, 0.0) * max(down, 0.0)


class Text(NamedTuple):
    """A text of a drawing and the box that it covers."""

    text: str
    box: Box


class Drawing:
    """A figure of a fixed size in pixels.

    Args:
        width: width in pixels.
        height: height in pixels.
        theme: the colours.
        title: what the figure shows, in a few words; it is not drawn.
        caption: sentences that explain how to read it; they are not drawn either.
    """

    def __init__(
        self, width: float, height: float, theme: Theme, title: str, caption: str = ""
    ) -> None:
        self.width, self.height = math.ceil(width), math.ceil(height)
        self.theme, self.title, self.caption = theme, one_line(title), caption
        self.texts: list[Text] = []
        self._parts: list[str] = []

    def svg(self) -> str:
        """Return the drawing as an SVG element, which is a file and fits into an HTML page."""
        size = f'width="{self.width}" height="{self.height}"'
        background = f'<rect {size} fill="{self.theme.paper}"/>' if self.theme.background else ""
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="figure" {size} '
            f'viewBox="0 0 {self.width} {self.height}" role="group" '
            f'font-family="{FONT}" fill="{self.theme.ink}" '
            f'aria-label="{html_text(self.title)}"><desc>{html_text(one_line(self.caption))}</desc>'
            f"{background}{''.join(self._parts)}</svg>"
        )

    @contextlib.contextmanager
    def encoder(self, label: str, description: str = "") -> Iterator[None]:
        """Group what belongs to one encoder, so that a page can highlight it.

        Args:
            label: the encoder's exact label.
            description: its numbers, for the tooltip.
        """
        numbers = f"{label}: {description}" if description else label
        self._parts.append(
            f'<g class="encoder" data-encoder="{html_text(label)}" '
            f'aria-label="{html_text(one_line(numbers))}">'
        )
        yield
        self._parts.append("</g>")

    def line(
        self,
        start: Point,
        end: Point,
        color: str,
        width: float = 1.0,
        dash: str = "",
        opacity: float = 1.0,
    ) -> None:
        """Draw a straight line."""
        self.path([start, end], color, width, dash, opacity)

    def path(
        self,
        points: Sequence[Point],
        color: str,
        width: float = 1.5,
        dash: str = "",
        opacity: float = 1.0,
    ) -> None:
        """Draw a line through points."""
        places = "L".join(f"{_number(x)} {_number(y)}" for x, y in points)
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        faint = f' stroke-opacity="{opacity:g}"' if opacity < 1 else ""
        self._parts.append(
            f'<path d="M{places}" fill="none" stroke="{color}" '
            f'stroke-width="{width:g}"{dashed}{faint}/>'
        )

    def circle(self, center: Point, radius: float, fill: str, stroke: str = "") -> None:
        """Draw a circle; a stroke in another colour makes a hollow mark."""
        edge = f' stroke="{stroke}" stroke-width="1.3"' if stroke else ""
        place = f'cx="{_number(center[0])}" cy="{_number(center[1])}"'
        self._parts.append(f'<circle {place} r="{_number(radius)}" fill="{fill}"{edge}/>')

    def dots(
        self, points: Sequence[Point], color: str, size: float, *, square: bool = False
    ) -> None:
        """Draw many round or square dots of one colour in few bytes.

        Args:
            points: their middles.
            color: their colour.
            size: diameter or side in pixels.
            square: whether they are square.
        """
        places = "".join(f"M{_number(x)} {_number(y)}h0" for x, y in points)
        cap = "square" if square else "round"
        self._parts.append(
            f'<path d="{places}" fill="none" stroke="{color}" stroke-width="{size:g}" '
            f'stroke-linecap="{cap}"/>'
        )

    def polygon(self, points: Sequence[Point], fill: str, stroke: str = "") -> None:
        """Draw a filled polygon."""
        places = " ".join(f"{_number(x)},{_number(y)}" for x, y in points)
        edge = f' stroke="{stroke}" stroke-width="1.3"' if stroke else ""
        self._parts.append(f'<polygon points="{places}" fill="{fill}"{edge}/>')

    def rectangle(self, box: Box, fill: str, opacity: float = 1.0) -> None:
        """Draw a filled rectangle."""
        left, top = _number(box.left), _number(box.top)
        across, down = _number(box.right - box.left), _number(box.bottom - box.top)
        faint = f' fill-opacity="{opacity:.3g}"' if opacity < 1 else ""
        self._parts.append(
            f'<rect x="{left}" y="{top}" width="{across}" height="{down}" fill="{fill}"{faint}/>'
        )

    def text(
        self,
        place: Point,
        text: str,
        size: float,
        color: str = "",
        *,
        anchor: Anchor = "start",
        bold: bool = False,
        upwards: bool = False,
    ) -> None:
        """Write one line of text.

        Args:
            place: the point on the base line that ``anchor`` names.
            text: the text; control characters are escaped.
            size: its size in pixels.
            color: its colour (default: the ink).
            anchor: the part of the text that lies at ``place``.
            bold: whether it is bold.
            upwards: whether it reads from below to above.
        """
        text = one_line(text)
        self.texts.append(Text(text, text_box(place, text, size, anchor, bold, upwards)))
        x, y = _number(place[0]), _number(place[1])
        where = f'transform="translate({x},{y})rotate(-90)"' if upwards else f'x="{x}" y="{y}"'
        aligned = f' text-anchor="{anchor}"' if anchor != "start" else ""
        weight = ' font-weight="bold"' if bold else ""
        colored = f' fill="{color}"' if color and color != self.theme.ink else ""
        self._parts.append(
            f'<text {where} font-size="{size:g}"{colored}{aligned}{weight}>{html_text(text)}</text>'
        )

    def lines(
        self, place: Point, lines: Sequence[str], size: float, color: str = "",
        anchor: Anchor = "start",
    ) -> None:  # fmt: skip
        """Write lines of text below each other; ``place`` belongs to the first one."""
        for number, line in enumerate(lines):
            self.text((place[0], place[1] + number * size * LEADING), line, size, color,
                      anchor=anchor)  # fmt: skip


def text_box(
    place: Point, text: str, size: float, anchor: Anchor, bold: bool, upwards: bool
) -> Box:
    """Return the box that a line of text covers."""
    length = width(text, size, bold=bold)
    before = {"start": 0.0, "middle": length / 2, "end": length}[anchor]
    x, y = place
    if upwards:
        return Box(x - ASCENT * size, y + before - length, x + DESCENT * size, y + before)
    return Box(x - before, y - ASCENT * size, x - before + length, y + DESCENT * size)


def _number(value: float) -> str:
    """Return a coordinate to a tenth of a pixel, without needless characters."""
    text = f"{value:.1f}"
    return text[:-2] if text.endswith(".0") else text
