"""``table``: encoder × dataset for each protocol, or other axes."""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from results.commands.options import names, reading, results_of, writing
from results.errors import ResultsError
from results.plain_text import printable
from results.records.reading import Results
from results.records.relabelling import relabelled
from results.tables.entries import SHOWN
from results.tables.grid_numbers import csv_of, long_of
from results.tables.grid_tables import tables_of, title_of
from results.tables.grids import Grid, grids, in_order
from results.tables.layout import AXES, PARTS_OF_ENCODERS, Layout, is_key
from results.tables.parquet import print_bytes, to_parquet
from results.tables.printing import FORMATS, save, show
from results.tables.rendering import Table
from results.tables.wide import without_refused

if TYPE_CHECKING:
    from results.agreement.ranks import Ranking
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
    writing(parser, (*FORMATS, "parquet"))


def _table(options: argparse.Namespace) -> int:
    layout, options.mean_over = _layout(options)
    results = results_of(options)
    _tell_variants(results, options.protocol, layout)
    results, left_out = without_refused(results)
    shown = in_order(
        grids(results, layout, intervals=options.show == "interval"), options.sort, layout
    )
    if not shown:
        raise ResultsError(
            left_out or "a table needs a run that evaluates an encoder, but there is none yet."
        )
    rankings = _rankings(results, shown, layout) if options.ranks else []
    _write(options, _Content(shown, layout, rankings))
    if left_out:
        print(printable(left_out), file=sys.stderr)
    return 0


def _layout(options: argparse.Namespace) -> tuple[Layout, list[str]]:
    """Return the axes, and the keys of datasets and protocols that records are averaged over."""
    averaged = tuple(
        key for key in options.mean_over if key in AXES or key.split(".")[0] in PARTS_OF_ENCODERS
    )
    layout = Layout(tuple(options.rows), tuple(options.columns), tuple(options.metric), averaged)
    return layout, [key for key in options.mean_over if key not in averaged]


def _rankings(results: Results, shown: Sequence[Grid], layout: Layout) -> "list[list[Ranking]]":
    from results.agreement.rank_tables import rankings_of

    return [rankings_of(results, grid, layout) for grid in shown]


class _Content(NamedTuple):
    """What all formats show: grids, their axes, and the rankings of each grid if they are shown."""

    grids: Sequence[Grid]
    layout: Layout
    rankings: "Sequence[Sequence[Ranking]]"

    def tables(self, averaged: Sequence[str], show: str) -> list[Table]:
        """Return the tables of scores, each followed by that of its ranks."""
        tables = tables_of(self.grids, self.layout, averaged, show)
        if not self.rankings:
            return tables
        from results.agreement.rank_tables import rank_table

        both = []
        for grid, table, some in zip(self.grids, tables, self.rankings, strict=True):
            ranks = [rank_table(grid, some, title_of(grid, self.layout))] if some else []
            both += [table, *ranks]
        return both

    def csv(self, averaged: Sequence[str], show: str) -> str:
        """Return the numbers, with columns for ranks."""
        columns = []
        if self.rankings:
            from results.agreement.rank_tables import rank_columns

            columns = [rank_columns(some) for some in self.rankings]
        return csv_of(self.grids, self.layout, averaged, show, columns)

    def parquet(self) -> bytes:
        """Return the long table, with lines for ranks."""
        columns = long_of(self.grids, self.layout)
        if self.rankings:
            from results.agreement.rank_tables import with_rank_lines

            columns = with_rank_lines(columns, self.grids, self.layout, self.rankings)
        return to_parquet(columns)


def _write(options: argparse.Namespace, content: _Content) -> None:
    """Print the tables in the chosen format, and save them."""
    averaged = [*options.mean_over, *filter(is_key, content.layout.mean_over)]
    tables = content.tables(averaged, options.show)
    numbers = content.csv(averaged, options.show)
    if options.format != "parquet":
        show(tables, numbers, options.format)
    elif not options.save:
        print_bytes(content.parquet())
    if options.save:
        saved = save(options.save, "table", tables, numbers, options.format)
        if options.format == "parquet":
            (options.save / "table.parquet").write_bytes(content.parquet())
            saved += f", {options.save / 'table.parquet'}"
        print(f"saved: {saved}", file=sys.stderr)


def _tell_variants(results: Results, names: Sequence[str], layout: Layout) -> None:
    """Say on standard error which variants of a protocol have tables, and how to select one."""
    if "protocol" not in layout.tables:
        return
    shown = relabelled(results, layout.apart)
    for name in names:
        labels = results.matching("protocol", name)
        if len(shown.matching("protocol", name.split(" ")[0])) > 1 < len(labels):
            some = ", ".join(f"`{label}`" for label in labels)
            print(
                printable(
                    f"`{name}` selects {len(labels)} variants: {some}; one of these in quotation "
                    "marks after `--protocol` selects one, and `--columns` with the key that "
                    "differs, such as protocol.epochs, puts them side by side."
                ),
                file=sys.stderr,
            )
