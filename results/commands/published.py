"""``published``: published tables to compare with."""

import argparse
import sys
from typing import TYPE_CHECKING

from results.commands.options import writing
from results.tables.printing import save, show

if TYPE_CHECKING:
    from results.commands.options import Commands


def add(commands: "Commands") -> None:
    """Add the command."""
    parser = commands.add_parser("published", help="published tables to compare with")
    parser.set_defaults(function=_published)
    what = "print this table with its source and settings (default: list all)"
    parser.add_argument("name", nargs="?", metavar="NAME", help=what)
    writing(parser)


def _published(options: argparse.Namespace) -> int:
    from results.published.catalogue import correlation_names, names
    from results.tables.published_tables import lines_as_csv, overview, published_tables

    if not options.name:
        print(overview([*names(), *correlation_names()]))
        return 0
    shown, numbers = published_tables(options.name), lines_as_csv(options.name)
    show(shown, numbers, options.format)
    if options.save:
        paths = save(options.save, options.name, shown, numbers, options.format)
        print(f"saved: {paths}", file=sys.stderr)
    return 0
