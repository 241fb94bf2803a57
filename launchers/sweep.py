"""What every launcher shares: check all, decide what is left, execute, remember how it went."""

import dataclasses
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from launchers.currency import complaints
from launchers.naming import descriptions
from ssl_transfer.config import places
from ssl_transfer.runs import Run, graph
from ssl_transfer.system.plain_text import printable


class SweepRefused(SystemExit):
    """Something in the command line is wrong; nothing was started."""

    def __init__(self, problems: Iterable[str]) -> None:
        unique = list(dict.fromkeys(problems))
        if not is_main_process():
            unique = []  # all processes find the same; one says it
        for problem in unique:
            print(f"error: {printable(problem)}", file=sys.stderr)
        if len(unique) > 1:
            print(f"{len(unique)} problems; nothing was started.", file=sys.stderr)
        super().__init__(2)


@dataclasses.dataclass
class Outcome:
    """How a sweep went: run id -> why it has no record."""

    asked: list[Run]
    failures: dict[str, str] = dataclasses.field(default_factory=dict)
    computed: int = 0
    pending: int = 0
    """Runs that SLURM still has to do."""
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


def refuse_problems(runs: Iterable[Run], processes: Callable[[Run], int] | None = None) -> None:
    """Refuse the sweep if any configuration is wrong, naming everything at once.

    Args:
        runs: to check.
        processes: how many will share a run's batch (``None``: as many as share this one).

    Raises:
        SweepRefused: with exit code 2.
    """
    from ssl_transfer.runs.signature import problems
    from ssl_transfer.system.distributed import find_place

    here = find_place().world_size
    found = [
        problem
        for run in runs
        for problem in problems(run.config, processes=processes(run) if processes else here)
    ]
    if found:
        raise SweepRefused(found)


def refuse_paths(config: Mapping[str, Any]) -> None:
    """Refuse the sweep if a path cannot be one, before anything is looked for in the wrong place.

    Args:
        config: resolved, with the node ``paths`` at least.
    """
    if found := places.problems(config):
        raise SweepRefused(found)


def refuse_misspelt(runs: Iterable[Run]) -> None:
    """Refuse the sweep if a key outside of the axes is wrong, even where its runs are finished.

    Raises:
        SweepRefused: with exit code 2.
    """
    from ssl_transfer.runs.signature import shared_problems

    if found := [
        problem for run in runs for problem in shared_problems(run.config, with_monitor=False)
    ]:
        raise SweepRefused(found)


def _refuse_unwritable(folders: Iterable[Path]) -> None:
    """Refuse the sweep if what it leaves has nowhere to go."""
    found = []
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError("no permission to write")
        except OSError as error:
            reason = error.strerror or error
            found.append(f"`paths.outputs` must be a folder that can be written to, but `{folder}` "
                         f"cannot ({reason}); choose another by paths.outputs=….")  # fmt: skip
    if found:
        raise SweepRefused(found)


def prepare(
    asked: Sequence[Run], processes: Callable[[Run], int] | None = None
) -> tuple[Outcome, list[Run]]:
    """Return what is left of these runs and of what they require, requirements first.

    Runs that cannot be done (missing data, an earlier failure) are among them and in the
    outcome's failures.

    Raises:
        SweepRefused: if any configuration is wrong.
    """
    outcome = Outcome(list(asked))
    refuse_misspelt(asked)
    ordered = graph(asked)
    todo = [run for run in ordered if left_to_do(run)]
    _tell_of_changes(ordered, todo)
    needed = _still_needed(asked, todo)
    todo = [run for run in todo if run.id in needed]
    if not todo:
        return outcome, todo
    refuse_problems(todo, processes)
    _refuse_unwritable({run.folder.parent.parent for run in todo})
    from ssl_transfer.runs.execution import fail
    from ssl_transfer.runs.preflight import check

    for run in todo:
        reason = sticky_failure(run)
        if reason is None and (reason := check(run)) is not None:
            fail(run, reason, trace="", stage="check")
        if reason is not None:
            outcome.failures[run.id] = reason
    return outcome, todo


def _tell_of_changes(runs: Sequence[Run], todo: Sequence[Run]) -> None:
    """Say which finished runs belong to data, weights or code that changed since."""
    if not is_main_process():
        return  # all processes find the same; one says it
    left = {run.id for run in todo}
    for sentence in complaints([run for run in runs if run.id not in left]):
        print(f"warning: {sentence}", file=sys.stderr)


def execute_all(asked: Sequence[Run]) -> Outcome:
    """Execute what is left of these runs and of what they require, each distinct run once.

    One failed run does not stop the others, except those that require it.
    """
    return execute_prepared(*prepare(asked))


def execute_prepared(outcome: Outcome, todo: Sequence[Run]) -> Outcome:
    """Execute what ``prepare`` found to do."""
    described = descriptions(todo)
    for number, run in enumerate(todo, 1):
        if run.id in outcome.failures:
            continue
        if (reason := blocked(run)) is None:
            say(f"[{number}/{len(todo)}] {described[run.id]}")
            reason = attempt(run)
        if reason is not None:
            outcome.failures[run.id] = reason
        else:
            outcome.computed += 1
    return outcome


def blocked(run: Run) -> str | None:
    """Return which run that this one requires has no record, and why; None if all have one.

    A required run that failed when it was to be computed again counts as one without a record.
    """
    for required in run.requirements:
        failure = required.failure()
        if not required.is_finished or (required.config["force"] and failure):
            why = f"failed: {failure['error']}" if failure else "left no record"
            return f"requires {required.describe()}, which {why}"
    return None


def attempt(run: Run) -> str | None:
    """Execute a run whose requirements are finished; return why it failed, None if it did not."""
    from ssl_transfer.runs.execution import RunFailed, execute
    from ssl_transfer.system import distributed

    try:
        record = execute(run)
    except RunFailed as error:
        say(f"  failed: {error}")
        if distributed.world_size() > 1:
            raise SystemExit(1) from error  # the other processes may wait for this one
        return str(error)
    say(f"  {describe_scores(record)}")
    return None


def _still_needed(asked: Sequence[Run], todo: Sequence[Run]) -> set[str]:
    """Return the ids of runs that were asked for or that an unfinished run requires."""
    needed, left = {run.id for run in asked}, {run.id for run in todo}
    for run in reversed(graph(asked)):
        if run.id in needed and run.id in left:
            needed |= {required.id for required in run.requirements}
    return needed


def describe_scores(record: dict[str, object]) -> str:
    """Return a record's scores in one line."""
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


def say(text: str) -> None:
    """Print a line at once, from the main process only."""
    if is_main_process():
        print(printable(text), flush=True)


def count(number: int, noun: str) -> str:
    """Return ``1 run``, ``2 runs``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


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
        if is_main_process():  # all processes check the same
            print(f"error{other}: {printable(reason)}", file=sys.stderr)
    if outcome.failures:
        raise SystemExit(outcome.exit_code)
    if is_main_process():
        if not outcome.computed:
            say(f"{run.describe()} was finished before: {describe_scores(run.record())}")
        say(f"record: {run.folder / 'record.json'}")
