"""Few-shot runs compared episode by episode."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from results.errors import ResultsError
from results.records.episodes import EpisodeAccuracies
from results.tables.rendering import Table, to_csv


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over episodes, and half the width of its 95 % interval, as fractions.

    A single episode has no interval.
    """

    mean: float
    interval: float | None


def estimate(values: NDArray[np.float64]) -> Estimate:
    """Return the mean and 1.96 standard deviations (of the population) of the mean."""
    mean, several = float(values.mean()), len(values) > 1
    return Estimate(mean, 1.96 * float(values.std()) / math.sqrt(len(values)) if several else None)


def compared(runs: Sequence[EpisodeAccuracies]) -> list[tuple[str, Estimate, Estimate]]:
    """Return each run's label, its accuracy, and the paired difference from the first run.

    Raises:
        ResultsError: if the runs judged other episodes than the first one.
    """
    first = runs[0]
    for run in runs:
        if run.drawn != first.drawn:
            raise ResultsError(
                f"runs must share their episodes to be compared, but those of `{run.label}` differ "
                f"from those of `{first.label}`; compare runs of one dataset and "
                "`dataset.split_seed`, with equal pool, ways, shots, queries and episodes."
            )
    return [
        (run.label, estimate(run.accuracies), estimate(run.accuracies - first.accuracies))
        for run in runs
    ]


def to_table(rows: Sequence[tuple[str, Estimate, Estimate]]) -> Table:
    """Return the comparison as a table of texts, in percent."""
    body = [
        [label, _percent(own), _percent(difference, "+") if number else "–"]
        for number, (label, own, difference) in enumerate(rows)
    ]
    known = all(own.interval is not None for _, own, _ in rows)
    width = "± is half the width of the 95 % interval over these episodes"
    return Table(
        "Accuracy over episodes, and paired difference from the first run (in %)",
        ["run", "accuracy", "difference"],
        body,
        [width if known else "a single episode has no interval"],
    )


def to_csv_rows(rows: Sequence[tuple[str, Estimate, Estimate]]) -> str:
    """Return the comparison as CSV, in percent."""
    header = ["run", "accuracy", "interval", "difference", "difference interval"]
    numbers = [
        [label, *(_rounded(value) for one in pair for value in (one.mean, one.interval))]
        for label, *pair in rows
    ]
    return to_csv(header, numbers)


def _percent(value: Estimate, sign: str = "") -> str:
    width = "" if value.interval is None else f" ± {100 * value.interval:.2f}"
    return f"{100 * value.mean:{sign}.2f}{width}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(100 * value, 4)
