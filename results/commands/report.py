"""``report``: one HTML page with the answer, the figures and the tables behind it."""

import argparse
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from results.commands.options import names, outputs_of, reading, results_of
from results.errors import ResultsError

if TYPE_CHECKING:
    from results.commands.options import Commands


def add(commands: "Commands") -> None:
    """Add the command."""
    parser = reading(commands, "report", _report, "one HTML page: the answer, figures and tables")
    spec = "PROTOCOL[:METRIC][@KEY=VALUE]"
    parser.add_argument("--out", type=Path, default=Path("report.html"), help="the page's file")
    parser.add_argument(
        "--proxy", type=names, metavar=f"{spec},…",
        help="default: all other protocols with scores, and the known baselines",
    )  # fmt: skip
    parser.add_argument("--target", default="finetune", metavar=spec)
    parser.add_argument("--highlight", default="", metavar="ENCODER")
    parser.add_argument("--maps", action="store_true", help="show t-SNE maps")


def _report(options: argparse.Namespace) -> int:
    from results.agreement.analysis import analyse
    from results.report.page import build
    from results.report.sections import Request

    if options.out.suffix not in (".html", ".htm"):
        raise ResultsError(
            f"`--out` must end in `.html`, but is `{options.out}`; name an HTML file."
        )
    analysis = analyse(results_of(options), options.proxy, options.target)
    request = Request(
        sources=list(_sources(options)),
        command=_command(options),
        highlight=options.highlight,
        maps=options.maps,
    )
    page = build(analysis, request)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(page, encoding="utf-8")
    print(f"written: {options.out} ({len(page.encode()) / 1e6:.1f} MB)", file=sys.stderr)
    return 0


def _sources(options: argparse.Namespace) -> Iterator[str]:
    """Yield one sentence per place that the numbers are read from."""
    if options.published:
        from results.published.catalogue import head

        for name in options.published:
            of = head(name)
            yield f"Published table `{name}`: {of.content} Source: {of.source}"
    else:
        sweep = f", sweep `{options.sweep}`" if options.sweep else ""
        where = f", where `{options.where}`" if options.where else ""
        folders = ", ".join(f"`{_place(folder)}`" for folder in outputs_of(options))
        yield f"Outputs: {folders}{sweep}{where}."


def _command(options: argparse.Namespace) -> str:
    """Return the command that makes this report again."""
    words = ["python", "-m", "results", "report"]
    if not options.published:
        words += ["--outputs", ",".join(_place(folder) for folder in outputs_of(options))]
    for key in ("sweep", "published", "mean_over", "protocol", "dataset", "without", "where",
                "proxy", "target", "highlight", "out"):  # fmt: skip
        value = getattr(options, key)
        if value:
            text = ",".join(value) if isinstance(value, list) else _place(value)
            words += [f"--{key.replace('_', '-')}", text]
    return shlex.join([*words, "--maps"] if options.maps else words)


def _place(path: Path | str) -> str:
    """Return a path with the home folder as ``~``, since a report may be given away."""
    home = str(Path.home())
    text = str(path)
    return f"~{text[len(home) :]}" if text.startswith(f"{home}/") else text
