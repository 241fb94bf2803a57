"""``published``: published tables to compare with."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from results.commands.options import Commands


def add(commands: "Commands") -> None:
    """Add the command."""
    parser = commands.add_parser("published", help="published tables to compare with")
    parser.set_defaults(function=_published)


def _published(options: argparse.Namespace) -> int:
    from results.published.catalogue import names, source

    for name in names():
        print(f"{name}\n  {source(name)}")
    return 0
