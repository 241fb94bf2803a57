"""Grids of entries by row and column, from which tables are made."""

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence

from results.errors import ResultsError, nearest, unknown
from results.records.cells import Cell, concerns, gather
from results.records.descriptions import values_of
from results.records.differences import natural
from results.records.reading import MissingRun, Results, Row
from results.records.relabelling import relabelled
from results.tables.entries import Entry, entry_of, goodness, mean_of
from results.tables.layout import Coordinates, Layout, coordinates, heading, is_key, order

MEAN: Coordinates = ("mean", "datasets")
"""The column with means over datasets; it differs from a dataset with the name ``mean``."""

_Place = tuple[Coordinates, Coordinates, Coordinates, Coordinates]
"""A table, a row, a column; and a protocol and a dataset, if datasets are averaged."""


@dataclasses.dataclass
class Grid:
    """The content of one table.

    Args:
        about: the value of each axis that makes tables of its own.
        rows: the coordinates of the rows, in the order of the table.
        columns: the coordinates of the columns.
        entries: by row and column; a missing one was not run.
        means: by row, the mean over the datasets of the columns that have a score; empty if there
            is one such dataset, or columns are something else.
        datasets: by protocol, the datasets that entries are means over; empty if they are not.
    """

    about: Coordinates
    rows: list[Coordinates]
    columns: list[Coordinates]
    entries: dict[tuple[Coordinates, Coordinates], Entry]
    means: dict[Coordinates, Entry]
    datasets: dict[str, list[str]] = dataclasses.field(default_factory=dict)

    @property
    def all_columns(self) -> list[Coordinates]:
        """The columns, and ``MEAN`` if there are means."""
        return [*self.columns, *([MEAN] if self.means else [])]

    def at(self, row: Coordinates, column: Coordinates) -> Entry:
        """Return what a cell shows; ``column`` may be ``MEAN``."""
        if column is MEAN:
            return self.means[row]
        return self.entries.get((row, column), Entry())


def grids(results: Results, layout: Layout, *, intervals: bool = False) -> list[Grid]:
    """Return the grid of every table, in the order of their axes.

    Args:
        results: the results.
        layout: the axes.
        intervals: whether the intervals of scores are computed, which takes time.

    Raises:
        ResultsError: if no run has a metric or a hyper-parameter; the message lists the known ones.
    """
    _check_metrics(results, layout)
    _check_axes(results, layout)
    results = relabelled(results, layout.apart)
    rows, gaps = _placed(results, layout)
    cells = gather(results, rows, gaps)
    by_table: dict[Coordinates, dict[_Place, Entry]] = defaultdict(dict)
    for place, cell in cells.items():
        by_table[place[0]][place] = entry_of(cell, _interval(results, cell) if intervals else None)
    return [_grid(about, by_table[about], layout) for about in sorted(by_table, key=order)]


def _placed(
    results: Results, layout: Layout
) -> tuple[list[tuple[_Place, Row]], list[tuple[_Place, MissingRun]]]:
    """Return scores and runs without scores with their places."""
    averaged = ("protocol", "dataset") if "dataset" in layout.mean_over else ()
    parts = (layout.tables, layout.rows, layout.columns, averaged)
    read = coordinates(results, [axis for axes in parts for axis in axes])
    ends = list(itertools.accumulate(map(len, parts)))
    places: dict[Coordinates, _Place] = {}

    def place(entry: Row | MissingRun) -> _Place:
        values = read(entry)
        if values not in places:
            first, second, third, _ = ends
            places[values] = (
                values[:first], values[first:second], values[second:third], values[third:]
            )  # fmt: skip
        return places[values]

    rows = [row for row in results.rows if row.dataset and _is_shown(row, layout)]
    gaps = [gap for gap in results.gaps if gap.dataset and gap.encoder]
    metrics_of: dict[str, set[str]] = defaultdict(set)
    scores: list[Row | MissingRun] = [*rows]
    scores += [gap for gap in gaps if gap.metric and _is_shown(gap, layout)]
    for entry in scores:
        metrics_of[entry.protocol].add(entry.metric)
    without = {row.protocol for row in results.rows} - metrics_of.keys()
    return [(place(row), row) for row in rows], [
        (place(one), gap)
        for gap in gaps
        if gap.protocol not in without
        for one in _by_metric(gap, layout, metrics_of)
    ]


def _is_shown(entry: Row | MissingRun, layout: Layout) -> bool:
    if layout.metrics:
        return entry.metric in layout.metrics
    return layout.has_metric or concerns(entry, None)


def _by_metric(
    gap: MissingRun, layout: Layout, metrics_of: dict[str, set[str]]
) -> Iterator[MissingRun]:
    """Yield a gap for each of its cells: a failed run lacks all metrics of its protocol."""
    if gap.kind == "invalid" and gap.metric:
        if _is_shown(gap, layout):
            yield gap
    elif layout.has_metric or len(layout.metrics) > 1:
        for metric in sorted(metrics_of[gap.protocol]):
            yield gap._replace(metric=metric)
    else:
        yield gap


