"""Scores over runs: what a cell of a table holds, and the number that enters a correlation."""

import dataclasses
import statistics
from collections import defaultdict
from collections.abc import Iterable

from results.errors import ResultsError, unknown
from results.labels import natural
from results.records import Results, Row
from results.versions import Version


@dataclasses.dataclass
class Cell:
    """What is known of one encoder on one dataset under one protocol.

    Args:
        values: score by seed and run.
        failed: number of runs that failed.
        invalid: number of runs whose score cannot be, such as NaN or 170 %.
        not_applicable: whether the protocol cannot judge this encoder.
        row: any of the scores, for its metric, unit and direction.
        left_out: number of runs on other data or weights than those of ``values``.
        outdated: whether the latest run on this data set or encoder met other files.
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
        """The mean over runs; fails without values."""
        return statistics.fmean(self.values.values())

    @property
    def spread(self) -> float | None:
        """The sample standard deviation over runs; None for a single one."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else None


Cells = dict[tuple[str, str], Cell]
"""Cells of one protocol by encoder and dataset."""


def cells(results: Results, protocol: str, metric: str | None = None) -> Cells:
    """Return the cells of a protocol.

    Runs on different data or weights never share a mean: the latest ones count.

    Args:
        results: what was read.
        protocol: its label.
        metric: None for each run's primary metric.

    Raises:
        ResultsError: if the protocol has no such metric, listing those it has.
    """
    found: Cells = defaultdict(Cell)
    rows = [
        row
        for row in results.rows
        if row.protocol == protocol and (row.primary if metric is None else row.metric == metric)
    ]
    left_out = _of_other_files(results, rows)
    for row in {row.run_id: row for row in rows}.values():
        cell = found[row.encoder, row.dataset]
        if row.run_id in left_out:
            cell.left_out += 1
        elif (version := results.versions.get(row.run_id)) is not None:
            cell.outdated |= version.outdated
    for row in rows:
        if row.run_id not in left_out:
            cell = found[row.encoder, row.dataset]
            # Scores on the test split come before others of the same metric.
            # Runs of one seed share a cell where another key is averaged, too.
            if (run := (row.seed, row.run_id)) not in cell.values or row.split == "test":
                cell.values[run] = row.value
                cell.row = row
    for gap in results.gaps:
        concerned = gap.primary if metric is None else gap.metric == metric
        if gap.kind == "invalid" and gap.protocol == protocol and concerned:
            found[gap.encoder, gap.dataset].invalid += 1
    if metric is not None and not found:
        metrics = sorted({row.metric for row in results.rows if row.protocol == protocol})
        raise unknown(f"the metric of `{protocol}`", metric, metrics)
    for gap in results.gaps:
        if gap.protocol == protocol and gap.encoder:
            cell = found[gap.encoder, gap.dataset]
            cell.failed += gap.kind == "failed"
            cell.not_applicable |= gap.kind == "not_applicable"
    return dict(found)


def _of_other_files(results: Results, rows: Iterable[Row]) -> set[str]:
    """Return the runs that must not enter their cell's mean."""
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
        ResultsError: if the protocol is unknown or stands for several variants.
    """
    name, _, metric = proxy.partition(":")
    known = sorted({row.protocol for row in results.rows}, key=natural)
    variants = [label for label in known if label.split(" ")[0] == name]
    if name in known:
        variants = [name]
    if not variants:
        raise unknown("a protocol", name, known)
    if len(variants) > 1:
        listed = ", ".join(f"`{label}`" for label in variants)
        raise ResultsError(
            f"a protocol must name one variant, but `{name}` was run as {listed}; name one of them."
        )
    return variants[0], metric or None


def ordered(labels: Iterable[str]) -> list[str]:
    """Return labels without repetition in natural order."""
    return sorted(set(labels), key=natural)
