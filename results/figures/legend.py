"""The legend below a figure: a mark and a name per category, in as many lines as they need."""

from collections.abc import Callable, Sequence

from results.figures.drawing import Drawing, Point
from results.figures.text import shortened, width
from results.figures.theme import LABEL

_ROW, _LEFT, _MARK, _GAP, _LONGEST = 16.0, 10.0, 26.0, 18.0, 260.0
"""Height of a line; room before the first mark, for a mark, between entries, and for a name."""


class Legend:
    """The names of a figure's categories.

    Args:
        names: one per category.
        room: width of the figure in pixels.
    """

    def __init__(self, names: Sequence[str], room: float) -> None:
        self.names = [shortened(name, LABEL, _LONGEST) for name in names]
        self.places: list[Point] = []
        x, y = _LEFT, 0.0
        for name in self.names:
            needed = _MARK + width(name, LABEL) + _GAP
            if x + needed > room and x > _LEFT:
                x, y = _LEFT, y + _ROW
            self.places.append((x, y))
            x += needed

    @property
    def height(self) -> float:
        """The height of all lines in pixels; 0 without names."""
        return self.places[-1][1] + 2 * _ROW if self.places else 0.0

    def draw(self, drawing: Drawing, top: float, mark: Callable[[int, Point, Point], None]) -> None:
        """Draw the legend.

        Args:
            drawing: where.
            top: its upper edge.
            mark: draws the mark of a category, given its number and the ends of its place.
        """
        for number, (name, (x, y)) in enumerate(zip(self.names, self.places, strict=True)):
            base = top + y + _ROW
            mark(number, (x, base - 3), (x + _MARK - 6, base - 3))
            drawing.text((x + _MARK, base), name, LABEL)
