"""``table``: encoder × dataset for each protocol, or other axes."""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from results.commands.options import names, reading, results_of, writing
from results.errors import ResultsError
from results.plain_text import printable
from results.records.reading import Results
from results.tables.entries import SHOWN
from results.tables.grid_numbers import csv_of
from results.tables.grid_tables import tables_of, title_of
from results.tables.grids import Grid, grids, in_order
from results.tables.layout import AXES, Coordinates, Layout
from results.tables.printing import save, show
from results.tables.rendering import Table
from results.tables.wide import without_refused

if TYPE_CHECKING:
    from results.commands.options import Commands


def add(commands: "Commands") -> None:
    """Add the command."""
    parser = reading(
        commands, "table", _table, "encoder × dataset for each protocol, or other axes"
    )
    axes = f"{', '.join(AXES)}, or a hyper-parameter such as protocol.epochs"
    for option, default in (("--rows", "encoder"), ("--columns", "dataset")):
        parser.add_argument(
            option, type=names, default=[default], metavar="AXIS,…", help=f"{axes} ({default})"
        )
    parser.add_argument(
        "--metric",
        type=names,
        default=[],
        metavar="NAME,…",
        help="show these metrics instead of each run's primary one",
    )
    parser.add_argument(
        "--show", choices=SHOWN, default="deviation", help="what stands beside the means over seeds"
    )
    parser.add_argument(
        "--sort", default="label", metavar="label|mean|COLUMN", help="what rows are sorted by"
    )
    parser.add_argument(
        "--ranks",
        action="store_true",
        help="also the encoders' ranks with intervals, and which cannot be told apart",
    )
    writing(parser)


def _table(options: argparse.Namespace) -> int:
    averaged = tuple(axis for axis in options.mean_over if axis in AXES)
    layout = Layout(tuple(options.rows), tuple(options.columns), tuple(options.metric), averaged)
    options.mean_over = [key for key in options.mean_over if key not in AXES]
    results = results_of(options)
    left_out = None
    if not options.sweep:  # the table of a sweep shows all of its cells
        results, left_out = without_refused(results)
    shown = in_order(
        grids(results, layout, intervals=options.show == "interval"), options.sort, layout
    )
    if not shown:
        raise ResultsError(
            left_out or "a table needs a run that evaluates an encoder, but there is none yet."
        )
    tables = tables_of(shown, layout, options.mean_over, options.show)
    columns: list[dict[Coordinates, dict[str, object]]] = []
    if options.ranks:
        tables, columns = _with_ranks(results, shown, layout, tables)
    numbers = csv_of(shown, layout, options.mean_over, options.show, columns)
    show(tables, numbers, options.format)
    if left_out:
        print(printable(left_out), file=sys.stderr)
    if options.save:
        saved = save(options.save, "table", tables, numbers, options.format)
        print(f"saved: {saved}", file=sys.stderr)
    return 0


def _with_ranks(
    results: Results, shown: Sequence[Grid], layout: Layout, tables: Sequence[Table]
) -> tuple[list[Table], list[dict[Coordinates, dict[str, object]]]]:
    """Return each table followed by that of its ranks, and the columns of ranks for CSV."""
    from results.agreement.rank_tables import rank_columns, rank_table, rankings_of

    both, columns = [], []
    for grid, table in zip(shown, tables, strict=True):
        rankings = rankings_of(results, grid, layout)
        both += [table, *([rank_table(grid, rankings, title_of(grid, layout))] if rankings else [])]
        columns.append(rank_columns(rankings))
    return both, columns
