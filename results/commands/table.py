"""``table``: encoder × dataset for each protocol, or other axes."""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from results.commands.options import names, reading, results_of, writing
from results.errors import ResultsError
from results.plain_text import printable
from results.records.reading import Results
from results.records.relabelling import relabelled
from results.tables.entries import SHOWN
from results.tables.grid_numbers import csv_of
from results.tables.grid_tables import tables_of, title_of
from results.tables.grids import Grid, grids, in_order
from results.tables.layout import AXES, PARTS_OF_ENCODERS, Coordinates, Layout, is_key
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
    layout, options.mean_over = _layout(options)
    results = results_of(options)
    _tell_variants(results, options.protocol, layout)
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
    averaged = [*options.mean_over, *filter(is_key, layout.mean_over)]
    tables = tables_of(shown, layout, averaged, options.show)
    columns: list[dict[Coordinates, dict[str, object]]] = []
    if options.ranks:
        tables, columns = _with_ranks(results, shown, layout, tables)
    numbers = csv_of(shown, layout, averaged, options.show, columns)
    show(tables, numbers, options.format)
    if left_out:
        print(printable(left_out), file=sys.stderr)
    if options.save:
        saved = save(options.save, "table", tables, numbers, options.format)
        print(f"saved: {saved}", file=sys.stderr)
    return 0


def _layout(options: argparse.Namespace) -> tuple[Layout, list[str]]:
    """Return the axes, and the keys of datasets and protocols that records are averaged over."""
    averaged = tuple(
        key for key in options.mean_over if key in AXES or key.split(".")[0] in PARTS_OF_ENCODERS
    )
    layout = Layout(tuple(options.rows), tuple(options.columns), tuple(options.metric), averaged)
    return layout, [key for key in options.mean_over if key not in averaged]


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


def _tell_variants(results: Results, names: Sequence[str], layout: Layout) -> None:
    """Say on standard error which variants of a protocol have tables, and how to select one."""
    if "protocol" not in layout.tables:
        return
    results = relabelled(results, layout.apart)
    for name in names:
        if len(labels := results.matching("protocol", name)) > 1:
            some = ", ".join(f"`{label}`" for label in labels)
            print(
                printable(
                    f"`{name}` selects {len(labels)} variants: {some}; one of these in quotation "
                    "marks after `--protocol` selects one, and `--columns` with the key that "
                    "differs, such as protocol.epochs, puts them side by side."
                ),
                file=sys.stderr,
            )
