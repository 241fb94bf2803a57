"""``correlate``: how well cheap scores agree with a target score."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from results.commands.options import PICTURES, names, reading, results_of, writing
from results.errors import ResultsError, unknown
from results.plain_text import printable
from results.records.reading import Results
from results.tables import rendering
from results.tables.printing import save, show

if TYPE_CHECKING:
    from results.agreement.correlations import Correlation, Name
    from results.agreement.scores import Scores
    from results.commands.options import Commands

SEEDS = "seeds"
"""The value of ``--ceiling`` without a source."""


def add(commands: "Commands") -> None:
    """Add the command."""
    parser = reading(
        commands, "correlate", _correlate, "correlate cheap scores with a target score"
    )
    spec = "PROTOCOL[:METRIC][@KEY=VALUE]"
    parser.add_argument(
        "--proxy", type=names, required=True, metavar=f"{spec},…",
        help="also baselines: static_rank, parameters, imagenet_top1, feature_dim",
    )  # fmt: skip
    parser.add_argument("--target", required=True, metavar=spec)
    parser.add_argument(
        "--target-from", metavar="SOURCE",
        help="take the target from another published table or outputs folder",
    )  # fmt: skip
    parser.add_argument(
        "--coefficient", type=names, default=[], metavar="NAME,…",
        help="pearson, pearson_logit, spearman, kendall, weighted_kendall, "
        "weighted_kendall_by_target (default: all but the first and the last)",
    )  # fmt: skip
    parser.add_argument(
        "--ceiling", nargs="?", const=SEEDS, metavar="SOURCE",
        help="how well the target agrees with itself: between seeds, or in another published table "
        "or outputs folder",
    )  # fmt: skip
    parser.add_argument(
        "--leave-one-out", choices=("encoder", "family"),
        help="the coefficients without each encoder or family",
    )  # fmt: skip
    parser.add_argument(
        "--families", type=Path, metavar="FILE", help="CSV with the columns encoder and family"
    )
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw the scatter (SVG, PDF, PNG)"
    )
    writing(parser)


def _correlate(options: argparse.Namespace) -> int:
    from results.agreement.correlation_tables import show_correlations, to_csv_long, to_one_table
    from results.agreement.correlations import DEFAULT, correlate_scores, known_names, proxies_of

    if options.plot and options.plot.suffix not in PICTURES:
        raise unknown("the ending of `--plot`", options.plot.suffix, PICTURES)
    results = results_of(options)
    target, left_out = _target(results, options)
    proxies = proxies_of(results, options.proxy, target)
    chosen = known_names(options.coefficient) or list(DEFAULT)
    coefficients = correlate_scores(target, proxies, chosen)
    if options.ceiling:
        coefficients += _ceiling(results, target, chosen, options)
    numbers, table = to_csv_long(coefficients), to_one_table(coefficients)
    if options.format == "terminal":
        show_correlations(coefficients)
    else:
        show([table], numbers, options.format)
    for sentence in left_out:
        print(printable(sentence), file=sys.stderr)
    if options.leave_one_out:
        _leave_one_out(results, target, proxies, chosen, options)
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


def _target(results: Results, options: argparse.Namespace) -> "tuple[Scores, list[str]]":
    """Return the target's scores, and a sentence about encoders of another source left out."""
    from results.agreement.specs import target_spec

    spec = target_spec(options.target, options.proxy)
    if options.target_from:
        from results.agreement.two_sources import target_from

        return target_from(options.target_from, spec, results, options.published or ())
    from results.agreement.scores import scores

    return scores(results, spec), []


def _ceiling(
    results: Results, target: "Scores", chosen: "list[Name]", options: argparse.Namespace
) -> "list[Correlation]":
    from results.agreement.ceiling import between_seeds, between_sources

    if options.ceiling == SEEDS:
        if options.target_from:
            raise ResultsError(
                "`--ceiling` with `--target-from` must name a second source of the target; write "
                "`--ceiling SOURCE`."
            )
        return between_seeds(results, target.name, chosen)
    return between_sources(
        results, target, options.target, options.ceiling, chosen, options.published or ()
    )


def _leave_one_out(
    results: Results,
    target: "Scores",
    proxies: "list[Scores]",
    chosen: "list[Name]",
    options: argparse.Namespace,
) -> None:
    from results.agreement.headline import HEADLINE
    from results.agreement.leave_one_out import families_of, leave_one_out, to_table

    by = options.leave_one_out
    name = HEADLINE if HEADLINE in chosen else chosen[0]
    encoders = {encoder for column in target.raw.values() for encoder in column}
    families = families_of(results, encoders, options.families) if by == "family" else None
    table = to_table(leave_one_out(target, proxies, name, families), name, by)
    print()
    show([table], rendering.to_csv(table.header, table.rows), options.format)
    if options.save:
        numbers = rendering.to_csv(table.header, table.rows)
        paths = save(options.save, f"without_each_{by}", [table], numbers, options.format)
        print(f"saved: {paths}", file=sys.stderr)
