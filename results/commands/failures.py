"""``failures``: failed and invalid runs, with reasons."""

import argparse
from typing import TYPE_CHECKING

from results.commands.options import reading, results_of
from results.tables.printing import describe

if TYPE_CHECKING:
    from results.commands.options import Commands


def add(commands: "Commands") -> None:
    """Add the command."""
    reading(commands, "failures", _failures, "failed and invalid runs, with reasons")


def _failures(options: argparse.Namespace) -> int:
    print("\n".join(describe(results_of(options).gaps)) or "No run failed.")
    return 0
