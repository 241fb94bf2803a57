"""``ranks``: encoders by rank, with intervals and groups that cannot be told apart."""

import argparse
import sys
from typing import TYPE_CHECKING

from results.commands.options import reading, results_of, writing
from results.errors import ResultsError
from results.records.cells import ordered
from results.tables.printing import save, show

if TYPE_CHECKING:
    from results.commands.options import Commands


def add(commands: "Commands") -> None:
    """Add the command."""
    parser = reading(
        commands, "ranks", _ranks, "ranks of encoders, with intervals and groups of equal ones"
    )
    parser.add_argument("--metric", help="rank by this metric instead of the primary one")
    writing(parser)


def _ranks(options: argparse.Namespace) -> int:
    from results.agreement.ranking_tables import to_csv_long, to_tables
    from results.agreement.ranks import ranks

    results = results_of(options)
    known = ordered(row.protocol for row in results.rows)
    if len(options.protocol) != 1 and len(known) != 1:
        raise ResultsError(
            "ranks are by the scores of one protocol, so `--protocol` must name one of "
            f"{', '.join(f'`{label}`' for label in known) or 'none'}."
        )
    target = options.protocol[0] if options.protocol else known[0]
    rankings = ranks(results, f"{target}:{options.metric}" if options.metric else target)
    tables, numbers = to_tables(rankings), to_csv_long(rankings)
    show(tables, numbers, options.format)
    if options.save:
        print(f"saved: {save(options.save, 'ranks', tables, numbers)}", file=sys.stderr)
    return 0
