"""``summary``: the report at the end of a multirun."""

import argparse
from typing import TYPE_CHECKING

from results.commands.options import placing

if TYPE_CHECKING:
    from results.commands.options import Commands


def add(commands: "Commands") -> None:
    """Add the command."""
    parser = commands.add_parser("summary", help="the report at the end of a multirun")
    parser.add_argument("--sweep", default="latest", help="latest, a name, or a path")
    placing(parser)
    parser.set_defaults(function=_summary)


def _summary(options: argparse.Namespace) -> int:
    from results.report.summary import summarise

    return summarise(options.outputs, options.sweep)
