"""The command line ``python -m results``."""

import argparse
import os
import sys
from collections.abc import Sequence

from results.commands import (
    choose,
    compare,
    correlate,
    curve,
    episodes,
    failures,
    list_rows,
    plot,
    published,
    ranks,
    report,
    run,
    summary,
    table,
    wandb,
)
from results.errors import ResultsError
from results.plain_text import printable

COMMANDS = (
    table, ranks, correlate, choose, report, plot, compare, curve, list_rows, failures, summary,
    run, episodes, published, wandb,
)  # fmt: skip
"""Modules with a function ``add``, in the order of the help text."""

EXAMPLES = """examples:
  python -m results table
  python -m results table --protocol linear_probe,bn_tune --format markdown
  python -m results ranks --protocol finetune
  python -m results correlate --proxy linear_probe,bn_tune --target finetune --plot scatter.png
  python -m results correlate --published transfer_2021_table1 --proxy logistic_regression \\
      --target finetune
  python -m results choose --proxy linear_probe,bn_tune --target finetune
  python -m results report --out report.html
  python -m results compare --published transfer_2021_table1,transfer_2021_ece
  python -m results plot ranks,cost --format pdf --out figures
  python -m results curve --protocol linear_probe --dataset cifar10 --plot curve.png
  python -m results run 3f2a --to pictures
  python -m results episodes 3f2a 81cd
  python -m results summary --sweep latest
  python -m results wandb --project my_project --report report.html
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code, which is 2 for an invalid request."""
    parsed = _parser().parse_args(arguments)
    try:
        code = int(parsed.function(parsed))
        sys.stdout.flush()
    except ResultsError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader has closed the pipe; Python must not write the rest when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        reason = printable(str(error))
        print(f"error: every file must be readable and writable, but {reason}.", file=sys.stderr)
        return 2
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m results",
        description="Tables and correlations from the records of runs.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    for command in COMMANDS:
        command.add(commands)
    return parser
