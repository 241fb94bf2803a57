"""Files of figures: SVG by themselves, PNG and PDF with vl-convert."""

import importlib.util
from pathlib import Path

from results.errors import ResultsError, unknown
from results.figures.drawing import Drawing

FORMATS = ("svg", "pdf", "png")
_PIXELS_PER_PIXEL = 2.5
"""Scale of PNG files: 240 pixels per inch if the figure is printed at its size of 96 per inch."""


def save(drawing: Drawing, path: Path) -> None:
    """Write a figure; the ending of the file gives the format.

    Args:
        drawing: the figure, in the theme ``PAPER``.
        path: the file, which ends in ``.svg``, ``.pdf`` or ``.png``.

    Raises:
        ResultsError: for another ending, or if PNG or PDF is asked for without vl-convert.
    """
    ending = path.suffix.removeprefix(".")
    if ending not in FORMATS:
        raise unknown("the ending of a figure's file", path.suffix, [f".{one}" for one in FORMATS])
    data = rendered(drawing, ending)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def rendered(drawing: Drawing, ending: str) -> bytes:
    """Return a figure as ``svg``, ``pdf`` or ``png``."""
    text = drawing.svg()
    if ending == "svg":
        return text.encode()
    require_vl_convert()
    import vl_convert

    if ending == "pdf":
        return bytes(vl_convert.svg_to_pdf(text))
    return bytes(vl_convert.svg_to_png(text, scale=_PIXELS_PER_PIXEL))


def require_vl_convert() -> None:
    """Raise ResultsError if vl-convert is not installed."""
    if importlib.util.find_spec("vl_convert") is None:
        raise ResultsError(
            "a figure as PNG or PDF needs the package vl-convert, but it is not installed; install "
            "it (pip install 'ssl_transfer[report]'), or take SVG."
        )
