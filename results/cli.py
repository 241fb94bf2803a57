"""The commands of ``python -m results``."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from results import comparison, rendering, tables
from results.errors import ResultsError, unknown
from results.plain_text import printable
from results.printing import describe, save, show, show_correlations, warn
from results.records import Results, Row, read
from results.rendering import Table

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

PICTURES = (".png", ".pdf", ".svg")

EXAMPLES = """examples:
  python -m results table
  python -m results table --protocol linear_probe,bn_tune --format markdown
  python -m results correlate --proxy linear_probe,bn_tune --target finetune --plot scatter.png
  python -m results correlate --published transfer_2021_table1 --proxy logistic_regression \\
      --target finetune
  python -m results compare --published transfer_2021_table1,transfer_2021_ece
  python -m results curve --protocol linear_probe --dataset cifar10 --plot curve.png
  python -m results run 3f2a --to pictures
  python -m results episodes 3f2a 81cd
  python -m results summary --sweep latest
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
    table = _reading(commands, "table", _table, "encoder × dataset for each protocol")
    table.add_argument("--metric", help="show this metric instead of each run's primary one")
    _writing(table)
    correlate = _reading(
        commands, "correlate", _correlate, "correlate cheap scores with a target score"
    )
    spec = "PROTOCOL[:METRIC]"
    correlate.add_argument("--proxy", type=_names, required=True, metavar=f"{spec},…")
    correlate.add_argument("--target", required=True, metavar=spec)
    correlate.add_argument("--plot", type=Path, metavar="FILE", help="draw the scatter (PNG, PDF)")
    _writing(correlate)
    compared = _reading(commands, "compare", _compare, "own scores beside published ones")
    compared.add_argument(
        "--unmatched", action="store_true", help="also list scores without a counterpart"
    )
    _writing(compared)
    curve = _reading(commands, "curve", _curve, "scores against the size of the encoder")
    curve.add_argument("--x", choices=("parameters", "networks"), default="parameters")
    curve.add_argument("--metric", help="show this metric instead of each run's primary one")
    curve.add_argument(
        "--plot", type=Path, metavar="FILE",
        help="draw the picture (PNG, PDF); a CSV file of the same name holds its points",
    )  # fmt: skip
    _writing(curve)
    long = _reading(commands, "list", _list, "the long table: one line per run and metric")
    long.add_argument("--format", choices=("terminal", "csv", "markdown"), default="terminal")
    _reading(commands, "failures", _failures, "failed and invalid runs, with reasons")
    summary = commands.add_parser("summary", help="the report at the end of a multirun")
    summary.add_argument("--sweep", default="latest", help="latest, a name, or a path")
    _placing(summary)
    summary.set_defaults(function=_summary)
    single = commands.add_parser("run", help="everything about one run")
    single.add_argument("run", metavar="ID", help="a run's id, the start of one, or its folder")
    single.add_argument(
        "--to", type=Path, metavar="FOLDER",
        help="write the report (Markdown), scores and errors (CSV), and pictures (PNG) there",
    )  # fmt: skip
    _placing(single)
    single.set_defaults(function=_run)
    episodes = commands.add_parser("episodes", help="few-shot runs compared episode by episode")
    episodes.add_argument(
        "runs", nargs="+", metavar="ID", help="ids of runs, or their folders; the first is the base"
    )
    _placing(episodes)
    _writing(episodes)
    episodes.set_defaults(function=_episodes)
    published = commands.add_parser("published", help="published tables to compare with")
    published.set_defaults(function=_published)
    return parser


def _reading(
    commands: "Commands", name: str, function: Callable[[argparse.Namespace], int], text: str
) -> argparse.ArgumentParser:
    """Add a command that reads records, with options to select them."""
    parser = commands.add_parser(name, help=text)
    parser.set_defaults(function=function)
    _placing(parser)
    parser.add_argument("--sweep", help="only one sweep: latest, a name, or a path")
    use = {
        "compare": "beside own scores (default: all)",
        "curve": "beside own scores, or alone",
    }.get(name, "instead of records")
    parser.add_argument(
        "--published", type=_names, metavar="NAME,…", help=f"published tables {use}"
    )
    parser.add_argument(
        "--mean-over",
        type=_names,
        default=[],
        metavar="KEY,…",
        help="average over these keys as over seeds, e.g. dataset.split",
    )
    if name != "correlate":
        parser.add_argument("--protocol", type=_names, default=[], metavar="NAME,…")
    parser.add_argument("--dataset", type=_names, default=[], metavar="NAME,…")
    parser.add_argument("--without", type=_names, default=[], metavar="ENCODER,…")
    return parser


