"""Comparison of own and published scores, matched by encoder, protocol, dataset and metric."""

import dataclasses
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from results.errors import ResultsError
from results.published.catalogue import lines, other_names, read_published
from results.published.protocols import facts
from results.records.cells import Cell, cells
from results.records.labels import natural
from results.records.reading import Results, Row
from results.tables.protocol_differences import Differences, differences, summary
from results.tables.rendering import Table, to_csv

HEADER = ["table", "encoder", "protocol", "dataset", "metric"]


class Key(NamedTuple):
    """What a score belongs to."""

    encoder: str
    protocol: str
    dataset: str
    metric: str


@dataclasses.dataclass(frozen=True)
class Pair:
    """An own score and the corresponding published one.

    Args:
        table: the published table's name.
        key: the key of both scores, with the own labels.
        own: the own runs.
        published: the published score.
        deviation: the standard deviation that is published with it; None if there is none.
        error: the standard deviation of the difference; None if it is unknown.
        protocols: what differs in protocol.
    """

    table: str
    key: Key
    own: Cell
    published: Row
    deviation: float | None = None
    error: float | None = None
    protocols: Differences = dataclasses.field(default_factory=Differences)

    @property
    def scale(self) -> float:
        """Factor for showing scores (100 for percent)."""
        return 100.0 if self.published.unit == "fraction" else 1.0

    @property
    def difference(self) -> float:
        """Own mean minus published score, as shown."""
        return self.scale * (self.own.mean - self.published.value)

    @property
    def is_large(self) -> bool | None:
        """Whether the difference exceeds two of its standard deviations; None if it has none."""
        if not self.error:
            return None
        return abs(self.own.mean - self.published.value) > 2 * self.error


@dataclasses.dataclass(frozen=True)
class Comparison:
    """All pairs, and the scores without a counterpart.

    Args:
        pairs: in the order of the published tables.
        only_own: own scores without a published one, for metrics that the tables contain.
        only_published: table and key of published scores without an own run.
    """

    pairs: list[Pair]
    only_own: list[Key]
    only_published: list[tuple[str, Key]]


def compare(results: Results, tables: Sequence[str]) -> Comparison:
    """Return own scores paired with those of published tables.

    Names must be equal, but an own label may have additional parts that distinguish variants
    (``finetune steps=5000`` matches ``finetune``). Each variant is a pair of its own. Parts of a
    published label, such as ``shots=5``, must be in the own one. A table may state further names
    of an encoder, under which its released weights are evaluated.

    Args:
        results: own records.
        tables: names of published tables.

    Raises:
        ResultsError: if a table is unknown, or no score has a counterpart.
    """
    stated = [(name, row) for name in tables for row in read_published([name]).rows]
    deviations = [deviation for name in tables for deviation in _deviations(name)]
    own = _own_cells(results, {row.metric for _, row in stated})
    by_name: dict[Key, list[Key]] = defaultdict(list)
    for key in own:
        by_name[_plain(key)].append(key)

    def _variants(published: Key) -> list[Key]:
        return [key for key in by_name[_plain(published)] if _is_variant(key, published)]

    pairs, only_published = [], []
    others = {name: other_names(name) for name in tables}
    for (name, row), deviation in zip(stated, deviations, strict=True):
        published = Key(row.encoder, row.protocol, row.dataset, row.metric)
        names = [row.encoder, *others[name][row.encoder]]
        keys = [key for label in names for key in _variants(published._replace(encoder=label))]
        for key in sorted(keys, key=_order):
            differ = _protocols(results, own[key], name, row)
            error = _error(results, own[key], deviation)
            pairs.append(Pair(name, key, own[key], row, deviation, error, differ))
        only_published += [] if keys else [(name, published)]
    matched = {pair.key for pair in pairs}
    only_own = sorted((key for key in own if key not in matched), key=_order)
    if not pairs:
        raise ResultsError(
            "own and published scores must share an encoder, protocol, dataset and metric, but "
            f"none of {_some(only_own)} is in {', '.join(f'`{name}`' for name in tables)}, which "
            f"begins with {_some([key for _, key in only_published][:1])}."
        )
    return Comparison(pairs, only_own, only_published)


