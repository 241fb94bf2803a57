"""``compare``: own scores beside published ones."""

import argparse
import sys
from typing import TYPE_CHECKING

from results.commands.options import reading, results_of, writing
from results.tables import comparison
from results.tables.printing import save, show

if TYPE_CHECKING:
    from results.commands.options import Commands


def add(commands: "Commands") -> None:
    """Add the command."""
    parser = reading(commands, "compare", _compare, "own scores beside published ones")
    parser.add_argument(
        "--unmatched", action="store_true", help="also list scores without a counterpart"
    )
    writing(parser)


def _compare(options: argparse.Namespace) -> int:
    from results.published.catalogue import names

    results = results_of(options)
    result = comparison.compare(results, options.published or names())
    shown = [comparison.to_table(result, options.mean_over)]
    if options.unmatched:
        shown += comparison.unmatched(result)
    numbers = comparison.to_csv_pairs(result)
    show(shown, numbers, options.format)
    if options.save:
        print(
            f"saved: {save(options.save, 'comparison', shown, numbers, options.format)}",
            file=sys.stderr,
        )
    return 0
