"""Axes: scales from values to pixels, their ticks, and the frame of a panel."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

from results.figures.drawing import Box, Drawing, Point
from results.figures.text import LEADING, shortened, width
from results.figures.theme import AXIS, TICK, TITLE

_GAP = 8.0
"""Smallest distance between two numbers at an axis, in pixels."""
_LARGEST = 1e150
"""Numbers from this size on, whose differences could overflow, do not stretch an axis."""


@dataclasses.dataclass(frozen=True)
class Scale:
    """A linear or logarithmic map from ``[low, high]`` to the pixels ``start`` to ``end``.

    Args:
        low: the smallest value.
        high: the largest value.
        start: the pixel of ``low``.
        end: the pixel of ``high``.
        log: whether the scale is logarithmic.
        whole: whether ticks stand at whole numbers only.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    whole: bool = False

    def __call__(self, value: float) -> float:
        """Return the pixel of a value."""
        low, high, at = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (at - low) / (high - low) * (self.end - self.start)

    def ticks(self, most: int) -> list[float]:
        """Return at most ``most`` round values within the range, at least two where they fit."""
        if self.log:
            return _log_ticks(self, most)
        steps = _linear_steps(1.0 if self.whole else (self.high - self.low) / max(most, 1))
        for step in steps:
            first = math.ceil(self.low / step - 1e-9)
            last = math.floor(self.high / step + 1e-9)
            if last - first < most and (not self.whole or step == round(step)):
                return [number * step for number in range(first, last + 1)]
        return []


def _linear_steps(least: float) -> Iterator[float]:
    """Yield round steps from the power of ten below ``least`` upwards, over six powers."""
    exponent = math.floor(math.log10(least))
    for power in range(exponent, exponent + 6):
        yield from (factor * 10.0**power for factor in (1, 2, 2.5, 5))


def _log_ticks(scale: Scale, most: int) -> list[float]:
    low, high = math.floor(math.log10(scale.low)), math.ceil(math.log10(scale.high))
    powers = range(low, high + 1)
    for factors, stride in (
        ((1, 2, 5), 1),
        ((1, 3), 1),
        ((1,), 1),
        *(((1,), s) for s in range(2, 9)),
    ):
        values = [factor * 10.0**power for power in powers[::stride] for factor in factors]
        inside = [v for v in values if scale.low * 0.999 <= v <= scale.high * 1.001]
        if len(inside) <= most:
            return inside
    return []


def spanning(values: Iterable[float], start: float, end: float, margin: float = 0.08) -> Scale:
    """Return a linear scale over finite values with a margin on both sides.

    Equal values, or none, get a range around them: one, or a tenth of large values.
    """
    finite = [value for value in values if abs(value) < _LARGEST] or [0.0]
    low, high = min(finite), max(finite)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        half = max(0.5, 0.05 * abs(high))
        low, high = low - half, high + half
    room = margin * (high - low)
    return Scale(low - room, high + room, start, end)


def spanning_log(values: Iterable[float], start: float, end: float, margin: float = 0.08) -> Scale:
    """Return a logarithmic scale over positive values with a margin on both sides."""
    finite = [value for value in values if 0 < value < _LARGEST] or [1.0]
    low, high = min(finite), max(finite)
    if high / low < 1.2:
        low, high = low / 1.5, high * 1.5
    room = (high / low) ** margin
    return Scale(low / room, high * room, start, end, log=True)


def plain(value: float) -> str:
    """Return a number at an axis, without needless zeros.

    Example:
        >>> [plain(value) for value in (0.30000000000000004, 70.0, -0.0, 12500.0)]
        ['0.3', '70', '0', '12500']
    """
    text = f"{value:.6g}" if abs(value) < 1e6 else f"{value:.3g}"
    return "0" if text == "-0" or abs(value) < 1e-12 else text


def short(value: float) -> str:
    """Return a number in thousands, millions or billions.

    Example:
        >>> [short(value) for value in (77392, 2.35e7, 5.8645e8, 950)]
        ['77.4 k', '23.5 M', '586 M', '950']
    """
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.3g}"


