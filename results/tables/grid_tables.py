"""Tables of texts from grids of entries."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence

from results.records.cells import ordered
from results.records.labels import natural
from results.tables.entries import MISSING, OUTDATED, Entry, best, text_of
from results.tables.grids import MEAN, Grid
from results.tables.layout import ABSENT, Coordinates, Layout, heading, is_key
from results.tables.rendering import CellText, Table

_Key = tuple[Coordinates, Coordinates]
"""A row and a column."""


def tables_of(
    grids: Sequence[Grid],
    layout: Layout,
    mean_over: Sequence[str] = (),
    show: str = "deviation",
) -> list[Table]:
    """Return one table of texts per grid.

    Args:
        grids: the grids.
        layout: their axes.
        mean_over: keys that are averaged beside seeds.
        show: what stands beside the means, one of ``entries.SHOWN``.
    """
    return [_table(grid, layout, mean_over, show) for grid in grids]


def title_of(grid: Grid, layout: Layout) -> str:
    """Return what all scores of a grid have in common except the metric: ``finetune, digits``."""
    return ", ".join(
        heading([axis], (value,))
        for axis, value in zip(layout.tables, grid.about, strict=True)
        if value and axis != "metric"
    )


def _table(grid: Grid, layout: Layout, mean_over: Sequence[str], show: str) -> Table:
    runs = max((entry.count for entry in grid.entries.values()), default=1)
    columns = grid.all_columns
    shown = {(row, column): grid.at(row, column) for row in grid.rows for column in columns}
    top = best(shown, lambda key: _compared(key, layout))
    rows = []
    for row in grid.rows:
        cells = []
        for column in columns:
            entry = shown[row, column]
            usual = entry.count if grid.datasets or column is MEAN else runs
            cells.append(CellText(text_of(entry, usual, show), best=(row, column) in top))
        rows.append([*_with_units(grid, layout.rows, row), *cells])
    return Table(
        f"{title_of(grid, layout) or 'scores'}: {_metrics(grid, layout)}",
        [*layout.rows, *(_name(grid, column, layout) for column in columns)],
        rows,
        list(_notes(grid, list(shown.values()), runs, layout, mean_over, show)),
        left=len(layout.rows),
        best=_best_note(layout, [shown[key] for key in top]),
    )


def _compared(key: _Key, layout: Layout) -> tuple[Coordinates, ...]:
    """Return what the scores that a score is compared with share.

    They share the column, or the row if rows are datasets, and always the dataset.
    """
    row, column = key
    if not layout.compares_rows:
        return row, ()
    same = [n for n, axis in enumerate(layout.rows) if axis in ("dataset", "metric")]
    return column, tuple(row[n] for n in same)


def _with_units(grid: Grid, axes: Sequence[str], values: Coordinates) -> Coordinates:
    """Return values of axes in which a metric has its unit: ``top1 in %``."""
    if "metric" not in axes:
        return values
    place = axes.index("metric")
    metric = values[place]
    units = {_symbol(e) for e in grid.entries.values() if e.metric == metric}
    unit = f" in {' or '.join(sorted(units))}" if units else ""
    return (*values[:place], metric + unit, *values[place + 1 :])


def _name(grid: Grid, column: Coordinates, layout: Layout) -> str:
    if column is MEAN:
        return MEAN[0]
    return heading(layout.columns, _with_units(grid, layout.columns, column))


def _symbol(entry: Entry) -> str:
    return "%" if entry.unit == "percent" else entry.unit


def _metrics(grid: Grid, layout: Layout) -> str:
    """Return the metrics of a table with their units; of several, where they occur."""
    if layout.has_metric:
        return "metrics"
    places: dict[str, list[str]] = defaultdict(list)
    for key, entry in grid.entries.items():
        if entry.value is not None:
            places[f"{entry.metric} in {_symbol(entry)}"].append(_where(key, layout))
    if not places:
        return "no score"
    common, *others = sorted(places, key=lambda metric: (-len(places[metric]), natural(metric)))
    return "; ".join(
        [common, *(f"{metric} on {', '.join(ordered(places[metric]))}" for metric in others)]
    )


def _where(key: _Key, layout: Layout) -> str:
    """Return the protocol of a cell if it is an axis, else the dataset: they have other metrics."""
    for axis in ("protocol", "dataset"):
        for axes, values in zip((layout.rows, layout.columns), key, strict=True):
            if axis in axes:
                return values[axes.index(axis)]
    return ""


def _best_note(layout: Layout, top: Sequence[Entry]) -> str:
    note = f"the best score of its {'column' if layout.compares_rows else 'row'}"
    lower = ordered(entry.metric for entry in top if not entry.higher_is_better)
    return f"{note}; lower is better for {', '.join(lower)}" if lower else note


def _notes(
    grid: Grid,
    entries: Collection[Entry],
    runs: int,
    layout: Layout,
    mean_over: Sequence[str],
    show: str,
) -> Iterator[str]:
    """Yield what the texts of a table mean, as far as they occur."""
    if grid.datasets:
        yield from _averages(grid)
    elif runs > 1:
        over = f"runs (seeds, {', '.join(mean_over)})" if mean_over else "seeds"
        deviation = " ± sample standard deviation" if show == "deviation" else ""
        yield f"mean{deviation} over {runs} {over}"
    if show == "interval":
        yield from _intervals(entries)
    for axis, values in ((layout.rows, grid.rows), (layout.columns, grid.columns)):
        for place, name in enumerate(axis):
            if is_key(name) and any(value[place] == ABSENT for value in values):
                yield f"{ABSENT} as {name}: the runs have no such value, or do not state it"
    yield from _reasons(entries)


def _averages(grid: Grid) -> Iterator[str]:
    several = {tuple(datasets) for datasets in grid.datasets.values()}
    for protocol, datasets in grid.datasets.items():
        which = f"{protocol}: " if len(several) > 1 else ""
        yield f"{which}mean over {', '.join(datasets)}, for those with a score on all of them"
        if len(several) == 1:
            return


def _intervals(entries: Iterable[Entry]) -> Iterator[str]:
    scores = [entry for entry in entries if entry.value is not None and entry.metric]
    over = sorted({entry.over for entry in scores if entry.interval is not None})
    if over:
        yield f"[low, high]: 95 % interval over {', or over '.join(over)}"
    if any(entry.interval is None for entry in scores):
        yield (
            "no interval: the runs kept no predictions from which the score follows, and have no "
            "second seed; means over datasets have none"
        )


def _reasons(entries: Iterable[Entry]) -> Iterator[str]:
    statuses = {entry.status for entry in entries}
    remarks = {remark for entry in entries for remark in entry.remarks}
    if MISSING in statuses:
        yield f"{MISSING} not run, or no mean because a dataset is missing"
    if "n/a" in statuses:
        yield "n/a: the protocol cannot evaluate this encoder"
    if "invalid" in statuses or any("invalid" in remark for remark in remarks):
        yield (
            "invalid: the score is NaN, infinite or no fraction, and no part of a mean; see "
            "`python -m results failures`"
        )
    if any(remark == OUTDATED or "on other files" in remark for remark in remarks):
        yield (
            f"{OUTDATED}: the fingerprints of data or weights differ from those of the latest runs "
            "in this column or row; runs on other files enter no mean; force=true computes them "
            "again"
        )
    if "failed" in statuses or any("failed" in remark for remark in remarks):
        yield "failed: see `python -m results failures`"
