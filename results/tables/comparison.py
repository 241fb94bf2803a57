"""Comparison of own and published scores, matched by encoder, protocol, dataset and metric."""

import dataclasses
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from results.errors import ResultsError
from results.published.catalogue import other_names, read_published
from results.records.cells import Cell, cells
from results.records.labels import natural
from results.records.reading import Results, Row
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
    """

    table: str
    key: Key
    own: Cell
    published: Row

    @property
    def scale(self) -> float:
        """Factor for showing scores (100 for percent)."""
        return 100.0 if self.published.unit == "fraction" else 1.0

    @property
    def difference(self) -> float:
        """Own mean minus published score, as shown."""
        return self.scale * (self.own.mean - self.published.value)


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
    own = _own_cells(results, {row.metric for _, row in stated})
    by_name: dict[Key, list[Key]] = defaultdict(list)
    for key in own:
        by_name[_plain(key)].append(key)

    def _variants(published: Key) -> list[Key]:
        return [key for key in by_name[_plain(published)] if _is_variant(key, published)]

    pairs, only_published = [], []
    others = {name: other_names(name) for name in tables}
    for name, row in stated:
        published = Key(row.encoder, row.protocol, row.dataset, row.metric)
        names = [row.encoder, *others[name][row.encoder]]
        keys = [key for label in names for key in _variants(published._replace(encoder=label))]
        pairs += [Pair(name, key, own[key], row) for key in sorted(keys, key=_order)]
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
            _number(pair.difference, pair.scale, "+"),
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
        [counts, *_summaries(comparison)],
        left=5,
    )


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
    header = [*HEADER, "unit", "own", "own std", "published", "difference", "n"]
    rows: list[list[object]] = []
    for pair in comparison.pairs:
        scale, spread = pair.scale, pair.own.spread
        unit = "percent" if scale == 100 else pair.published.unit
        numbers = [pair.own.mean * scale, None if spread is None else spread * scale]
        numbers += [pair.published.value * scale, pair.difference]
        rounded = [None if number is None else round(number, 4) for number in numbers]
        rows.append([pair.table, *pair.key, unit, *rounded, len(pair.own.values)])
    return to_csv(header, rows)
