"""``list``: the long table, one line per run and metric."""

import argparse
from typing import TYPE_CHECKING

from results.commands.options import reading, results_of
from results.records.reading import Row
from results.tables import rendering
from results.tables.printing import FORMATS, show
from results.tables.rendering import Table

if TYPE_CHECKING:
    from results.commands.options import Commands


def add(commands: "Commands") -> None:
    """Add the command."""
    parser = reading(commands, "list", _list, "the long table: one line per run and metric")
    parser.add_argument("--format", choices=FORMATS, default="terminal")


def _list(options: argparse.Namespace) -> int:
    rows = results_of(options).rows
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
