"""Published tables to compare with, in the same shape as records."""

import csv
from collections.abc import Sequence
from pathlib import Path

from results.errors import unknown
from results.records import Results, Row

FOLDER = Path(__file__).parent / "published"


def names() -> list[str]:
    """Return the tables that are there."""
    return sorted(path.stem for path in FOLDER.glob("*.csv"))


def source(name: str) -> str:
    """Return the comment at the head of a table: where its numbers come from."""
    with (FOLDER / f"{name}.csv").open(encoding="utf-8") as file:
        return " ".join(line[1:].strip() for line in file if line.startswith("#"))


def read_published(wanted: Sequence[str]) -> Results:
    """Return published tables as if they were records of one seed.

    The first metric that a table states for a protocol on a dataset is the primary one.

    Raises:
        ResultsError: if a name is unknown, listing those that are known.
    """
    rows = [row for name in wanted for row in _rows(name)]
    return Results(rows, finished=len(rows))


def _rows(name: str) -> list[Row]:
    if name not in names():
        raise unknown("a published table", name, names())
    with (FOLDER / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        entries = list(csv.DictReader(line for line in file if not line.startswith("#")))
    first: dict[tuple[str, str], str] = {}
    for entry in entries:
        first.setdefault((entry["protocol"], entry["dataset"]), entry["metric"])
    return [_row(entry, first[entry["protocol"], entry["dataset"]]) for entry in entries]


def _row(entry: dict[str, str], primary: str) -> Row:
    """Return a line as a score; without further columns, in percent and the more the better."""
    percent = entry.get("unit", "percent") == "percent"
    return Row(
        encoder=entry["model"],
        encoder_id=entry["model"],
        protocol=entry["protocol"],
        dataset=entry["dataset"],
        seed=0,
        metric=entry["metric"],
        value=float(entry["score"]) / (100 if percent else 1),
        unit="fraction" if percent else entry["unit"],
        higher_is_better=entry.get("better", "higher") == "higher",
        primary=entry["metric"] == primary,
        split="test",
        run_id="",
    )
