"""Own scores beside published ones as tables of texts and as CSV."""

import statistics
from collections import defaultdict
from collections.abc import Sequence

from results.tables.comparison import Comparison, Pair
from results.tables.protocol_differences import Differences, summary
from results.tables.rendering import Table, to_csv

HEADER = ["table", "encoder", "protocol", "dataset", "metric"]


def to_table(comparison: Comparison, mean_over: Sequence[str] = ()) -> Table:
    """Return the pairs as a table of texts, with fractions in percent."""
    rows = [
        [
            pair.table,
            *pair.key,
            _shown(pair),
            _number(pair.published.value * pair.scale, pair.scale),
            _number(pair.difference, pair.scale, "+") + (" *" if pair.is_large else ""),
            str(len(pair.own.values)),
        ]
        for pair in comparison.pairs
    ]
    over = ", ".join(["seeds", *mean_over])
    counts = f"n: own runs ({over}), shown as mean ± sample standard deviation"
    if bounds := [pair.interval for pair in comparison.pairs if pair.interval is not None]:
        what = ", or over ".join(sorted({interval.over for interval in bounds}))
        counts += f"; [low, high]: 95 % interval over {what}"
    return Table(
        "Own scores beside published ones (fractions in %)",
        [*HEADER, "own", "published", "difference", "n"],
        rows,
        [counts, *_summaries(comparison), *_protocol_notes(comparison)],
        left=5,
    )


def _protocol_notes(comparison: Comparison) -> list[str]:
    """Return what differs in each protocol, and what a mark means."""
    cells: dict[tuple[str, str], list[tuple[str, Differences]]] = defaultdict(list)
    for pair in comparison.pairs:
        cells[pair.table, pair.key.protocol].append((pair.key.dataset, pair.protocols))
    notes = [
        f"{protocol} ({table}) {summary(differ)}" for (table, protocol), differ in cells.items()
    ]
    if any(pair.is_large for pair in comparison.pairs):
        notes.append(
            "*: the difference exceeds two of its standard deviations √(s²/n + d²), with s of the "
            "own runs (over test images for a single run) and d as published, else d = s"
        )
    return notes


def _shown(pair: Pair) -> str:
    text = _number(pair.own.mean * pair.scale, pair.scale)
    if pair.interval is not None:
        low, high = (_number(end * pair.scale, pair.scale) for end in pair.interval[:2])
        return f"{text} [{low}, {high}]"
    spread = pair.own.spread
    return text if spread is None else f"{text} ± {_number(spread * pair.scale, pair.scale)}"


def _number(value: float, scale: float, sign: str = "") -> str:
    return f"{value:{sign}.2f}" if scale == 100 else f"{value:{sign}.4g}"


def _summaries(comparison: Comparison) -> list[str]:
    """Return each protocol's mean difference, and the numbers of scores without a counterpart."""
    groups: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for pair in comparison.pairs:
        groups[pair.table, pair.key.protocol, pair.key.metric].append(pair.difference)
    notes = [
        f"{protocol} {metric} ({table}): mean difference {statistics.fmean(all_):+.2f}, mean size "
        f"{statistics.fmean(map(abs, all_)):.2f} over {len(all_)} cells"
        for (table, protocol, metric), all_ in groups.items()
    ]
    alone = len(comparison.only_own), len(comparison.only_published)
    if any(alone):
        notes.append(
            f"{alone[0]} own cells have no published figure, {alone[1]} published figures no own "
            "run: `--unmatched` lists them"
        )
    return notes


def unmatched(comparison: Comparison) -> list[Table]:
    """Return tables of scores without a counterpart: own cells, then published figures."""
    tables = []
    for title, keys in (
        ("Own cells without a published figure", [("", key) for key in comparison.only_own]),
        ("Published figures without an own run", comparison.only_published),
    ):
        groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for name, key in keys:
            groups[name, key.encoder, key.protocol, key.metric].append(key.dataset or "–")
        rows = [[*group, ", ".join(datasets)] for group, datasets in groups.items()]
        if rows:
            header = ["table", "encoder", "protocol", "metric", "datasets"]
            tables.append(Table(title, header, rows, left=5))
    return tables


def to_csv_pairs(comparison: Comparison) -> str:
    """Return CSV with one row of numbers per pair; fractions are in percent."""
    header = [*HEADER, "unit", "own", "own std", "own low", "own high"]
    header += ["published", "published std", "difference", "large", "n", "differs"]
    rows: list[list[object]] = []
    for pair in comparison.pairs:
        scale, spread = pair.scale, pair.own.spread
        unit = "percent" if scale == 100 else pair.published.unit
        published = pair.published.value, pair.deviation
        numbers = [
            None if number is None else round(number * scale, 4)
            for number in (pair.own.mean, spread, *(pair.interval or (None, None))[:2], *published)
        ]
        large = None if pair.is_large is None else int(pair.is_large)
        differs = "; ".join(map(str, pair.protocols.differing))
        rest = [round(pair.difference, 4), large, len(pair.own.values), differs]
        rows.append([pair.table, *pair.key, unit, *numbers, *rest])
    return to_csv(header, rows)
