"""Cells of tables: the scores of one encoder, protocol and dataset over its runs."""

import dataclasses
import statistics
from collections import defaultdict
from collections.abc import Iterable

from results.errors import ResultsError, unknown
from results.records.labels import natural
from results.records.reading import Results, Row
from results.records.versions import Version


@dataclasses.dataclass
class Cell:
    """The scores of one encoder on one dataset under one protocol.

    Args:
        values: score by seed and run.
        failed: number of failed runs.
        invalid: number of runs with an impossible score, such as NaN or 170 %.
        not_applicable: whether the protocol cannot evaluate this encoder.
        row: any row of the cell, for its metric, unit and direction.
        left_out: number of runs with other data or weights than those of ``values``.
        outdated: whether the latest run with this data set or encoder used other files.
    """

    values: dict[tuple[int, str], float] = dataclasses.field(default_factory=dict)
    failed: int = 0
    invalid: int = 0
    not_applicable: bool = False
    row: Row | None = None
    left_out: int = 0
    outdated: bool = False

    @property
    def mean(self) -> float:
        """The mean over runs; raises an error without values."""
        return statistics.fmean(self.values.values())

    @property
    def spread(self) -> float | None:
        """The sample standard deviation over runs; None for a single one."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else None


Cells = dict[tuple[str, str], Cell]
"""Cells of one protocol by encoder and dataset."""


def cells(results: Results, protocol: str, metric: str | None = None) -> Cells:
    """Return the cells of a protocol.

    Runs with different data or weights are not averaged: only the latest ones count.

    Args:
        results: the results.
        protocol: the protocol's label.
        metric: the metric (None: each run's primary metric).

    Raises:
        ResultsError: if the protocol has no such metric; the message lists its metrics.
    """
    result: Cells = defaultdict(Cell)
    rows = [
        row
        for row in results.rows
        if row.protocol == protocol and (row.primary if metric is None else row.metric == metric)
    ]
    left_out = _of_other_files(results, rows)
    for row in {row.run_id: row for row in rows}.values():
        cell = result[row.encoder, row.dataset]
        if row.run_id in left_out:
            cell.left_out += 1
        elif (version := results.versions.get(row.run_id)) is not None:
            cell.outdated |= version.outdated
    for row in rows:
        if row.run_id not in left_out:
            cell = result[row.encoder, row.dataset]
            # Scores on the test split have priority over others of the same metric.
            # With `mean_over`, a cell may have several runs with the same seed.
            if (run := (row.seed, row.run_id)) not in cell.values or row.split == "test":
                cell.values[run] = row.value
                cell.row = row
    for gap in results.gaps:
        concerned = gap.primary if metric is None else gap.metric == metric
        if gap.kind == "invalid" and gap.protocol == protocol and concerned:
            result[gap.encoder, gap.dataset].invalid += 1
    if metric is not None and not result:
        metrics = sorted({row.metric for row in results.rows if row.protocol == protocol})
        raise unknown(f"the metric of `{protocol}`", metric, metrics)
    for gap in results.gaps:
        if gap.protocol == protocol and gap.encoder:
            cell = result[gap.encoder, gap.dataset]
            cell.failed += gap.kind == "failed"
            cell.not_applicable |= gap.kind == "not_applicable"
    return dict(result)


def _of_other_files(results: Results, rows: Iterable[Row]) -> set[str]:
    """Return the ids of the runs that are excluded from their cell's mean."""
    known: dict[tuple[str, str], dict[str, Version]] = defaultdict(dict)
    for row in rows:
        if (version := results.versions.get(row.run_id)) is not None:
            known[row.encoder, row.dataset][row.run_id] = version
    left_out = set()
    for runs in known.values():
        current = {run for run, version in runs.items() if not version.outdated}
        if not current:
            files = max(runs.values(), key=lambda version: version.started).files
            current = {run for run, version in runs.items() if version.files == files}
        left_out |= runs.keys() - current
    return left_out


def choose(results: Results, proxy: str) -> tuple[str, str | None]:
    """Return the protocol's label and the metric that ``protocol[:metric]`` names.

    Raises:
        ResultsError: if the protocol is unknown or has several variants.
    """
    name, _, metric = proxy.partition(":")
    known = sorted({row.protocol for row in results.rows}, key=natural)
    variants = [label for label in known if label.split(" ")[0] == name]
    if name in known:
        variants = [name]
    if not variants:
        raise unknown("a protocol", name, known)
    if len(variants) > 1:
        labels = ", ".join(f"`{label}`" for label in variants)
        raise ResultsError(
            f"a protocol must name one variant, but `{name}` was run as {labels}; name one of them."
        )
    return variants[0], metric or None


def ordered(labels: Iterable[str]) -> list[str]:
    """Return labels without repetition in natural order."""
    return sorted(set(labels), key=natural)
