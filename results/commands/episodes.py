"""``episodes``: few-shot runs compared episode by episode."""

import argparse
import sys
from typing import TYPE_CHECKING

from results.commands.options import placing, writing
from results.tables.printing import save, show

if TYPE_CHECKING:
    from results.commands.options import Commands


def add(commands: "Commands") -> None:
    """Add the command."""
    parser = commands.add_parser("episodes", help="few-shot runs compared episode by episode")
    parser.add_argument(
        "runs", nargs="+", metavar="ID", help="ids of runs, or their folders; the first is the base"
    )
    placing(parser)
    writing(parser)
    parser.set_defaults(function=_episodes)


def _episodes(options: argparse.Namespace) -> int:
    from results.records.episodes import read_episodes
    from results.runs.episodes import compared, to_csv_rows, to_table
    from results.runs.folder import find_run

    runs = [find_run(options.outputs, name) for name in options.runs]
    rows = compared([read_episodes(run.folder, run.document) for run in runs])
    table, numbers = to_table(rows), to_csv_rows(rows)
    show([table], numbers, options.format)
    if options.save:
        print(
            f"saved: {save(options.save, 'episodes', [table], numbers, options.format)}",
            file=sys.stderr,
        )
    return 0