def _deviations(table: str) -> list[float | None]:
    """Return the standard deviation of each score of a table, in the unit of the rows."""
    return [
        float(line["deviation"]) / (100 if line.get("unit", "percent") == "percent" else 1)
        if line.get("deviation")
        else None
        for line in lines(table)
    ]


def _error(results: Results, own: Cell, deviation: float | None) -> float | None:
    """Return the standard deviation of the difference between an own mean and a published score.

    The variance is s²/n of n own runs with deviation s, plus the square of the published deviation.
    A published score without one counts as a single run with the deviation s. Of a single own run
    s is the deviation over test images, if its predictions are kept.
    """
    spread, n = own.spread, len(own.values)
    if spread is None:
        from results.records.score_intervals import cell_spread  # slow: it imports numpy

        over_images = cell_spread(results, own)
        spread = None if over_images is None else math.sqrt(over_images.images)
    if not spread:
        return None
    return math.hypot(spread / math.sqrt(n), spread if deviation is None else deviation)


def _protocols(results: Results, own: Cell, table: str, published: Row) -> Differences:
    """Return what differs in protocol; all runs of a cell have the same one but for the seed."""
    run_id = next(run_id for _, run_id in own.values)
    stated = facts(table, published.protocol, published.dataset)
    return differences(results.documents.get(run_id, {}), stated)


def _own_cells(results: Results, metrics: Iterable[str]) -> dict[Key, Cell]:
    available = {(row.protocol, row.metric) for row in results.rows}
    return {
        Key(encoder, protocol, dataset, metric): cell
        for protocol, metric in available & {(p, m) for p, _ in available for m in metrics}
        for (encoder, dataset), cell in cells(results, protocol, metric).items()
        if cell.values
    }


def _plain(key: Key) -> Key:
    """Return a key without the parts of its labels that distinguish variants."""
    return Key(*(label.split(" ")[0] for label in key))


def _is_variant(own: Key, published: Key) -> bool:
    """Return whether the own labels have all parts of the published ones."""
    return all(
        set(wanted.split(" ")) <= set(label.split(" "))
        for label, wanted in zip(own, published, strict=True)
    )


def _order(key: Key) -> list[list[tuple[int, float, str]]]:
    return [natural(key.protocol), natural(key.encoder), natural(key.dataset), natural(key.metric)]


def _some(keys: Sequence[Key]) -> str:
    shown = "; ".join(" ".join(part for part in key if part) for key in keys[:3])
    return f"`{shown}`" + (f" (and {len(keys) - 3} more)" if len(keys) > 3 else "")


def to_table(comparison: Comparison, mean_over: Sequence[str] = ()) -> Table:
    """Return the pairs as a table of texts, with fractions in percent."""
    rows = [
        [
            pair.table,
            *pair.key,
            _shown(pair.own, pair.scale),
            _number(pair.published.value * pair.scale, pair.scale),
            _number(pair.difference, pair.scale, "+") + (" *" if pair.is_large else ""),
            str(len(pair.own.values)),
        ]
        for pair in comparison.pairs
    ]
    over = ", ".join(["seeds", *mean_over])
    counts = f"n: own runs ({over}), shown as mean ± sample standard deviation"
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


def _shown(cell: Cell, scale: float) -> str:
    text = _number(cell.mean * scale, scale)
    return text if cell.spread is None else f"{text} ± {_number(cell.spread * scale, scale)}"


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
    header = [*HEADER, "unit", "own", "own std", "published", "published std", "difference"]
    header += ["large", "n", "differs"]
    rows: list[list[object]] = []
    for pair in comparison.pairs:
        scale, spread = pair.scale, pair.own.spread
        unit = "percent" if scale == 100 else pair.published.unit
        published = pair.published.value, pair.deviation
        numbers = [
            None if number is None else round(number * scale, 4)
            for number in (pair.own.mean, spread, *published)
        ]
        large = None if pair.is_large is None else int(pair.is_large)
        differs = "; ".join(map(str, pair.protocols.differing))
        rest = [round(pair.difference, 4), large, len(pair.own.values), differs]
        rows.append([pair.table, *pair.key, unit, *numbers, *rest])
    return to_csv(header, rows)
