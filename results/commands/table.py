"""``table``: encoder × dataset for each protocol, or other axes."""

import argparse
import sys
from typing import TYPE_CHECKING

from results.commands.options import names, reading, results_of, writing
from results.errors import ResultsError
from results.plain_text import printable
from results.tables.entries import SHOWN
from results.tables.grid_numbers import csv_of
from results.tables.grid_tables import tables_of
from results.tables.grids import grids, in_order
from results.tables.layout import AXES, Layout
from results.tables.printing import save, show
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
    numbers = csv_of(shown, layout, options.mean_over, options.show)
    show(tables, numbers, options.format)
    if left_out:
        print(printable(left_out), file=sys.stderr)
    if options.save:
        saved = save(options.save, "table", tables, numbers, options.format)
        print(f"saved: {saved}", file=sys.stderr)
    return 0
