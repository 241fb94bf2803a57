"""``curve``: scores against the size of the encoder."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from results.commands.options import PICTURES, outputs_of, reading, results_of, writing
from results.errors import ResultsError, unknown
from results.plain_text import printable
from results.records.reading import Results
from results.tables.printing import save, show

if TYPE_CHECKING:
    from results.commands.options import Commands


def add(commands: "Commands") -> None:
    """Add the command."""
    parser = reading(commands, "curve", _curve, "scores against the size of the encoder")
    parser.add_argument("--x", choices=("parameters", "networks"), default="parameters")
    parser.add_argument("--metric", help="show this metric instead of each run's primary one")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE",
        help="draw the picture (SVG, PDF, PNG); a CSV file of the same name holds its points",
    )  # fmt: skip
    writing(parser)


def _curve(options: argparse.Namespace) -> int:
    from results.tables import size_curves

    if options.plot and options.plot.suffix not in PICTURES:
        raise unknown("the ending of `--plot`", options.plot.suffix, PICTURES)
    published = size_curves.published_points(
        options.published or (), options.protocol, options.dataset
    )
    own: list[size_curves.Point] = []
    left_out: list[str] = []
    if not published or any(folder.is_dir() for folder in outputs_of(options)):
        own, left_out = size_curves.points(_own(options, optional=bool(published)), options.metric)
    points = size_curves.in_order([*own, *published])
    for sentence in left_out:
        print(printable(sentence), file=sys.stderr)
    if not points:
        raise ResultsError(
            "a curve needs scores on a data set, but there are none of this protocol, data set and "
            "metric; start a run first, or name others."
        )
    table, numbers = size_curves.to_table(points), size_curves.to_csv_points(points)
    show([table], numbers, options.format)
    if options.save:
        print(
            f"saved: {save(options.save, 'curve', [table], numbers, options.format)}",
            file=sys.stderr,
        )
    if options.plot:
        from results.figures.export import save as save_figure
        from results.figures.size import draw
        from results.figures.theme import PAPER

        save_figure(draw(points, PAPER, options.x), options.plot)
        beside = options.plot.with_suffix(".csv")
        beside.write_text(numbers, encoding="utf-8")
        print(f"drawn: {options.plot}, {beside}", file=sys.stderr)
    return 0


def _own(options: argparse.Namespace, *, optional: bool) -> Results:
    """Return the own results; empty ones if they are optional and none fits the options."""
    try:
        return results_of(options)
    except ResultsError:
        if not optional:
            raise
        return Results([])