def _placing(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--outputs``; a variable sets its default, as in ``conf/paths``."""
    default = Path(os.environ.get("SSL_TRANSFER_OUTPUTS", "outputs")).expanduser()
    parser.add_argument("--outputs", type=Path, default=default, help="where runs write")


def _writing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", choices=("terminal", "csv", "markdown"), default="terminal")
    parser.add_argument("--save", type=Path, metavar="FOLDER", help="write CSV and Markdown there")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _results(options: argparse.Namespace) -> Results:
    """Read the records that the options select; warn about unusable files."""
    if options.published and options.function not in (_compare, _curve):
        from results.published import read_published

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


def _table(options: argparse.Namespace) -> int:
    results = _results(options)
    left_out = None
    if not options.sweep:  # the table of a sweep shows all of its cells
        results, left_out = tables.without_refused(results)
    wide, numbers = tables.wide(results, options.metric), tables.wide_csv(results, options.metric)
    if not wide:
        raise ResultsError(
            left_out or "a table needs a run that evaluates an encoder, but there is none yet."
        )
    show(wide, numbers, options.format)
    if left_out:
        print(printable(left_out), file=sys.stderr)
    if options.save:
        print(f"saved: {save(options.save, 'table', wide, numbers)}", file=sys.stderr)
    return 0


def _correlate(options: argparse.Namespace) -> int:
    from results import correlations

    if options.plot and options.plot.suffix not in PICTURES:
        raise unknown("the ending of `--plot`", options.plot.suffix, PICTURES)
    results = _results(options)
    coefficients = correlations.correlate(results, options.proxy, options.target)
    numbers, table = correlations.to_csv_long(coefficients), correlations.to_one_table(coefficients)
    if options.format == "terminal":
        show_correlations(coefficients)
    else:
        show([table], numbers, options.format)
    if options.save:
        print(f"saved: {save(options.save, 'correlations', [table], numbers)}", file=sys.stderr)
    if options.plot:
        from results.plots import scatter

        target = correlations.scores(results, options.target)
        scatter(
            options.plot,
            target,
            [correlations.scores(results, p) for p in options.proxy],
            coefficients,
        )
        print(f"drawn: {options.plot}", file=sys.stderr)
    return 0


def _compare(options: argparse.Namespace) -> int:
    from results.published import names

    results = _results(options)
    result = comparison.compare(results, options.published or names())
    shown = [comparison.to_table(result, options.mean_over)]
    if options.unmatched:
        shown += comparison.unmatched(result)
    numbers = comparison.to_csv_pairs(result)
    show(shown, numbers, options.format)
    if options.save:
        print(f"saved: {save(options.save, 'comparison', shown, numbers)}", file=sys.stderr)
    return 0


def _curve(options: argparse.Namespace) -> int:
    from results import curves

    if options.plot and options.plot.suffix not in PICTURES:
        raise unknown("the ending of `--plot`", options.plot.suffix, PICTURES)
    published = curves.published_points(options.published or (), options.protocol, options.dataset)
    own: list[curves.Point] = []
    left_out: list[str] = []
    if not published or options.outputs.is_dir():
        own, left_out = curves.points(_own(options, optional=bool(published)), options.metric)
    points = curves.in_order([*own, *published])
    for sentence in left_out:
        print(printable(sentence), file=sys.stderr)
    if not points:
        raise ResultsError(
            "a curve needs scores on a data set, but there are none of this protocol, data set and "
            "metric; start a run first, or name others."
        )
    table, numbers = curves.to_table(points), curves.to_csv_points(points)
    show([table], numbers, options.format)
    if options.save:
        print(f"saved: {save(options.save, 'curve', [table], numbers)}", file=sys.stderr)
    if options.plot:
        from results.curve_plots import draw

        draw(options.plot, points, options.x)
        beside = options.plot.with_suffix(".csv")
        beside.write_text(numbers, encoding="utf-8")
        print(f"drawn: {options.plot}, {beside}", file=sys.stderr)
    return 0


def _own(options: argparse.Namespace, *, optional: bool) -> Results:
    """Return the own results; empty ones if they are optional and none fits the options."""
    try:
        return _results(options)
    except ResultsError:
        if not optional:
            raise
        return Results([])


def _list(options: argparse.Namespace) -> int:
    rows = _results(options).rows
    header = [name.replace("_", " ") for name in Row._fields]
    table = Table("One line per run and metric", header, [[_plain(v) for v in row] for row in rows])
    if options.format == "terminal":
        short = ["encoder", "protocol", "dataset", "seed", "metric", "split", "value", "unit"]
        cells = [[*(_plain(getattr(row, k)) for k in short), row.run_id[:8]] for row in rows]
        table = Table(table.title, [*short, "run"], cells, left=3)
    show([table], rendering.to_csv(Row._fields, rows), options.format)
    return 0


def _plain(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _failures(options: argparse.Namespace) -> int:
    print("\n".join(describe(_results(options).gaps)) or "No run failed.")
    return 0


def _summary(options: argparse.Namespace) -> int:
    from results.summary import summarise

    return summarise(options.outputs, options.sweep)


def _run(options: argparse.Namespace) -> int:
    from results.run_report import facts_text, report_on
    from results.single_run import find_run

    report = report_on(find_run(options.outputs, options.run))
    print(facts_text(report.facts, rendering.terminal_width()))
    for table in report.tables:
        print(f"\n{rendering.to_terminal(table)}")
    problems = [*report.problems]
    if options.to:
        from results.run_files import save_report

        files, no_pictures = save_report(report, options.to)
        problems += [no_pictures] if no_pictures else []
        print(f"saved: {', '.join(map(str, files))}", file=sys.stderr)
    for problem in problems:
        print(f"warning: {printable(problem)}", file=sys.stderr)
    return 0


def _episodes(options: argparse.Namespace) -> int:
    from results.episodes import compared, read_episodes, to_csv_rows, to_table
    from results.single_run import find_run

    rows = compared([read_episodes(find_run(options.outputs, name)) for name in options.runs])
    table, numbers = to_table(rows), to_csv_rows(rows)
    show([table], numbers, options.format)
    if options.save:
        print(f"saved: {save(options.save, 'episodes', [table], numbers)}", file=sys.stderr)
    return 0


def _published(options: argparse.Namespace) -> int:
    from results.published import names, source

    for name in names():
        print(f"{name}\n  {source(name)}")
    return 0
