"""``correlate``: how well cheap scores agree with a target score."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from results.commands.options import PICTURES, names, reading, results_of, writing
from results.errors import unknown
from results.tables.printing import save, show

if TYPE_CHECKING:
    from results.commands.options import Commands


def add(commands: "Commands") -> None:
    """Add the command."""
    parser = reading(
        commands, "correlate", _correlate, "correlate cheap scores with a target score"
    )
    spec = "PROTOCOL[:METRIC]"
    parser.add_argument(
        "--proxy",
        type=names,
        required=True,
        metavar=f"{spec},…",
        help="also baselines: static_rank, parameters, imagenet_top1, feature_dim",
    )
    parser.add_argument("--target", required=True, metavar=spec)
    parser.add_argument(
        "--coefficient",
        type=names,
        default=[],
        metavar="NAME,…",
        help="pearson, pearson_logit, spearman, kendall, weighted_kendall, "
        "weighted_kendall_by_target (default: all but the first and the last)",
    )
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw the scatter (SVG, PDF, PNG)"
    )
    writing(parser)


def _correlate(options: argparse.Namespace) -> int:
    from results.agreement.correlation_tables import show_correlations, to_csv_long, to_one_table
    from results.agreement.correlations import DEFAULT, correlate_scores, known_names, proxies_of
    from results.agreement.scores import scores

    if options.plot and options.plot.suffix not in PICTURES:
        raise unknown("the ending of `--plot`", options.plot.suffix, PICTURES)
    results = results_of(options)
    target = scores(results, options.target)
    proxies = proxies_of(results, options.proxy, target)
    names = known_names(options.coefficient) or DEFAULT
    coefficients = correlate_scores(target, proxies, names)
    numbers, table = to_csv_long(coefficients), to_one_table(coefficients)
    if options.format == "terminal":
        show_correlations(coefficients)
    else:
        show([table], numbers, options.format)
    if options.save:
        print(
            f"saved: {save(options.save, 'correlations', [table], numbers, options.format)}",
            file=sys.stderr,
        )
    if options.plot:
        from results.figures.agreement import draw
        from results.figures.export import save as save_figure
        from results.figures.theme import PAPER

        figure = draw(target, proxies, coefficients, PAPER)
        save_figure(figure, options.plot)
        print(f"drawn: {options.plot}", file=sys.stderr)
    return 0
