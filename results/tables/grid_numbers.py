"""Numbers of grids of entries, as CSV and as columns of a long table."""

from collections.abc import Iterable, Mapping, Sequence

from results.tables.entries import MISSING, Entry, number
from results.tables.grids import MEAN, Grid
from results.tables.layout import Coordinates, Layout, heading, order
from results.tables.rendering import to_csv

_PARTS = {"deviation": (" std",), "interval": (" low", " high"), "none": ()}
"""Columns beside the means, by what is shown beside them."""


def csv_of(
    grids: Sequence[Grid],
    layout: Layout,
    mean_over: Sequence[str] = (),
    show: str = "deviation",
    beside: Sequence[Mapping[Coordinates, Mapping[str, object]]] = (),
) -> str:
    """Return all grids as one CSV of numbers, with one line per grid and row.

    Beside each column are the sample standard deviation (or the ends of the interval) and the
    number of seeds (``runs`` if another key is averaged, too; ``datasets`` if these are). Without a
    score, the first has the reason, such as ``failed`` or ``n/a``.

    Args:
        grids: the grids.
        layout: their axes.
        mean_over: keys that are averaged beside seeds.
        show: what stands beside the means, one of ``entries.SHOWN``.
        beside: for each grid, further columns by row and name.
    """
    columns = sorted({column for grid in grids for column in grid.columns}, key=order)
    names = [heading(layout.columns, column) for column in columns]
    count = " runs" if mean_over else " datasets" if "dataset" in layout.mean_over else " seeds"
    parts = ("", *_PARTS[show], count)
    about = _about(grids, layout)
    header = [*(layout.tables[place] for place in about), *layout.rows]
    header += [f"{name}{part}" for name in names for part in parts]
    means = layout.columns == ("dataset",)
    further = list(dict.fromkeys(name for rows in beside for row in rows.values() for name in row))
    lines = []
    for grid, by_row in zip(grids, beside or [{}] * len(grids), strict=True):
        for row in grid.rows:
            line: list[object] = [*(grid.about[place] for place in about), *row]
            for column in columns:
                line += _numbers(grid.at(row, column), show)
            if means:
                mean = grid.at(row, MEAN if grid.means else grid.columns[0])
                line.append(number(mean.value, mean.unit))
            lines.append([*line, *(by_row.get(row, {}).get(name) for name in further)])
    return to_csv([*header, *(MEAN[:1] if means else ()), *further], lines)


def _about(grids: Iterable[Grid], layout: Layout) -> list[int]:
    """Return the places of those axes of tables that have a value."""
    return [n for n in range(len(layout.tables)) if any(grid.about[n] for grid in grids)]


def _numbers(entry: Entry, show: str) -> list[object]:
    besides: Sequence[float | None] = {
        "deviation": (entry.spread,),
        "interval": entry.interval or (None, None),
        "none": (),
    }[show]
    numbers = [number(one, entry.unit) for one in besides]
    if entry.value is None:
        return ["" if entry.status == MISSING else entry.status, *numbers, None]
    return [number(entry.value, entry.unit), *numbers, entry.count]


LONG = (
    "metric", "unit", "higher_is_better", "value", "std", "low", "high", "count", "status",
)  # fmt: skip
"""Columns of the long table after those of the axes."""


def long_of(grids: Sequence[Grid], layout: Layout) -> dict[str, list[object]]:
    """Return a table with one line per cell, by column: its coordinates, then ``LONG``.

    Fractions are in percent; ``status`` says why a score is missing, or what its mean lacks.
    """
    axes = (*layout.tables, *layout.rows, *layout.columns)
    lines: list[tuple[Coordinates, Entry]] = [
        ((*grid.about, *row, *column), grid.at(row, column))
        for grid in grids
        for row in grid.rows
        for column in grid.columns
    ]
    table: dict[str, list[object]] = {
        axis: [values[place] for values, _ in lines] for place, axis in enumerate(axes)
    }
    facts = [_facts(entry) for _, entry in lines]
    return table | {
        name: [fact[place] for fact in facts] for place, name in enumerate(LONG) if name not in axes
    }


def _facts(entry: Entry) -> tuple[object, ...]:
    low, high = entry.interval or (None, None)
    status = "not run" if entry.status == MISSING else entry.status
    return (
        entry.metric, entry.unit, entry.higher_is_better, entry.value, entry.spread, low, high,
        entry.count, status or ", ".join(entry.remarks),
    )  # fmt: skip
