"""Cells of tables: the scores of one encoder, protocol and dataset over its runs."""

import dataclasses
import math
import statistics
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Sequence
from typing import TypeVar

from results.errors import ResultsError, unknown
from results.records.differences import fits, natural
from results.records.reading import MissingRun, Results, Row
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
        if len(self.values) < 2:
            return None
        mean = self.mean  # `statistics.stdev` computes with fractions, which takes 30 times as long
        squares = math.fsum((value - mean) ** 2 for value in self.values.values())
        return math.sqrt(squares / (len(self.values) - 1))


Cells = dict[tuple[str, str], Cell]
"""Cells of one protocol by encoder and dataset."""

Place = TypeVar("Place", bound=Hashable)
"""What a cell is looked up by."""


def cells(results: Results, protocol: str, metric: str | None = None) -> Cells:
    """Return the cells of a protocol.

    Args:
        results: the results.
        protocol: the protocol's label.
        metric: the metric (None: each run's primary metric).

    Raises:
        ResultsError: if the protocol has no such metric; the message lists its metrics.
    """
    rows = [row for row in results.rows if row.protocol == protocol and concerns(row, metric)]
    gaps = [
        gap
        for gap in results.gaps
        if gap.protocol == protocol and (gap.kind != "invalid" or concerns(gap, metric))
    ]
    if metric is not None and not rows and not any(gap.kind == "invalid" for gap in gaps):
        metrics = sorted({row.metric for row in results.rows if row.protocol == protocol})
        raise unknown(f"the metric of `{protocol}`", metric, metrics)
    return gather(
        results,
        [((row.encoder, row.dataset), row) for row in rows],
        [((gap.encoder, gap.dataset), gap) for gap in gaps if gap.encoder],
    )


def concerns(entry: Row | MissingRun, metric: str | None) -> bool:
    """Return whether a score is of a metric (None: whether it is its run's primary one)."""
    return entry.primary if metric is None else entry.metric == metric


def gather(
    results: Results,
    rows: Sequence[tuple[Place, Row]],
    gaps: Iterable[tuple[Place, MissingRun]],
) -> dict[Place, Cell]:
    """Return the cells that scores and runs without scores belong to.

    Runs with different data or weights are not averaged: only the latest ones count.

    Args:
        results: the results, which know the files of each run.
        rows: scores and the places of their cells.
        gaps: runs without scores, and impossible scores, with the places of their cells.
    """
    gathered: dict[Place, Cell] = defaultdict(Cell)
    old = {run_id for run_id, version in results.versions.items() if version.outdated}
    mixed = {place for place, row in rows if row.run_id in old}
    left_out = _of_other_files(results, [entry for entry in rows if entry[0] in mixed])
    runs = {(place, row.run_id) for place, row in rows if place in mixed}
    for place, run_id in runs:
        gathered[place].left_out += run_id in left_out.get(place, ())
        gathered[place].outdated |= run_id in old and run_id not in left_out.get(place, ())
    for place, row in rows:
        if place not in mixed or row.run_id not in left_out.get(place, ()):
            cell = gathered[place]
            # Scores on the test split have priority over others of the same metric.
            # With `mean_over`, a cell may have several runs with the same seed.
            run = row.seed, row.run_id
            if row.split == "test" or run not in cell.values:
                cell.values[run] = row.value
                cell.row = row
    for place, gap in gaps:
        cell = gathered[place]
        cell.invalid += gap.kind == "invalid"
        cell.failed += gap.kind == "failed"
        cell.not_applicable |= gap.kind == "not_applicable"
    return dict(gathered)


def _of_other_files(
    results: Results, rows: Iterable[tuple[Place, Row]]
) -> dict[Place, Collection[str]]:
    """Return the ids of the runs that are excluded from each cell's mean."""
    known: dict[Place, dict[str, Version]] = defaultdict(dict)
    for place, row in rows:
        if (version := results.versions.get(row.run_id)) is not None:
            known[place][row.run_id] = version
    left_out: dict[Place, Collection[str]] = {}
    for place, runs in known.items():
        current = {run for run, version in runs.items() if not version.outdated}
        if not current:
            files = max(runs.values(), key=lambda version: version.started).files
            current = {run for run, version in runs.items() if version.files == files}
        if excluded := runs.keys() - current:
            left_out[place] = excluded
    return left_out


def choose(results: Results, proxy: str, others: Iterable[str] = ()) -> tuple[str, str | None]:
    """Return the protocol's label and the metric that ``protocol[:metric]`` names.

    A protocol is named by its label, by its name, or by its name and some of the label's
    ``key=value`` pairs, as far as one label fits: ``finetune``, ``finetune epochs=20``.

    Args:
        results: the results of all protocols.
        proxy: the protocol's label, or its name if that is unambiguous, and the metric.
        others: further names that the message for an unknown protocol lists.

    Raises:
        ResultsError: if the protocol is unknown or has several variants; the message lists them.
    """
    name, _, metric = proxy.partition(":")
    known = sorted({row.protocol for row in results.rows}, key=natural)
    variants = [name] if name in known else [label for label in known if fits(label, name)]
    if not variants:
        raise unknown("a protocol", name, [*known, *others])
    if len(variants) > 1:
        labels = ", ".join(f"`{label}`" for label in variants)
        raise ResultsError(
            f"a protocol must name one variant, but `{name}` was run as {labels}; name one of "
            "them in quotation marks, or select its runs with `--where`."
        )
    return variants[0], metric or None


def ordered(labels: Iterable[str]) -> list[str]:
    """Return labels without repetition in natural order."""
    return sorted(set(labels), key=natural)
