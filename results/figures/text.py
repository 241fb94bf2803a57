"""The size of texts in figures, from the metrics of their font.

The widths are those of Helvetica in thousandths of the size (Adobe Font Metrics, Core 14), which
Arial and Liberation Sans share by design. They need neither a font file nor a renderer, so that a
figure is the same on every computer.
"""

import unicodedata

_WIDTHS = (
    "278 278 355 556 556 889 667 191 333 333 389 584 278 333 278 278 556 556 556 556 556 556 556 "
    "556 556 556 278 278 584 584 584 556 1015 667 667 722 722 667 611 778 722 278 500 667 556 833 "
    "722 778 667 778 722 667 611 722 667 944 667 667 611 278 278 278 469 556 333 556 556 500 556 "
    "556 278 556 556 222 222 500 222 833 556 556 556 556 333 500 278 556 500 722 500 500 500 334 "
    "260 334 584"
)
WIDTHS = dict(zip(map(chr, range(32, 127)), map(int, _WIDTHS.split()), strict=True))
"""Width of each printable ASCII character, in thousandths of the size."""

_OTHER, _WIDE, _BOLD = 700, 1000, 1.09
ASCENT, DESCENT = 0.74, 0.22
"""Height above and below the base line, in sizes."""
LEADING = 1.18
"""Distance of two lines, in sizes."""


def width(text: str, size: float, *, bold: bool = False) -> float:
    """Return the width of one line of text in the unit of ``size``.

    Example:
        >>> round(width("knn", 10), 2)
        16.12
    """
    units = sum(WIDTHS[c] if c in WIDTHS else _other(c) for c in text)
    return units * size / 1000 * (_BOLD if bold else 1)


def _other(character: str) -> int:
    """Return an upper estimate of the width of a character that is not ASCII."""
    if unicodedata.combining(character):
        return 0
    if unicodedata.east_asian_width(character) in "WF":
        return _WIDE
    base = unicodedata.normalize("NFD", character)[0]
    return WIDTHS.get(base, _OTHER)


def shortened(text: str, size: float, most: float) -> str:
    """Return a text that is at most ``most`` wide, with an ellipsis in its middle if it was longer.

    Example:
        >>> shortened("small_resnet-simclr epochs=100", 9, 90)
        'small_re…hs=100'
    """
    if width(text, size) <= most:
        return text
    for kept in range(len(text) - 1, 0, -1):
        start = (kept + 1) // 2
        short = f"{text[:start]}…{text[len(text) - (kept - start) :]}"
        if width(short, size) <= most:
            return short
    return "…"


def common_start(labels: list[str]) -> str:
    """Return what all labels begin with, up to the last separator; nothing for one label.

    Example:
        >>> common_start(["resnet-byol", "resnet-simclr"])
        'resnet-'
    """
    if len(set(labels)) < 2:
        return ""
    first, last = min(labels), max(labels)
    pairs = enumerate(zip(first, last, strict=False))
    start = first[: next((i for i, (a, b) in pairs if a != b), min(len(first), len(last)))]
    cut = max(start.rfind(separator) for separator in "- ") + 1
    return start[:cut]


def split_label(label: str) -> list[str]:
    """Return a label in one line or, at its first space, two."""
    return label.split(" ", 1)
