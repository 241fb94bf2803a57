"""``run``: everything about one run."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from results.commands.options import placing
from results.errors import ResultsError
from results.plain_text import printable
from results.tables import rendering

if TYPE_CHECKING:
    from results.commands.options import Commands


def add(commands: "Commands") -> None:
    """Add the command."""
    parser = commands.add_parser("run", help="everything about one run")
    parser.add_argument("run", metavar="ID", nargs="+",
                        help="a run's id, the start of one, or its folder")  # fmt: skip
    parser.add_argument(
        "--to", type=Path, metavar="FOLDER",
        help="write the report (Markdown), scores and errors (CSV), and pictures (PNG) there",
    )  # fmt: skip
    placing(parser)
    parser.set_defaults(function=_run)


def _run(options: argparse.Namespace) -> int:
    from results.runs.folder import find_run
    from results.runs.report import facts_text, report_on

    run, *others = options.run
    if others:
        raise ResultsError(
            f"one run must be named, but {len(others) + 1} are, as by a pattern that fits several; "
            f"name one of them: {run}, {others[0]}, …"
        )
    report = report_on(find_run(options.outputs, run))
    print(facts_text(report.facts, rendering.terminal_width()))
    for table in report.tables:
        print(f"\n{rendering.to_terminal(table)}")
    problems = [*report.problems]
    if options.to:
        from results.runs.files import save_report

        files, no_pictures = save_report(report, options.to)
        problems += [no_pictures] if no_pictures else []
        print(f"saved: {', '.join(map(str, files))}", file=sys.stderr)
    for problem in problems:
        print(f"warning: {printable(problem)}", file=sys.stderr)
    return 0