def _grid(about: Coordinates, entries: dict[_Place, Entry], layout: Layout) -> Grid:
    rows = sorted({row for _, row, _, _ in entries}, key=order)
    columns = sorted({column for _, _, column, _ in entries}, key=order)
    if "dataset" in layout.mean_over:
        datasets: dict[str, set[str]] = defaultdict(set)
        for (*_, (protocol, dataset)), entry in entries.items():
            if entry.value is not None:
                datasets[protocol].add(dataset)
        averaged = {protocol: sorted(some, key=natural) for protocol, some in datasets.items()}
        return Grid(about, rows, columns, _over_datasets(entries, averaged), {}, averaged)
    by_cell = {(row, column): entry for (_, row, column, _), entry in entries.items()}
    grid = Grid(about, rows, columns, by_cell, {})
    scored = [one for one in columns if any(grid.at(row, one).value is not None for row in rows)]
    if layout.columns == ("dataset",) and len(scored) > 1:
        grid.means = {row: mean_of([grid.at(row, one) for one in scored]) for row in rows}
    return grid


def _over_datasets(
    entries: dict[_Place, Entry], datasets: dict[str, list[str]]
) -> dict[tuple[Coordinates, Coordinates], Entry]:
    """Return means over all datasets with a score by a cell's protocol in the table."""
    places = {(about, row, column, key[0]) for about, row, column, key in entries}
    return {
        (row, column): mean_of(
            [
                entries.get((about, row, column, (protocol, one)), Entry())
                for one in datasets.get(protocol, ())
            ]
        )
        for about, row, column, protocol in places
    }


def _interval(results: Results, cell: Cell) -> tuple[float, float, str] | None:
    from results.records.score_intervals import cell_interval  # imports numpy

    bounds = cell_interval(results, cell)
    return None if bounds is None else (bounds.low, bounds.high, bounds.over)


def _check_metrics(results: Results, layout: Layout) -> None:
    stated = {row.metric for row in results.rows} | {gap.metric for gap in results.gaps}
    known = sorted(stated - {""})
    for metric in layout.metrics:
        if metric not in known:
            raise unknown("the metric", metric, known)


def _check_axes(results: Results, layout: Layout) -> None:
    """Raise an error for a hyper-parameter that no run has, or of published tables."""
    if layout.apart and not results.runs:
        raise ResultsError(
            f"the axis `{layout.apart[0]}` needs own records, but published tables have only "
            "encoder, protocol, dataset and metric; name these."
        )
    descriptions = {id(run.description): run.description for run in results.runs.values()}
    parts = {part for one in descriptions.values() for part in one.parts or ()}
    for axis in filter(is_key, layout.apart):
        same = [values_of(*part) for part in parts if part[0] == axis.partition(".")[0]]
        if all(values.get(axis) is None for values in same):
            known = sorted({key for part in parts for key in values_of(*part)})
            raise ResultsError(
                "a key in `--rows`, `--columns` and `--mean-over` must be a hyper-parameter of a "
                f"run, but no run has `{axis}`; the nearest of the {len(known)} hyper-parameters: "
                f"{nearest(axis, known)}."
            )


def in_order(several: Sequence[Grid], by: str, layout: Layout) -> list[Grid]:
    """Return grids whose rows are sorted by ``label``, ``mean`` or the name of a column.

    Better scores come first, rows without a score last. A grid without such a column keeps the
    order of its labels.

    Raises:
        ResultsError: if no grid has such a column; the message lists the known ones.
    """
    if by == "label":
        return list(several)
    columns = [_column(grid, by, layout) for grid in several]
    if not any(columns):
        names = [heading(layout.columns, one) for grid in several for one in grid.columns]
        means = ["mean"] if any(_column(grid, "mean", layout) for grid in several) else []
        raise unknown("`--sort`", by, dict.fromkeys(["label", *means, *names]))
    return [
        grid if column is None else _by_column(grid, column)
        for grid, column in zip(several, columns, strict=True)
    ]


def _column(grid: Grid, by: str, layout: Layout) -> Coordinates | None:
    """Return the column that a name means; the mean of a single column is the column itself."""
    if by == "mean":
        alone = grid.columns[0] if len(grid.columns) == 1 else None
        return MEAN if grid.means else alone
    return next((one for one in grid.columns if heading(layout.columns, one) == by), None)


def _by_column(grid: Grid, column: Coordinates) -> Grid:
    entries = {row: grid.at(row, column) for row in grid.rows}
    metrics = [entry.metric for entry in entries.values() if entry.value is not None]
    groups = {metric: place for place, metric in enumerate(dict.fromkeys(metrics))}

    def key(row: Coordinates) -> tuple[int, float]:
        # Scores of several metrics cannot be compared, so those of one metric stay together.
        return groups.get(entries[row].metric, len(groups)), goodness(entries[row])

    return dataclasses.replace(grid, rows=sorted(grid.rows, key=key))
