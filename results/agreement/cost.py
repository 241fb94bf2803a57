"""What a proxy costs: device seconds from the records of the runs whose scores it uses.

Stored features are extracted once and used by many runs and protocols. A run's own time is its
duration without what it spent on getting stored features; the extraction of each distinct array is
added once, whichever run did it.
"""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from results.agreement.baselines import BASELINES
from results.agreement.specs import chosen
from results.records.cells import cells
from results.records.reading import Results

Uses = Mapping[str, tuple[float, str]]
"""Key of an array -> device seconds of its extraction (NaN if unknown) and the device."""


@dataclasses.dataclass(frozen=True)
class Cost:
    """The cost of a proxy's scores, in seconds of wall time times processes.

    Seconds on different devices, such as two kinds of card, are not comparable and never added up:
    ``seconds`` and ``extraction_seconds`` are NaN if there is more than one. A device is its kind
    with its name, ``cuda (NVIDIA H100 80GB HBM3)``; where records of earlier code lack the name, it
    is taken for the named one of its kind.

    Args:
        own: device -> seconds of the runs without the extraction of stored features.
        arrays: the stored features that the runs use; each is extracted once.
        runs: number of runs.
        cells: number of pairs of encoder and dataset that the runs have scores for.
        unknown: number of runs whose cost is known only in part, so that the cost is a lower bound:
            runs of earlier code, whose records do not name the features that they reused; runs that
            use features of earlier code; and interrupted runs of earlier code, whose records have
            the time of their last part only.
    """

    own: Mapping[str, float] = dataclasses.field(default_factory=dict)
    arrays: Uses = dataclasses.field(default_factory=dict)
    runs: int = 0
    cells: int = 0
    unknown: int = 0

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices, sorted."""
        known = {device for seconds, device in self.arrays.values() if not math.isnan(seconds)}
        known |= set(self.own)
        named = {device.partition(" (")[0] for device in known if " (" in device}
        return tuple(sorted(known - named))

    @property
    def seconds(self) -> float:
        """The time of the runs without the extraction of stored features."""
        return math.fsum(self.own.values()) if self._comparable else math.nan

    @property
    def extraction_seconds(self) -> float:
        """The time of the extraction of all stored features, as far as it is known."""
        known = (seconds for seconds, _ in self.arrays.values() if not math.isnan(seconds))
        return math.fsum(known) if self._comparable else math.nan

    @property
    def total(self) -> float:
        """The time of both."""
        return self.seconds + self.extraction_seconds

    @property
    def per_cell(self) -> float:
        """The mean time for an encoder on a dataset; 0 for what is known without a run."""
        return self.total / self.cells if self.cells else self.total

    @property
    def _comparable(self) -> bool:
        return len(self.devices) <= 1


def costs(results: Results, specs: Sequence[str]) -> dict[str, Cost]:
    """Return the cost of each proxy or target.

    The extraction of features counts in full for each of them; ``together`` counts it once for all.
    Baselines cost nothing: they are known without a run (the static rank from the target's own
    runs). Scores without a record, such as published ones, have no known cost and are left out.

    Args:
        results: the results.
        specs: protocols, ``protocol:metric``, or baselines.

    Raises:
        ResultsError: for an unknown protocol or metric.
    """
    evaluated = {row.protocol for row in results.rows}
    found = {
        spec: Cost() if spec in BASELINES and spec not in evaluated else _of(results, spec)
        for spec in specs
    }
    return {spec: cost for spec, cost in found.items() if cost is not None}


def together(found: Iterable[Cost]) -> Cost:
    """Return the cost of several proxies; an array that several of them use is extracted once."""
    own: dict[str, list[float]] = defaultdict(list)
    arrays: dict[str, tuple[float, str]] = {}
    entries = list(found)
    for cost in entries:
        for device, seconds in cost.own.items():
            own[device].append(seconds)
        for key, use in cost.arrays.items():
            arrays[key] = _dearer(arrays.get(key), use)
    return Cost(
        {device: math.fsum(seconds) for device, seconds in own.items()},
        arrays,
        sum(cost.runs for cost in entries),
        sum(cost.cells for cost in entries),
        sum(cost.unknown for cost in entries),
    )


def _of(results: Results, spec: str) -> Cost | None:
    """Return the cost of the runs behind a protocol's scores; None if there is no record."""
    results, protocol, metric = chosen(results, spec)
    scored = [cell for cell in cells(results, protocol, metric).values() if cell.values]
    run_ids = sorted({run_id for cell in scored for _, run_id in cell.values})
    records = [results.documents[run_id] for run_id in run_ids if run_id in results.documents]
    records = [record for record in records if _seconds(record.get("duration_s")) is not None]
    if not records:
        return None
    known = [_cost_of(record) for record in records]
    total = together(known)
    missing = {key for key, (seconds, _) in total.arrays.items() if math.isnan(seconds)}
    lower = sum(bool(cost.unknown or missing & cost.arrays.keys()) for cost in known)
    unknown = len(run_ids) - len(records) + lower
    return dataclasses.replace(total, runs=len(run_ids), cells=len(scored), unknown=unknown)


def _cost_of(record: Mapping[str, Any]) -> Cost:
    """Return the cost of one run."""
    processes = record.get("processes")
    processes = processes if isinstance(processes, int) and processes > 0 else 1
    uses = record.get("features")
    stated = [use for use in uses if isinstance(use, dict)] if isinstance(uses, list) else []
    arrays: dict[str, tuple[float, str]] = {}
    spent = 0.0
    for use in stated:
        seconds = _seconds(use.get("seconds"))
        array = (math.nan if seconds is None else seconds, _device_of(use))
        arrays[str(use.get("key"))] = array
        spent += _seconds(use.get("spent")) or 0.0
    duration = (_seconds(record.get("duration_s")) or 0.0) * processes
    last_part = bool(record.get("resumed_at")) and "attempts" not in record
    partly = not isinstance(uses, list) or last_part
    own = {_device_of(record): max(duration - spent, 0.0)}
    return Cost(own, arrays, 1, 1, int(partly))


def comparable(*known: Cost) -> bool:
    """Return whether the seconds of several costs are of one device."""
    return len(together(known).devices) <= 1


def _device_of(facts: Mapping[str, Any]) -> str:
    """Return the device that facts name, with its name if that is known."""
    kind, name = str(facts.get("device") or "unknown device"), facts.get("device_name")
    return f"{kind} ({name})" if isinstance(name, str) and name else kind


def _dearer(one: tuple[float, str] | None, other: tuple[float, str]) -> tuple[float, str]:
    """Return the larger known cost of an array, which may have been extracted several times."""
    if one is None or math.isnan(one[0]):
        return other
    return max(one, other) if not math.isnan(other[0]) else one


def _seconds(value: Any) -> float | None:
    """Return a recorded number of seconds; None if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) and value >= 0 else None
