"""``plot``: a figure of the report as SVG, PDF and PNG, for papers."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from results.commands.options import names, reading, results_of
from results.errors import unknown
from results.plain_text import printable

if TYPE_CHECKING:
    from results.commands.options import Commands

_ALL = "all"


def add(commands: "Commands") -> None:
    """Add the command."""
    parser = reading(commands, "plot", _plot, "a figure of the report as SVG, PDF, PNG")
    spec = "PROTOCOL[:METRIC][@KEY=VALUE]"
    parser.add_argument(
        "figures", type=names, nargs="?", metavar="NAME,…",
        help="figures, or `all`; without a name the figures are listed",
    )  # fmt: skip
    parser.add_argument("--format", type=names, default=["svg"], metavar="svg,pdf,png")
    parser.add_argument("--out", type=Path, default=Path(), metavar="FOLDER", help="default: here")
    parser.add_argument(
        "--proxy", type=names, metavar=f"{spec},…",
        help="default: all other protocols with scores, and the known baselines",
    )  # fmt: skip
    parser.add_argument("--target", default="finetune", metavar=spec)


def _plot(options: argparse.Namespace) -> int:
    from results.agreement.analysis import analyse
    from results.figures.catalogue import FIGURES, chart
    from results.figures.drawing import NotDrawn
    from results.figures.export import FORMATS, require_vl_convert, save

    if not options.figures:
        for name, figure in FIGURES.items():
            print(f"{name:22}{figure.title}; needs {figure.needs}")
        return 0
    for name in options.figures:
        if name not in FIGURES and name != _ALL:
            raise unknown("a figure", name, [*FIGURES, _ALL])
    for one in options.format:
        if one not in FORMATS:
            raise unknown("`--format`", one, FORMATS)
    if set(options.format) != {"svg"}:
        require_vl_convert()
    every = _ALL in options.figures
    analysis = analyse(results_of(options), options.proxy, options.target)
    for name in FIGURES if every else options.figures:
        try:
            drawing = chart(name, analysis)
        except NotDrawn as reason:
            if not every:
                raise
            print(f"not drawn: {name}: {printable(str(reason))}", file=sys.stderr)
            continue
        for one in options.format:
            path = options.out / f"{name}.{one}"
            save(drawing, path)
            print(f"drawn: {path}", file=sys.stderr)
        print(printable(f"{drawing.title}. {drawing.caption}"))
    return 0
