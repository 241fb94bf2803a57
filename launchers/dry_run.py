"""What a sweep would execute, and how long and how much disk it would take."""

import json
import shutil
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from launchers import sweep
from launchers.naming import descriptions
from ssl_transfer.runs import Run

SHOWN = 50
"""Number of runs that are listed one by one."""


class Kind(NamedTuple):
    """What decides how long a run takes, as far as other runs tell.

    Args:
        protocol: name of the protocol.
        method: name of the method of a pre-training; None for an evaluation.
        dataset: name of the data set that is read.
        architecture: the identity of the model's node, or of the members' nodes, as JSON, without
            names and weights.
    """

    protocol: str
    method: str | None
    dataset: str
    architecture: str


class Finished(NamedTuple):
    """A finished run.

    Args:
        kind: its kind.
        seconds: seconds on all of its devices; per epoch if it has ``epochs``.
        device: type of its devices.
    """

    kind: Kind
    seconds: float
    device: str


class Estimate(NamedTuple):
    """The estimate for one run: its seconds, and the finished runs it rests on."""

    seconds: float
    level: str
    alike: tuple[Finished, ...]


LEVELS: dict[str, Callable[[Kind], tuple[Any, ...]]] = {
    "the same protocol, data set and architecture": tuple,
    "the same protocol and data set": lambda kind: kind[:3],
    "the same protocol": lambda kind: kind[:2],
}
"""How near a finished run is to a new one, nearest first."""


def show(runs: Sequence[Run], outputs: Path, at_once: int = 1) -> sweep.Outcome:
    """Print what a sweep would execute and its estimated cost, without executing anything.

    Args:
        runs: the runs of the sweep.
        outputs: folder of all runs.
        at_once: number of runs that the launcher executes at the same time.
    """
    outcome, todo = sweep.prepare(runs, leave_failures=False)
    for run in todo:  # requirements come first
        for required in run.requirements:
            if reason := outcome.failures.get(required.id):
                outcome.failures.setdefault(run.id, reason)
    executed = [run for run in todo if run.id not in outcome.failures]
    described = descriptions(executed)
    for run in executed[:SHOWN]:
        sweep.say(f"new      {described[run.id]}")
    if len(executed) > SHOWN:
        sweep.say(f"         … and {len(executed) - SHOWN} more")
    for line in sweep.reasons(outcome.failures):
        sweep.say(f"refused  {line}")
    asked = {run.id for run in runs}
    finished = len(asked - {run.id for run in todo})
    sweep.say(f"{sweep.count(len(executed), 'run')} to execute, {finished} finished before")
    for line in estimates(executed, outputs, at_once):
        sweep.say(line)
    sweep.say("nothing was started (dry_run=true)")
    return sweep.Outcome(list(runs))


def estimates(runs: Sequence[Run], outputs: Path, at_once: int) -> Iterator[str]:
    """Yield lines with the estimated time and the disk of runs, and what the time rests on."""
    if not runs:
        return
    yield from _times(runs, list(finished_runs(outputs)))
    yield _disk(runs, outputs, min(at_once, len(runs)))


def _times(runs: Sequence[Run], finished: Sequence[Finished]) -> Iterator[str]:
    estimated = [one for one in _estimated(runs, finished) if one is not None]
    seconds = sum(one.seconds for one in estimated)
    shown = sweep.duration(seconds) if estimated else "unknown"
    asked = sweep.count(len(runs), "run")
    yield f"device time   {shown}, estimated for {len(estimated)} of {asked}"
    for level in LEVELS:
        here = [one for one in estimated if one.level == level]
        known = {id(run): run for one in here for run in one.alike}
        devices = ", ".join(sorted({run.device for run in known.values()}))
        alike = sweep.count(len(known), "finished run")
        if here:
            yield f"  {sweep.count(len(here), 'run')} by {alike} of {level} ({devices})"
    if missing := len(runs) - len(estimated):
        number = sweep.count(missing, "run")
        yield f"  no estimate for {number}: none of the same protocol has finished"


