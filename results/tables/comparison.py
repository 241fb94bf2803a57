"""Comparison of own and published scores, matched by encoder, protocol, dataset and metric."""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from results.errors import ResultsError
from results.published.catalogue import lines, other_names, read_published
from results.published.protocols import facts
from results.records.cells import Cell, cells
from results.records.labels import natural
from results.records.reading import Results, Row
from results.tables.protocol_differences import Differences, differences

if TYPE_CHECKING:
    from results.records.score_intervals import Interval


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
        protocols: what differs in protocol.
        over_images: the own mean's standard deviation over test images; None if it is unknown.
        interval: the 95 % interval of the own mean; None if it is unknown.
    """

    table: str
    key: Key
    own: Cell
    published: Row
    deviation: float | None = None
    protocols: Differences = dataclasses.field(default_factory=Differences)
    over_images: float | None = None
    interval: "Interval | None" = None

    @property
    def scale(self) -> float:
        """Factor for showing scores (100 for percent)."""
        return 100.0 if self.published.unit == "fraction" else 1.0

    @property
    def difference(self) -> float:
        """Own mean minus published score, as shown."""
        return self.scale * (self.own.mean - self.published.value)

    @property
    def error(self) -> float | None:
        """The standard deviation of the difference, as a fraction; None if it is unknown.

        The variance is s²/n of n own runs with deviation s, plus the square of the published
        deviation. A published score without one counts as a single run with the deviation s. Of a
        single own run s is the deviation over test images.
        """
        spread, n = self.own.spread, len(self.own.values)
        spread = self.over_images if spread is None else spread
        if not spread:
            return None
        return math.hypot(
            spread / math.sqrt(n), spread if self.deviation is None else self.deviation
        )

    @property
    def is_large(self) -> bool | None:
        """Whether the difference exceeds two of its standard deviations; None if it has none."""
        if self.error is None:
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


class _Stated(NamedTuple):
    """A published score, its deviation, and the names that its encoder has among own ones."""

    table: str
    row: Row
    deviation: float | None
    encoders: list[str]


def compare(results: Results, tables: Sequence[str], *, intervals: bool = False) -> Comparison:
    """Return own scores paired with those of published tables.

    Names must be equal, but an own label may have additional parts that distinguish variants
    (``finetune steps=5000`` matches ``finetune``). Each variant is a pair of its own. Parts of a
    published label, such as ``shots=5``, must be in the own one. A table may state further names
    of an encoder, under which its released weights are evaluated.

    Args:
        results: own records.
        tables: names of published tables.
        intervals: whether the intervals of own scores are computed, which takes time.

    Raises:
        ResultsError: if a table is unknown, or no score has a counterpart.
    """
    stated = [one for name in tables for one in _stated(name)]
    own = _own_cells(results, {one.row.metric for one in stated})
    by_name: dict[Key, list[Key]] = defaultdict(list)
    for key in own:
        by_name[_plain(key)].append(key)
    pairs, only_published = [], []
    for one in stated:
        published = Key(one.row.encoder, one.row.protocol, one.row.dataset, one.row.metric)
        wanted = [published._replace(encoder=label) for label in one.encoders]
        keys = [k for name in wanted for k in by_name[_plain(name)] if _is_variant(k, name)]
        for key in sorted(keys, key=_order):
            pairs.append(_pair(results, key, own[key], one, intervals))
        only_published += [] if keys else [(one.table, published)]
    matched = {pair.key for pair in pairs}
    only_own = sorted((key for key in own if key not in matched), key=_order)
    if not pairs:
        where = ", ".join(f"`{name}`" for name in tables)
        if len(tables) > 3:
            where = f"the {len(tables)} tables that `python -m results published` lists"
        raise ResultsError(
            "own and published scores must share an encoder, protocol, dataset and metric, but "
            f"none of {_some(only_own)} is in {where}, the first of which begins with "
            f"{_some([key for _, key in only_published][:1])}."
        )
    return Comparison(pairs, only_own, only_published)


def _stated(table: str) -> Iterator[_Stated]:
    others = other_names(table)
    for line, row in zip(lines(table), read_published([table]).rows, strict=True):
        deviation = float(line["deviation"]) if line.get("deviation") else None
        if deviation is not None and row.unit == "fraction":
            deviation /= 100
        yield _Stated(table, row, deviation, [row.encoder, *others[row.encoder]])


def _pair(results: Results, key: Key, own: Cell, stated: _Stated, intervals: bool) -> Pair:
    # All runs of a cell have the same protocol, but for the seed.
    document = results.documents.get(next(run_id for _, run_id in own.values), {})
    differ = differences(document, facts(stated.table, stated.row.protocol, stated.row.dataset))
    pair = Pair(stated.table, key, own, stated.row, stated.deviation, differ)
    if not intervals:
        return pair
    from results.records.score_intervals import cell_interval, cell_spread  # imports numpy

    spread = cell_spread(results, own)
    over_images = None if spread is None else math.sqrt(spread.images)
    return dataclasses.replace(pair, over_images=over_images, interval=cell_interval(results, own))


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