def fitting_ticks(
    scale: Scale, shown: Callable[[float], str], most: int, *, across: bool
) -> list[tuple[float, str]]:
    """Return ticks with their texts, so few that no two texts touch.

    Args:
        scale: the scale.
        shown: the text of a value.
        most: the largest number of ticks.
        across: whether the axis is horizontal, so that widths count rather than heights.
    """
    for count in range(most, 1, -1):
        ticks = [(value, shown(value)) for value in scale.ticks(count)]
        sizes = [width(text, TICK) if across else TICK for _, text in ticks]
        places = [scale(value) for value, _ in ticks]
        needed = zip(places, places[1:], sizes, sizes[1:], strict=False)
        if all(abs(b - a) >= (first + second) / 2 + _GAP for a, b, first, second in needed):
            return ticks
    return []


@dataclasses.dataclass(frozen=True)
class Panel:
    """The frame of one plot: its place, and the scales inside."""

    box: Box
    x: Scale
    y: Scale

    def at(self, x: float, y: float) -> Point:
        """Return the pixel of a pair of values."""
        return self.x(x), self.y(y)

    def draw(
        self,
        drawing: Drawing,
        *,
        titles: Sequence[str] = (),
        x_title: str = "",
        y_title: str = "",
        x_text: Callable[[float], str] | None = plain,
        y_text: Callable[[float], str] | None = plain,
    ) -> None:
        """Draw grid, numbers and titles.

        Args:
            drawing: where.
            titles: lines above the panel; the first one is bold.
            x_title: title of the horizontal axis.
            y_title: title of the vertical axis.
            x_text: the text of a value (None: no grid and no numbers).
            y_text: likewise.
        """
        theme, box = drawing.theme, self.box
        if x_text is not None:
            for value, text in fitting_ticks(self.x, x_text, 6, across=True):
                at = self.x(value)
                drawing.line((at, box.top), (at, box.bottom), theme.grid)
                drawing.text((at, box.bottom + TICK + 4), text, TICK, theme.muted, anchor="middle")
        if y_text is not None:
            for value, text in fitting_ticks(self.y, y_text, 6, across=False):
                at = self.y(value)
                drawing.line((box.left, at), (box.right, at), theme.grid)
                drawing.text((box.left - 5, at + TICK / 3), text, TICK, theme.muted, anchor="end")
        drawing.path(
            [(box.left, box.top), (box.left, box.bottom), (box.right, box.bottom)], theme.muted, 0.8
        )
        self._write_titles(drawing, titles, x_title, y_title)

    def _write_titles(
        self, drawing: Drawing, titles: Sequence[str], x_title: str, y_title: str
    ) -> None:
        """Write the titles, shortened to the panel's own place."""
        box = self.box
        middle, center = (box.left + box.right) / 2, (box.top + box.bottom) / 2
        room = box.right - box.left + 24
        for number, title in enumerate(reversed(titles)):
            first = number == len(titles) - 1
            size = TITLE if first else TICK
            place = box.left - 12, box.top - 8 - number * TICK * 1.5
            fitting = shortened(title, size * (1.09 if first else 1), room)
            drawing.text(place, fitting, size, bold=first)
        if x_title:
            fitting = shortened(x_title, AXIS, room)
            drawing.text((middle, box.bottom + TICK + 6 + AXIS * LEADING), fitting, AXIS,
                         anchor="middle")  # fmt: skip
        if y_title:
            fitting = shortened(y_title, AXIS, box.bottom - box.top + 24)
            drawing.text((box.left - Y_TITLE, center), fitting, AXIS, anchor="middle", upwards=True)


Y_TITLE = 40.0
"""Distance of the vertical axis's title from the axis."""
ABOVE, BELOW, LEFT, RIGHT = 38.0, 40.0, 54.0, 18.0
"""Room around a panel for its titles and numbers."""


def grid_of(columns: int, number: int, size: Point) -> tuple[Box, Point]:
    """Return the inner box of a panel in a grid, and the size of a cell of this grid.

    Args:
        columns: number of panels side by side.
        number: the place of the panel, row by row.
        size: width and height of the inside of each panel.
    """
    cell = size[0] + LEFT + RIGHT, size[1] + ABOVE + BELOW
    row, column = divmod(number, columns)
    left, top = column * cell[0] + LEFT, row * cell[1] + ABOVE
    return Box(left, top, left + size[0], top + size[1]), cell
