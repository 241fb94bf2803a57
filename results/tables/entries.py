"""What a cell of a table shows: a score with its uncertainty, or why there is none."""

import dataclasses
import math
import statistics
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

from results.records.cells import Cell

MISSING = "–"
OUTDATED = "other data"
SHOWN = ("deviation", "interval", "none")
"""What may stand beside a mean."""

Key = TypeVar("Key", bound=Hashable)


@dataclasses.dataclass(frozen=True)
class Entry:
    """A score as a table shows it; fractions are in percent.

    Args:
        value: the mean over runs; None without a score.
        spread: the sample standard deviation over runs; None for a single one.
        interval: the ends of the 95 % interval of the mean; None if it is unknown.
        over: what the interval is over.
        count: the number of runs.
        metric, unit, higher_is_better: what the score measures; ``unit`` is ``percent`` for
            fractions.
        status: why there is no score: ``failed``, ``n/a``, ``invalid`` or ``–``.
        remarks: what the mean does not contain.
        outdated: whether the score belongs to other data or weights than those beside it.
    """

    value: float | None = None
    spread: float | None = None
    interval: tuple[float, float] | None = None
    over: str = ""
    count: int = 0
    metric: str = ""
    unit: str = ""
    higher_is_better: bool = True
    status: str = MISSING
    remarks: tuple[str, ...] = ()
    outdated: bool = False


def entry_of(cell: Cell, interval: tuple[float, float, str] | None = None) -> Entry:
    """Return what a table shows of a cell.

    Args:
        cell: the cell.
        interval: the ends of the interval of its mean, and what it is over.
    """
    if cell.row is None or not cell.values:
        reasons = {"invalid": cell.invalid, "failed": cell.failed, "n/a": cell.not_applicable}
        return Entry(status=next((text for text, holds in reasons.items() if holds), MISSING))
    fraction = cell.row.unit == "fraction"
    scale = 100.0 if fraction else 1.0
    remarks = [f"{cell.failed} failed"] if cell.failed else []
    remarks += [f"{cell.invalid} invalid"] if cell.invalid else []
    remarks += [f"{cell.left_out} on other files"] if cell.left_out else []
    remarks += [OUTDATED] if cell.outdated else []
    spread = cell.spread
    return Entry(
        value=cell.mean * scale,
        spread=None if spread is None else spread * scale,
        interval=None if interval is None else (interval[0] * scale, interval[1] * scale),
        over="" if interval is None else interval[2],
        count=len(cell.values),
        metric=cell.row.metric,
        unit="percent" if fraction else cell.row.unit,
        higher_is_better=cell.row.higher_is_better,
        status="",
        remarks=tuple(remarks),
        outdated=cell.outdated,
    )


def mean_of(entries: Sequence[Entry]) -> Entry:
    """Return the mean over datasets; it has no value if one is missing or the units differ."""
    kinds = {(entry.unit, entry.higher_is_better) for entry in entries if entry.value is not None}
    values = [entry.value for entry in entries if entry.value is not None]
    if len(values) < len(entries) or len(kinds) != 1:
        return Entry()
    metrics = {entry.metric for entry in entries}
    return Entry(
        value=statistics.fmean(values),
        count=len(values),
        metric=metrics.pop() if len(metrics) == 1 else "mean",
        unit=entries[0].unit,
        higher_is_better=entries[0].higher_is_better,
        status="",
        remarks=(OUTDATED,) if any(entry.outdated for entry in entries) else (),
        outdated=any(entry.outdated for entry in entries),
    )


def text_of(entry: Entry, runs: int, show: str = "deviation") -> str:
    """Return the text of a cell.

    Args:
        entry: its content.
        runs: the usual number of runs; another one is said.
        show: one of ``SHOWN``.
    """
    if entry.value is None:
        return entry.status
    text = figure(entry.value, entry.unit)
    if show == "deviation" and entry.spread is not None:
        text += f" ± {figure(entry.spread, entry.unit)}"
    if show == "interval" and entry.interval is not None:
        low, high = (figure(end, entry.unit, digits=1) for end in entry.interval)
        text += f" [{low}, {high}]"
    remarks = ([f"n={entry.count}"] if entry.count != runs else []) + list(entry.remarks)
    return f"{text} ({', '.join(remarks)})" if remarks else text


def figure(value: float, unit: str, digits: int = 2) -> str:
    """Return a number as text: percent with some decimals, others with four or three digits."""
    text = f"{value:.{digits}f}" if unit == "percent" else f"{value:.{digits + 2}g}"
    return text.removeprefix("-") if float(text) == 0 else text


def number(value: float | None, unit: str) -> float | None:
    """Return a number for a file: percent with four decimals, others with six digits."""
    if value is None:
        return None
    return round(value, 4) if unit == "percent" else float(f"{value:.6g}")


def best(entries: Mapping[Key, Entry], group: Callable[[Key], Hashable]) -> set[Key]:
    """Return the keys of the best scores among those that are compared with each other.

    Scores are compared within a group, if they have the same metric and unit. Scores that look
    equal in the table are equally good. One score alone is not the best, and neither is one of
    outdated data or weights.
    """
    groups: dict[Hashable, list[Key]] = {}
    for key, entry in entries.items():
        if entry.value is not None and not entry.outdated:
            kind = (group(key), entry.metric, entry.unit, entry.higher_is_better)
            groups.setdefault(kind, []).append(key)
    chosen: set[Key] = set()
    for keys in groups.values():
        if len(keys) > 1:
            shown = {key: entries[key] for key in keys}
            top = min(shown.values(), key=goodness)
            figures = {key: figure(entry.value or 0.0, entry.unit) for key, entry in shown.items()}
            chosen |= {k for k in keys if figures[k] == figure(top.value or 0.0, top.unit)}
    return chosen


def goodness(entry: Entry) -> float:
    """Return a sorting key under which better scores come first, and missing ones last."""
    if entry.value is None:
        return math.inf
    return -entry.value if entry.higher_is_better else entry.value
