"""What pictures of one run share, which matplotlib draws because they hold images and matrices.

matplotlib is imported only when a picture is drawn.
"""

import importlib.util
from typing import TYPE_CHECKING

from results.errors import ResultsError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, DOT = "#333333", "#1f6fb4"


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
