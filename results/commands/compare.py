"""``compare``: own scores beside published ones."""

import argparse
import sys
from typing import TYPE_CHECKING

from results.commands.options import reading, results_of, writing
from results.tables.comparison import compare
from results.tables.comparison_tables import to_csv_pairs, to_table, unmatched
from results.tables.printing import save, show

if TYPE_CHECKING:
    from results.commands.options import Commands


def add(commands: "Commands") -> None:
    """Add the command."""
    parser = reading(commands, "compare", _compare, "own scores beside published ones")
    parser.add_argument(
        "--unmatched", action="store_true", help="also list scores without a counterpart"
    )
    parser.add_argument(
        "--show",
        choices=("deviation", "interval"),
        default="deviation",
        help="what stands beside own means; intervals judge single runs, too",
    )
    writing(parser)


def _compare(options: argparse.Namespace) -> int:
    from results.published.catalogue import names

    results = results_of(options)
    tables = options.published or names()
    comparison = compare(results, tables, intervals=options.show == "interval")
    shown = [to_table(comparison, options.mean_over)]
    if options.unmatched:
        shown += unmatched(comparison)
    numbers = to_csv_pairs(comparison)
    show(shown, numbers, options.format)
    if options.save:
        print(
            f"saved: {save(options.save, 'comparison', shown, numbers, options.format)}",
            file=sys.stderr,
        )
    return 0
