"""Options that several commands share, and the results that these options select."""

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from results.errors import ResultsError
from results.records.reading import Results, read
from results.tables.printing import FORMATS, warn

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

PICTURES = (".png", ".pdf", ".svg")
"""Endings of pictures."""

_PUBLISHED_BESIDE_OWN = ("compare", "curve")
"""Commands that show published tables beside own records rather than instead of them."""


def reading(
    commands: "Commands", name: str, function: Callable[[argparse.Namespace], int], text: str
) -> argparse.ArgumentParser:
    """Add a command that reads records, with options to select them."""
    parser = commands.add_parser(name, help=text)
    parser.set_defaults(function=function, name=name)
    placing(parser)
    parser.add_argument("--sweep", help="only one sweep: latest, a name, or a path")
    use = {
        "compare": "beside own scores (default: all)",
        "curve": "beside own scores, or alone",
    }.get(name, "instead of records")
    parser.add_argument("--published", type=names, metavar="NAME,…", help=f"published tables {use}")
    parser.add_argument(
        "--mean-over",
        type=names,
        default=[],
        metavar="KEY,…",
        help="average over these keys as over seeds, e.g. dataset.split",
    )
    if name != "correlate":
        parser.add_argument("--protocol", type=names, default=[], metavar="NAME,…")
    parser.add_argument("--dataset", type=names, default=[], metavar="NAME,…")
    parser.add_argument("--without", type=names, default=[], metavar="ENCODER,…")
    return parser


def placing(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--outputs``; a variable sets its default, as in ``conf/paths``."""
    default = Path(os.environ.get("SSL_TRANSFER_OUTPUTS", "outputs")).expanduser()
    parser.add_argument("--outputs", type=Path, default=default, help="where runs write")


def writing(parser: argparse.ArgumentParser, formats: Sequence[str] = FORMATS) -> None:
    """Add the options that choose a format and save the tables."""
    parser.add_argument("--format", choices=formats, default="terminal")
    what = "write CSV, Markdown and the format there"
    parser.add_argument("--save", type=Path, metavar="FOLDER", help=what)


def names(text: str) -> list[str]:
    """Return the names of a comma-separated list."""
    return [name.strip() for name in text.split(",") if name.strip()]


def results_of(options: argparse.Namespace) -> Results:
    """Read the records that the options select; warn about unusable files."""
    if options.published and options.name not in _PUBLISHED_BESIDE_OWN:
        from results.published.catalogue import read_published

        results = read_published(options.published)
    else:
        results = read(options.outputs, options.sweep, options.mean_over)
    warn(results)
    if not results.rows and not results.gaps:
        raise ResultsError(
            f"there must be a record with scores, but `{options.outputs}` holds none; "
            f"start a run first."
        )
    return results.keep(
        protocols=getattr(options, "protocol", ()),
        datasets=options.dataset,
        without=options.without,
    )