def _estimated(runs: Sequence[Run], finished: Sequence[Finished]) -> Iterator[Estimate | None]:
    """Yield each run's estimate from the nearest finished runs; None if there are none."""
    groups: dict[tuple[str, tuple[Any, ...]], list[Finished]] = {}
    for run in finished:
        for level, reduce in LEVELS.items():
            groups.setdefault((level, reduce(run.kind)), []).append(run)
    means = {key: statistics.fmean(run.seconds for run in group) for key, group in groups.items()}
    for new in runs:
        kind, epochs = kind_of(new), _epochs(new.config, is_pretraining=new.is_pretraining)
        keys = ((level, reduce(kind)) for level, reduce in LEVELS.items())
        key = next((key for key in keys if key in groups), None)
        yield key and Estimate(means[key] * epochs, key[0], tuple(groups[key]))


def _disk(runs: Sequence[Run], outputs: Path, at_once: int) -> str:
    from ssl_transfer.runs import disk

    needed = disk.needed(runs)
    checkpoints = needed.peak_of_checkpoints(at_once)
    total = needed.features + needed.kept + needed.predictions + checkpoints
    free = shutil.disk_usage(
        next(path for path in (outputs, *outputs.parents) if path.exists())
    ).free
    return (
        f"disk          {sweep.size(total)} of {sweep.size(free)} free: features "
        f"{sweep.size(needed.features)}, encoders and heads {sweep.size(needed.kept)}, predictions "
        f"{sweep.size(needed.predictions)}, checkpoints at most {sweep.size(checkpoints)} "
        f"({sweep.count(at_once, 'run')} at once)"
    )


def kind_of(run: Run) -> Kind:
    """Return the kind of a run."""
    names, method, dataset = run.names, None, run.names["dataset"]
    if run.is_pretraining:
        method, dataset = names["method"], run.config["method"]["pretrain_on"]["name"]
    return Kind(names["protocol"], method, str(dataset), _architecture(run.identity))


def _architecture(identity: Mapping[str, Any]) -> str:
    # An encoder with members has no model of its own.
    members = identity["method"].get("members", ())
    models = [identity["model"]] if identity["model"] else [one["model"] for one in members]
    own = [{k: v for k, v in model.items() if k not in ("name", "weights")} for model in models]
    return json.dumps(own, sort_keys=True)


def _epochs(config: Mapping[str, Any], *, is_pretraining: bool) -> float:
    """Return the number of epochs that a run trains; 1 if it trains by steps or not at all."""
    epochs = config["method" if is_pretraining else "protocol"].get("epochs")
    return float(epochs) if isinstance(epochs, int | float) and epochs > 0 else 1.0


def finished_runs(outputs: Path) -> Iterator[Finished]:
    """Yield the finished runs below an outputs folder whose duration is that of the whole run."""
    for path in outputs.glob("*/*/record.json"):
        try:
            record = json.loads(path.read_bytes())
            config, is_pretraining = record["config"], record["dataset"] is None
            partly = record.get("resumed_at") and "attempts" not in record
            if record["status"] != "finished" or config.get("debug") or partly:
                continue  # in records of earlier code, a resumed run has those of its last part
            kind = Kind(
                str(record["protocol"]),
                str(record["method"]) if is_pretraining else None,
                str(
                    config["method"]["pretrain_on"]["name"] if is_pretraining else record["dataset"]
                ),
                _architecture(record["identity"]),
            )
            seconds = float(record["duration_s"]) * int(record.get("processes") or 1)
            seconds /= _epochs(config, is_pretraining=is_pretraining)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            continue  # a damaged record is reported by `python -m results`
        device = record.get("device_name") or record.get("device") or "unknown device"
        yield Finished(kind, seconds, str(device))
