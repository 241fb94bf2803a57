"""What a sweep would compute, how long, and how much disk, from finished runs of the same kind."""

import json
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from launchers import sweep
from launchers.naming import descriptions
from ssl_transfer.runs import Run

SHOWN = 50
"""Number of runs that are listed one by one."""


class Kind(NamedTuple):
    """What decides how long a run takes and how large its folder becomes.

    Args:
        protocol: name of the protocol.
        method: name of the method of a pre-training; None for an evaluation.
        dataset: name of the data set that is read.
        model: name of the model.
    """

    protocol: str
    method: str | None
    dataset: str
    model: str


class Cost(NamedTuple):
    """The cost of a finished run: seconds on all of its devices, and bytes in its folder."""

    seconds: float
    size: int


LEVELS: tuple[tuple[str, Callable[[Kind], tuple[Any, ...]]], ...] = (
    ("of the same protocol, data set and model", tuple),
    ("of the same protocol and data set", lambda kind: kind[:3]),
    ("of the same protocol", lambda kind: kind[:2]),
)
"""How near a finished run is to a new one, nearest first."""


def show(runs: Sequence[Run], outputs: Path) -> sweep.Outcome:
    """Print what a sweep would execute and its estimated cost, without executing anything."""
    outcome, todo = sweep.prepare(runs)
    described = descriptions(todo)
    for run in todo[:SHOWN]:
        reason = outcome.failures.get(run.id)
        sweep.say(
            f"{'refused' if reason else 'new':8} {described[run.id]}  {reason or ''}".rstrip()
        )
    if len(todo) > SHOWN:
        sweep.say(f"         … and {len(todo) - SHOWN} more")
    executed = [run for run in todo if run.id not in outcome.failures]
    finished = len({run.id for run in runs}) - len({run.id for run in runs} & {r.id for r in todo})
    sweep.say(f"{sweep.count(len(executed), 'run')} to execute, {finished} finished before")
    for line in estimates(executed, outputs):
        sweep.say(line)
    sweep.say("nothing was started (dry_run=true)")
    return sweep.Outcome(list(runs))


def estimates(runs: Sequence[Run], outputs: Path) -> Iterator[str]:
    """Yield lines with the estimated hours and the disk of runs, and what the estimate rests on."""
    if not runs:
        return
    costs = list(_finished(outputs))
    known: list[Cost] = []
    rests_on: dict[str, int] = {}
    for run in runs:
        for words, reduce in LEVELS:
            wanted = reduce(kind_of(run))
            alike = [cost for kind, cost in costs if reduce(kind) == wanted]
            if alike:
                seconds = statistics.mean(cost.seconds for cost in alike)
                known.append(Cost(seconds, round(statistics.mean(cost.size for cost in alike))))
                rests_on[words] = rests_on.get(words, 0) + 1
                break
    if not known:
        yield "no estimate: no run of these protocols has finished below these outputs"
        return
    hours = sum(cost.seconds for cost in known) / 3600
    parts = ", ".join(f"{number} from runs {words}" for words, number in rests_on.items())
    yield f"device hours  {hours:.3g} for {len(known)} of {len(runs)} runs ({parts})"
    yield (
        f"disk          {sum(cost.size for cost in known) / 1e9:.3g} GB in their folders; "
        "features, decoded images and checkpoints in progress come in addition"
    )
    if len(known) < len(runs):
        yield f"not estimated {len(runs) - len(known)} runs: none of their protocol has finished"


def kind_of(run: Run) -> Kind:
    """Return the kind of a run."""
    names = run.names
    if run.is_pretraining:
        method = run.config["method"]
        return Kind(
            names["protocol"], names["method"], str(method["pretrain_on"]["name"]), names["model"]
        )
    return Kind(names["protocol"], None, names["dataset"], names["model"])


def _finished(outputs: Path) -> Iterator[tuple[Kind, Cost]]:
    """Yield the kind and the cost of every finished run below an outputs folder."""
    for path in outputs.glob("*/*/record.json"):
        try:
            record = json.loads(path.read_bytes())
            is_pretraining = record["dataset"] is None
            data = record["config"]["method"]["pretrain_on"]["name"] if is_pretraining else None
            kind = Kind(
                str(record["protocol"]),
                str(record["method"]) if is_pretraining else None,
                str(data or record["dataset"]),
                str(record["model"]),
            )
            if record["status"] != "finished" or record["config"].get("debug"):
                continue
            seconds = float(record["duration_s"]) * int(record.get("processes") or 1)
            size = sum(entry.stat().st_size for entry in os.scandir(path.parent))
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            continue  # a damaged record is reported by `python -m results`
        yield kind, Cost(seconds, size)
