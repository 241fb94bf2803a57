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
    parser.add_argument(
        "--outputs",
        action="extend",
        type=paths,
        default=None,
        metavar="FOLDER,…",
        help="where runs write; several folders are read as one",
    )
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
    parser.add_argument(
        "--where",
        metavar="EXPRESSION",
        help="only runs for which it holds, e.g. 'protocol.epochs == 100 and seed < 3'",
    )
    return parser


def placing(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--outputs``; a variable sets its default, as in ``conf/paths``."""
    parser.add_argument("--outputs", type=Path, default=_default(), help="where runs write")


def _default() -> Path:
    return Path(os.environ.get("SSL_TRANSFER_OUTPUTS", "outputs")).expanduser()


def writing(parser: argparse.ArgumentParser, formats: Sequence[str] = FORMATS) -> None:
    """Add the options that choose a format and save the tables."""
    parser.add_argument("--format", choices=formats, default="terminal")
    what = "write CSV, Markdown and the format there"
    parser.add_argument("--save", type=Path, metavar="FOLDER", help=what)


def names(text: str) -> list[str]:
    """Return the names of a comma-separated list."""
    return [name.strip() for name in text.split(",") if name.strip()]


def paths(text: str) -> list[Path]:
    """Return the folders of a comma-separated list; one whose name has a comma is one folder."""
    return [Path(text)] if Path(text).is_dir() else [Path(name) for name in names(text)]


def outputs_of(options: argparse.Namespace) -> list[Path]:
    """Return the outputs folders that the options name, else the default one."""
    return list(options.outputs or [_default()])


def results_of(options: argparse.Namespace) -> Results:
    """Read the records that the options select; warn about unusable files."""
    if options.published and options.name not in _PUBLISHED_BESIDE_OWN:
        from results.published.catalogue import read_published

        results = read_published(options.published)
    else:
        results = read(outputs_of(options), options.sweep, options.mean_over)
    warn(results)
    if not results.rows and not results.gaps:
        folders = ", ".join(f"`{folder}`" for folder in outputs_of(options))
        raise ResultsError(
            f"there must be a record with scores, but {folders} holds none; start a run first."
        )
    if options.where:
        from results.records.query import where

        results = where(results, options.where)
        if not results.rows and not results.gaps:
            raise ResultsError(
                f"`--where` must leave a run, but `{options.where}` holds for none; check its "
                "values with `python -m results list`."
            )
    return results.keep(
        protocols=getattr(options, "protocol", ()),
        datasets=options.dataset,
        without=options.without,
    )
