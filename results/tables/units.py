"""Numbers with units as short texts."""

import math


def duration(seconds: float) -> str:
    """Return seconds as text with a unit that suits them.

    Example:
        >>> [duration(seconds) for seconds in (0.25, 90.0, 600.0, 9000.0)]
        ['0.2 s', '90.0 s', '10 min', '2 h 30 min']
    """
    if math.isnan(seconds):
        return "–"
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
