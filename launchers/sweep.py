"""What every launcher shares: check all, decide what is left, execute, remember how it went."""

import dataclasses
import datetime
import json
import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from ssl_transfer.files import write_atomically
from ssl_transfer.runs import Run, graph

State = Literal["finished", "new", "failed"]


class SweepRefused(SystemExit):
    """Something in the command line is wrong; nothing was started."""

    def __init__(self, problems: Iterable[str]) -> None:
        unique = list(dict.fromkeys(problems))
        if not is_main_process():
            unique = []  # all processes find the same; one says it
        for problem in unique:
            print(f"error: {problem}", file=sys.stderr)
        if len(unique) > 1:
            print(f"{len(unique)} problems; nothing was started.", file=sys.stderr)
        super().__init__(2)


@dataclasses.dataclass
class Outcome:
    """How a sweep went: run id -> why it has no record."""

    asked: list[Run]
    failures: dict[str, str] = dataclasses.field(default_factory=dict)
    computed: int = 0
    folder: Path | None = None

    @property
    def exit_code(self) -> int:
        """0 if every run that was asked for has a record."""
        return 1 if self.failures else 0


def left_to_do(run: Run) -> bool:
    """Return whether a run must be executed."""
    return not run.is_finished or bool(run.config["force"])


def sticky_failure(run: Run) -> str | None:
    """Return why the run failed earlier, if that keeps it from being tried again."""
    failure = run.failure()
    if failure is None or run.config["retry"] or failure.get("stage") == "check":
        return None
    return f"{failure['error']} (failed earlier; `retry=true` runs it again)"


def refuse_problems(runs: Sequence[Run]) -> None:
    """Refuse the sweep if any configuration is wrong, naming everything at once.

    Raises:
        SweepRefused: with exit code 2.
    """
    from ssl_transfer.config import problems
    from ssl_transfer.distributed import find_place

    processes = find_place().world_size
    found = [problem for run in runs for problem in problems(run.config, processes=processes)]
    if found:
        raise SweepRefused(found)


def execute_all(asked: Sequence[Run]) -> Outcome:
    """Execute what is left of these runs and of what they require, each distinct run once.

    One failed run does not stop the others, except those that require it.
    """
    outcome = Outcome(list(asked))
    todo = [run for run in graph(asked) if left_to_do(run)]
    needed = _still_needed(asked, todo)
    todo = [run for run in todo if run.id in needed]
    if not todo:
        return outcome
    refuse_problems(todo)
    from ssl_transfer import distributed
    from ssl_transfer.execution import RunFailed, check, execute, fail

    for run in todo:
        reason = sticky_failure(run)
        if reason is None and (reason := check(run)) is not None:
            fail(run, reason, trace="", stage="check")
        if reason is not None:
            outcome.failures[run.id] = reason
    for number, run in enumerate(todo, 1):
        if run.id in outcome.failures:
            continue
        blocked = [r for r in run.requirements if r.id in outcome.failures]
        if blocked:
            outcome.failures[run.id] = f"requires {blocked[0].describe()}, which failed"
            continue
        _say(f"[{number}/{len(todo)}] {run.describe()}")
        try:
            record = execute(run)
        except RunFailed as error:
            outcome.failures[run.id] = str(error)
            _say(f"  failed: {error}")
            if distributed.world_size() > 1:
                raise SystemExit(1) from error  # the other processes may wait for this one
            continue
        outcome.computed += 1
        _say(f"  {_scores(record)}")
    return outcome


def _still_needed(asked: Sequence[Run], todo: Sequence[Run]) -> set[str]:
    """Return the ids of runs that were asked for or that an unfinished run requires."""
    needed = {run.id for run in asked}
    for run in reversed(graph(asked)):
        if run.id in needed and run in todo:
            needed |= {required.id for required in run.requirements}
    return needed


def _scores(record: dict[str, object]) -> str:
    if record["status"] == "not_applicable":
        return f"not applicable: {record['reason']}"
    scores = record["scores"]
    assert isinstance(scores, list)
    shown = [
        f"{s['metric']} {100 * s['value']:.2f} %" if s["unit"] == "fraction" else
        f"{s['metric']} {s['value']:.4g} {s['unit']}"
        for s in scores
    ]  # fmt: skip
    return f"{', '.join(shown) or 'done'} ({record['duration_s']} s)"


def _say(text: str) -> None:
    if is_main_process():
        print(text, flush=True)


def is_main_process() -> bool:
    """Return whether this process writes for all of them, without importing torch."""
    return os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"


def conclude(outcome: Outcome) -> None:
    """Say how a single run ended.

    Raises:
        SystemExit: with 1 if it, or what it requires, failed.
    """
    run = outcome.asked[0]
    for identifier, reason in outcome.failures.items():
        other = "" if identifier == run.id else f" ({identifier[:8]})"
        print(f"error{other}: {reason}", file=sys.stderr)
    if outcome.failures:
        raise SystemExit(outcome.exit_code)
    if is_main_process():
        if not outcome.computed:
            _say(f"{run.describe()} was finished before: {_scores(run.record())}")
        _say(f"record: {run.folder / 'record.json'}")


def remember(outcome: Outcome, outputs: Path) -> Path:
    """Write the sweep's small folder: its command, its runs, and why some have no record."""
    now = datetime.datetime.now().astimezone()
    ids = [run.id for run in outcome.asked]
    folder = outputs / "sweeps" / f"{now:%Y-%m-%d_%H-%M-%S}_{_short(ids)}"
    sweep = {
        "command": shlex.join(["python", *sys.argv]),
        "when": now.isoformat(timespec="seconds"),
        "runs": list(dict.fromkeys(ids)),
        "folders": list(dict.fromkeys(run.place for run in outcome.asked)),
        "failures": outcome.failures,
        "computed": outcome.computed,
    }
    write_atomically(folder / "sweep.json", json.dumps(sweep, indent=1).encode())
    outcome.folder = folder
    return folder


def _short(ids: Sequence[str]) -> str:
    from ssl_transfer.runs import digest

    return digest(sorted(ids))[:6]
