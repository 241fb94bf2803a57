"""Where the numbers of a report come from: runs, code, versions, devices and data."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from results.records.reading import Results
from results.report.html import Number
from results.tables.rendering import Table

DIGITS = 12
"""Number of digits of fingerprints and revisions that are shown."""


@dataclasses.dataclass
class Provenance:
    """What the records of all runs state, each value with the number of runs.

    Args:
        runs: number of finished runs.
        newest: start of the latest run in ISO 8601; empty if no record states it.
        facts: kind of fact, such as ``code`` or ``torch`` -> value -> number of runs.
    """

    runs: int = 0
    newest: str = ""
    facts: dict[str, Counter[str]] = dataclasses.field(default_factory=dict)

    def count(self, kind: str, value: object) -> None:
        """Count one run with this value; values that are no text are left out."""
        if isinstance(value, str) and value:
            self.facts.setdefault(kind, Counter())[value] += 1


def provenance(results: Results) -> Provenance:
    """Return the provenance of the runs that have scores in the results."""
    result = Provenance()
    for run_id in dict.fromkeys(row.run_id for row in results.rows):
        document = results.documents.get(run_id)
        if document is not None:
            result.runs += 1
            result.newest = max(result.newest, str(document.get("started") or ""))
            for kind, value in _facts(document):
                result.count(kind, value)
    return result


def to_table(source: Provenance) -> Table:
    """Return one row per kind of fact and value."""
    rows = [
        [kind, value, Number(str(runs), runs)]
        for kind, values in source.facts.items()
        for value, runs in sorted(values.items())
    ]
    return Table("What the records state", ["fact", "value", "runs"], rows, left=2)


def sentences(source: Provenance, sources: Sequence[str]) -> list[str]:
    """Return what the numbers are read from, how many runs there are, and the newest record."""
    texts = [*sources]
    if source.runs:
        texts.append(f"{_plural(source.runs, 'finished run')} with scores.")
    if source.newest:
        texts.append(f"The newest run started at {source.newest}.")
    revisions = source.facts.get("code", Counter())
    if len(revisions) > 1:
        texts.append(f"The runs come from {len(revisions)} revisions of the code.")
    return texts


def _facts(document: Mapping[str, Any]) -> Iterable[tuple[str, object]]:
    code, data = _part(document, "code"), _part(document, "data")
    if revision := code.get("revision"):
        yield "code", f"{str(revision)[:DIGITS]}{' with changes' if code.get('dirty') else ''}"
    for name, version in _part(document, "versions").items():
        yield str(name), version
    if device := document.get("device_name") or document.get("device"):
        processes = document.get("processes")
        several = isinstance(processes, int) and processes > 1
        yield "device", f"{processes} × {device}" if several else device
    if fingerprint := data.get("fingerprint"):
        yield f"data of {document.get('dataset')}", str(fingerprint)[:DIGITS]


def _part(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    part = document.get(key)
    return part if isinstance(part, Mapping) else {}


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
