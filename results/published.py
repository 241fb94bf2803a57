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

    Raises:
        ResultsError: if a name is unknown, listing those that are known.
    """
    rows = []
    for name in wanted:
        if name not in names():
            raise unknown("a published table", name, names())
        with (FOLDER / f"{name}.csv").open(encoding="utf-8", newline="") as file:
            rows += [_row(entry) for entry in csv.DictReader(_content(file.readlines()))]
    return Results(rows, finished=len(rows))


def _content(lines: Sequence[str]) -> list[str]:
    return [line for line in lines if not line.startswith("#")]


def _row(entry: dict[str, str]) -> Row:
    return Row(
        encoder=entry["model"],
        encoder_id=entry["model"],
        protocol=entry["protocol"],
        dataset=entry["dataset"],
        seed=0,
        metric=entry["metric"],
        value=float(entry["score"]) / 100,
        unit="fraction",
        higher_is_better=True,
        primary=True,
        split="test",
        run_id="",
    )
