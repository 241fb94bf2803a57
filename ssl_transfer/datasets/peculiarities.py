"""What is unusual in a dataset's image files although they decode: one sentence per kind."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ssl_transfer.datasets.decoding import MAX_PIXELS, Decoding, Facts

Summary = dict[str, Any]
"""Plain JSON: kind -> number of files, an example, and further values for its message."""

_FEW_LEVELS = 128
"""Grey levels below which the values of 16-bit files suggest another range: 15 bits or fewer."""


def summarised(paths: Sequence[str], facts: Sequence[Facts]) -> Summary:
    """Return the summary of all files that ``sentences`` turns into messages.

    Args:
        paths: paths of the files that decode.
        facts: facts of each file.
    """
    summary: Summary = {}
    for path, fact in zip(paths, facts, strict=True):
        if fact.depth:
            low, high = fact.values
            seen = summary.setdefault(fact.depth, {"files": 0, "low": low, "high": high})
            seen["files"] += 1
            seen["low"], seen["high"] = min(seen["low"], low), max(seen["high"], high)
        for kind, applies in (("several", fact.several), ("reduced", fact.reduced is not None)):
            if applies:
                summary.setdefault(kind, {"files": 0, "example": path})["files"] += 1
    return summary


def sentences(name: str, summary: Mapping[str, Any], decoding: Decoding) -> Iterator[str]:
    """Yield the messages for the user.

    Args:
        name: name of the dataset.
        summary: summary of its files.
        decoding: how they are decoded.
    """
    if grey := summary.get("grey"):
        yield from _grey(name, grey["files"], grey["low"], grey["high"], decoding.value_range)
    elif decoding.value_range is not None:
        yield (
            f"dataset.value_range={_shown(decoding.value_range)} has no effect on `{name}`, which "
            "has no grey images of more than 8 bits."
        )
    if (colour := summary.get("colour")) and _levels(0, colour["high"], (0, 65535)) < _FEW_LEVELS:
        yield (
            f"all {colour['files']} 16-bit colour images of `{name}` stay below "
            f"{int(colour['high']) + 1} of 65536, so that they are nearly black with at most "
            f"{_levels(0, colour['high'], (0, 65535))} of 256 levels; save them as 8-bit images "
            "that use the whole range."
        )
    if several := summary.get("several"):
        yield (
            f"of {several['files']} files of `{name}` with several pictures, such as "
            f"`{several['example']}`, only the first picture is read."
        )
    if reduced := summary.get("reduced"):
        yield (
            f"{reduced['files']} JPEG files of `{name}`, such as `{reduced['example']}`, have more "
            f"than {MAX_PIXELS / 1e6:.0f} million pixels and are read at a reduced size."
        )


def _grey(
    name: str, files: int, low: float, high: float, value_range: tuple[float, float] | None
) -> Iterator[str]:
    used = value_range or (0.0, 65535.0)
    levels = _levels(low, high, used)
    suggestion = _suggested(low, high)
    remedy = f"set dataset.value_range={_shown(suggestion)} if these are black and white."
    range_text = (
        f"the {files} grey images of `{name}` with more than 8 bits have values from {low:g} to "
    )
    if low < used[0] or high > used[1]:
        yield f"{range_text}{high:g}, and values outside of {_shown(used)} are clipped; {remedy}"
    elif levels < _FEW_LEVELS and suggestion != used:
        yield (
            f"{range_text}{high:g}, so that at most {levels} of 256 grey levels are left of the "
            f"range {_shown(used)}; {remedy}"
        )


def _levels(low: float, high: float, used: tuple[float, float]) -> int:
    """Return how many of 256 levels the values between two numbers can take."""
    low, high = (min(max(value, used[0]), used[1]) for value in (low, high))
    return round((high - low) * 255 / (used[1] - used[0])) + 1


def _suggested(low: float, high: float) -> tuple[float, float]:
    """Return the usual range that holds these values: 0 to 1, or whole bits from 8 on."""
    if low < 0:
        return (low, high)
    if high <= 1:
        return (0.0, 1.0)
    return (0.0, float(2 ** max(8, int(high).bit_length()) - 1))


def _shown(pair: tuple[float, float]) -> str:
    return "[" + ",".join(f"{value:.10g}" for value in pair) + "]"
