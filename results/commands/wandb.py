"""``wandb``: tables, correlations and the report as one run of Weights & Biases."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from results.commands.options import names, outputs_of, reading, results_of
from results.errors import ResultsError
from results.plain_text import printable
from results.records.reading import Results

if TYPE_CHECKING:
    from results.agreement.analysis import Analysis
    from results.commands.options import Commands

_REPORT = "report.html"


def add(commands: "Commands") -> None:
    """Add the command."""
    parser = reading(commands, "wandb", _wandb, "one run of Weights & Biases with all tables")
    spec = "PROTOCOL[:METRIC][@KEY=VALUE]"
    parser.add_argument("--project", default="ssl_transfer")
    parser.add_argument("--entity", help="account or team (default: the account's own)")
    parser.add_argument("--mode", choices=("online", "offline"), help="default: $WANDB_MODE")
    parser.add_argument("--proxy", type=names, metavar=f"{spec},…", help="default: as in `report`")
    parser.add_argument("--target", default="finetune", metavar=spec)
    parser.add_argument(
        "--report", type=Path, metavar="FILE", help=f"default: {_REPORT} here or beside the sweep"
    )


def _wandb(options: argparse.Namespace) -> int:
    from results.report.aggregation import Place, send

    results = results_of(options)
    report = _report(options.report, results)
    name = "published" if options.published else "results"
    if results.sweep is not None:
        name = results.sweep.name
    folder = Path.cwd() if options.published else outputs_of(options)[0]
    place = Place(options.project, name, folder, options.entity, options.mode)
    where = send(results, _analysis(results, options), place, report)
    print(f"sent: {printable(where)}")
    if report is None:
        print(f"without a report: `python -m results report --out {_REPORT}` makes one")
    return 0


def _analysis(results: Results, options: argparse.Namespace) -> "Analysis | None":
    """Return the analysis; None, with a warning, if the target has no scores."""
    from results.agreement.analysis import analyse

    try:
        return analyse(results, options.proxy, options.target)
    except ResultsError as error:
        if options.proxy:
            raise
        print(f"without correlations: {printable(str(error))}", file=sys.stderr)
        return None


def _report(path: Path | None, results: Results) -> Path | None:
    """Return the file of the report, if there is one.

    Raises:
        ResultsError: if the user names a file that does not exist.
    """
    if path is not None and not path.is_file():
        raise ResultsError(
            f"`--report` must be the HTML file of a report, but `{path}` is no file; "
            "`python -m results report --out FILE` makes one."
        )
    beside = [] if results.sweep is None else [results.sweep / _REPORT]
    known = [path] if path is not None else [*beside, Path(_REPORT)]
    return next((place for place in known if place.is_file()), None)
