"""Published tables for comparison: scores in the format of records, and correlations."""

import csv
import dataclasses
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from results.errors import unknown
from results.records.encoder_facts import EncoderFacts, family_of
from results.records.reading import Results, Row

FOLDER = Path(__file__).parent
PROTOCOLS = FOLDER / "protocols.csv"
"""What the published tables state about their protocols."""
_IMAGENET = "transfer_2021_imagenet"
"""The table with ImageNet accuracies of models that other tables judge on other datasets."""


@dataclasses.dataclass(frozen=True)
class Head:
    """The comment at the head of a table.

    Args:
        content: what the table holds.
        source: paper, arXiv number and table, or the program that states the numbers.
        units: the units of the scores.
        not_stated: what the source does not say.
        notes: all else, such as the meaning of names and columns.
    """

    content: str
    source: str
    units: str
    not_stated: str
    notes: str

    @property
    def papers(self) -> list[str]:
        """The arXiv numbers in the source."""
        return list(dict.fromkeys(re.findall(r"arXiv (\d{4}\.\d{5})", self.source)))


def names() -> list[str]:
    """Return the names of the published tables of scores."""
    return sorted(path.stem for path in FOLDER.glob("*.csv") if path != PROTOCOLS)


def correlation_names() -> list[str]:
    """Return the names of the published tables of correlations between proxies and targets."""
    return sorted(path.stem for path in (FOLDER / "correlations").glob("*.csv"))


def source(name: str) -> str:
    """Return the comment at the head of a table with the source of its numbers."""
    return " ".join(_comment(name))


def head(name: str) -> Head:
    """Return the parts of the comment at the head of a table.

    Raises:
        ResultsError: if the name is unknown; the message lists the known ones.
    """
    parts = {"content": "", "source": "", "units": "", "not stated": "", "notes": ""}
    part = ""
    for line in _comment(name):
        beginning, _, rest = line.partition(": ")
        if beginning in parts:
            part, line = beginning, rest
        parts[part] += f" {line}" if parts[part] else line
    return Head(*parts.values())


def read_published(tables: Sequence[str]) -> Results:
    """Return published tables as results with one seed.

    The first metric in a table for a protocol and a dataset is the primary one. Where two tables
    state scores of one encoder, protocol and dataset, these are variants of the protocol, whose
    labels name the table: ``finetune table=transfer_2021_table1``.

    Raises:
        ResultsError: if a name is unknown; the message lists the known ones.
    """
    rows_of = {name: _rows(name) for name in tables}
    stating: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    for name, some in rows_of.items():
        for row in some:
            stating[row.protocol, row.encoder, row.dataset].add(name)
    repeated = {protocol for (protocol, *_), several in stating.items() if len(several) > 1}
    rows = [
        row._replace(protocol=f"{row.protocol} table={name}") if row.protocol in repeated else row
        for name, some in rows_of.items()
        for row in some
    ]
    return Results(rows, finished=len(rows), stated_facts=_facts(tables))


def lines(name: str) -> list[dict[str, str]]:
    """Return the lines of a table of scores by column.

    Raises:
        ResultsError: if the name is unknown; the message lists the known ones.
    """
    return _lines(name, names())


def correlation_lines(name: str) -> list[dict[str, str]]:
    """Return the lines of a table of correlations by column, as ``correlate`` writes them.

    Raises:
        ResultsError: if the name is unknown; the message lists the known ones.
    """
    return _lines(name, correlation_names())


def other_names(name: str) -> dict[str, list[str]]:
    """Return model -> names of the same encoder where its released weights are evaluated."""
    return {
        line["model"]: [one for one in (line.get("released") or "").split(";") if one]
        for line in lines(name)
    }


def _facts(tables: Sequence[str]) -> dict[str, EncoderFacts]:
    """Return model -> facts that the tables state; columns may be empty or missing."""
    imagenet = {line["model"]: float(line["score"]) / 100 for line in lines(_IMAGENET)}
    facts: dict[str, EncoderFacts] = {}
    for line in (line for name in tables for line in lines(name)):
        model = line["model"]
        known = facts.get(model, EncoderFacts())
        facts[model] = EncoderFacts(
            parameters=known.parameters or int(line.get("parameters") or 0) or None,
            feature_dim=known.feature_dim or int(line.get("feature_dim") or 0) or None,
            imagenet_top1=imagenet.get(model),
            family=known.family or line.get("family") or family_of(model),
        )
    return facts


def _lines(name: str, known: Sequence[str]) -> list[dict[str, str]]:
    if name not in known:
        raise unknown("a published table", name, known)
    with _path(name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


def _comment(name: str) -> list[str]:
    known = [*names(), *correlation_names()]
    if name not in known:
        raise unknown("a published table", name, known)
    with _path(name).open(encoding="utf-8") as file:
        return [line[1:].strip() for line in file if line.startswith("#")]


def _path(name: str) -> Path:
    folder = FOLDER / "correlations" if name in correlation_names() else FOLDER
    return folder / f"{name}.csv"


def _rows(name: str) -> list[Row]:
    entries = lines(name)
    first: dict[tuple[str, str], str] = {}
    for entry in entries:
        first.setdefault((entry["protocol"], entry["dataset"]), entry["metric"])
    return [_row(entry, first[entry["protocol"], entry["dataset"]]) for entry in entries]


def _row(entry: dict[str, str], primary: str) -> Row:
    """Return a line as a row; by default its score is in percent and higher is better."""
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
