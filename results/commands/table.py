"""``table``: encoder × dataset for each protocol."""

import argparse
import sys
from typing import TYPE_CHECKING

from results.commands.options import reading, results_of, writing
from results.errors import ResultsError
from results.plain_text import printable
from results.tables.printing import save, show
from results.tables.wide import wide, wide_csv, without_refused

if TYPE_CHECKING:
    from results.commands.options import Commands


def add(commands: "Commands") -> None:
    """Add the command."""
    parser = reading(commands, "table", _table, "encoder × dataset for each protocol")
    parser.add_argument("--metric", help="show this metric instead of each run's primary one")
    writing(parser)


def _table(options: argparse.Namespace) -> int:
    results = results_of(options)
    left_out = None
    if not options.sweep:  # the table of a sweep shows all of its cells
        results, left_out = without_refused(results)
    shown, numbers = wide(results, options.metric), wide_csv(results, options.metric)
    if not shown:
        raise ResultsError(
            left_out or "a table needs a run that evaluates an encoder, but there is none yet."
        )
    show(shown, numbers, options.format)
    if left_out:
        print(printable(left_out), file=sys.stderr)
    if options.save:
        print(
            f"saved: {save(options.save, 'table', shown, numbers, options.format)}", file=sys.stderr
        )
    return 0
