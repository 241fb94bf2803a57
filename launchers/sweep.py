"""Steps that all launchers share: check the sweep, select unfinished runs, execute, record."""

import collections
import dataclasses
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf.errors import OmegaConfBaseException

from launchers.currency import complaints
from launchers.naming import descriptions
from ssl_transfer.config import places
from ssl_transfer.runs import Run, graph
from ssl_transfer.runs.failure import fail
from ssl_transfer.system.plain_text import printable


class SweepRefused(SystemExit):
    """The command line is wrong; no run was started."""

    def __init__(self, problems: Iterable[str]) -> None:
        unique = list(dict.fromkeys(problems))
        if not is_main_process():
            unique = []  # all processes find the same problems; one prints them
        for problem in unique:
            print(f"error: {printable(problem)}", file=sys.stderr)
        if len(unique) > 1:
            print(f"{len(unique)} problems; nothing was started.", file=sys.stderr)
        super().__init__(2)


@dataclasses.dataclass
class Outcome:
    """The outcome of a sweep; ``failures``: run id -> reason why it has no record."""

    asked: list[Run]
    failures: dict[str, str] = dataclasses.field(default_factory=dict)
    computed: int = 0
    pending: int = 0
    """Number of runs that SLURM still has to execute."""
    folder: Path | None = None

    @property
    def exit_code(self) -> int:
        """0 if every requested run has a record, otherwise 1."""
        return 1 if self.failures else 0


def left_to_do(run: Run) -> bool:
    """Return whether a run must be executed."""
    return not run.is_finished or bool(run.config["force"])


def sticky_failure(run: Run) -> str | None:
    """Return the earlier failure that prevents another attempt, or None."""
    failure = run.failure()
    if failure is None or run.config["retry"] or failure.get("stage") == "check":
        return None
    return f"{failure['error']} (failed earlier; `retry=true` runs it again)"


def refuse_problems(runs: Iterable[Run], processes: Callable[[Run], int] | None = None) -> None:
    """Refuse the sweep if any configuration is wrong; the message has all problems.

    Args:
        runs: the runs to check.
        processes: number of processes that will share a run's batch (``None``: as now).

    Raises:
        SweepRefused: with exit code 2.
    """
    from ssl_transfer.runs.signature import problems
    from ssl_transfer.system.distributed import find_place

    world_size = find_place().world_size
    sentences = [
        problem
        for run in runs
        for problem in problems(run.config, processes=processes(run) if processes else world_size)
    ]
    if sentences:
        raise SweepRefused(sentences)


def refuse_paths(config: Mapping[str, Any]) -> None:
    """Refuse the sweep if a path is invalid.

    Args:
        config: a resolved configuration with at least the node ``paths``.
    """
    if problems := places.problems(config):
        raise SweepRefused(problems)


def refuse_misspelt(runs: Iterable[Run]) -> None:
    """Refuse the sweep if a key outside of the axes is wrong, even if all runs are finished.

    Raises:
        SweepRefused: with exit code 2.
    """
    from ssl_transfer.runs.signature import shared_problems

    if problems := [
        problem for run in runs for problem in shared_problems(run.config, with_monitor=False)
    ]:
        raise SweepRefused(problems)


def _refuse_unwritable(folders: Iterable[Path]) -> None:
    """Refuse the sweep if the outputs folder cannot be written to."""
    problems = []
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError("no permission to write")
        except OSError as error:
            reason = error.strerror or error
            problems.append(
                f"`paths.outputs` must be a folder that can be written to, but `{folder}` "
                f"cannot ({reason}); choose another by paths.outputs=…."
            )
    if problems:
        raise SweepRefused(problems)


def prepare(
    runs: Sequence[Run],
    processes: Callable[[Run], int] | None = None,
    *,
    leave_failures: bool = True,
) -> tuple[Outcome, list[Run]]:
    """Return the unfinished ones of these runs and of their requirements, requirements first.

    Runs that cannot be executed (missing data, an earlier failure) are included; they are also in
    the outcome's failures. What only they require is not.

    Args:
        runs: the runs of the sweep.
        processes: number of processes that will share a run's batch (``None``: as now).
        leave_failures: whether runs that cannot be executed get a ``failure.json``.

    Raises:
        SweepRefused: if any configuration is wrong.
    """
    outcome = Outcome(list(runs))
    refuse_misspelt(runs)
    ordered = graph(runs)
    todo = [run for run in ordered if left_to_do(run)]
    _tell_of_changes(ordered, todo)
    needed = _still_needed(runs, todo)
    todo = [run for run in todo if run.id in needed]
    if not todo:
        return outcome, todo
    check = _check_of_hopeless(todo) or _whole_check(todo, processes)
    _refuse_unwritable({run.folder.parent.parent for run in todo})
    for run in todo:
        reason = sticky_failure(run)
        if reason is None and not run.config["force"]:
            reason = requires_no_result(run)
        if reason is None and (reason := check(run)) is not None and leave_failures:
            fail(run, reason, trace="", stage="check")
        if reason is not None:
            outcome.failures[run.id] = reason
    failed = outcome.failures.keys()
    possible = [run for run in todo if run.id not in failed]
    needed = _still_needed([run for run in runs if run.id not in failed], possible)
    return outcome, [run for run in todo if run.id in needed or run.id in failed]


def _check_of_hopeless(todo: Sequence[Run]) -> Callable[[Run], str | None] | None:
    """Return the check of runs of which none can be executed, because weights are missing.

    It needs no import of torch, which takes seconds.

    Args:
        todo: runs that are not finished, requirements first.

    Returns:
        The function that returns the reason for a run, or None if only a required run fails; None
        instead of the function if a run may succeed.
    """
    from ssl_transfer.system.weights_files import missing_weights

    reasons: dict[str, str | None] = {}
    for run in todo:
        try:
            missing = [reason for node in run.untrained_models if (reason := missing_weights(node))]
        except OmegaConfBaseException:
            return None  # `refuse_problems` tells what does not resolve
        required = any(one.id in reasons for one in run.requirements)
        if not (missing or required or sticky_failure(run)):
            return None
        reasons[run.id] = missing[0] if missing else None
    return lambda run: reasons[run.id]


def _whole_check(
    todo: Sequence[Run], processes: Callable[[Run], int] | None
) -> Callable[[Run], str | None]:
    """Return the check of a run's data, weights and method, once all configurations are right."""
    refuse_problems(todo, processes)
    from ssl_transfer.runs.preflight import check

    return check


def _tell_of_changes(runs: Sequence[Run], todo: Sequence[Run]) -> None:
    """Print which finished runs belong to data, weights or code that have changed."""
    if not is_main_process():
        return  # all processes find the same changes; one prints them
    left = {run.id for run in todo}
    for sentence in complaints([run for run in runs if run.id not in left]):
        print(f"warning: {sentence}", file=sys.stderr)


def execute_all(runs: Sequence[Run]) -> Outcome:
    """Execute the unfinished ones of these runs and of their requirements, each distinct run once.

    A failed run stops only the runs that require it.
    """
    return execute_prepared(*prepare(runs))


def execute_prepared(outcome: Outcome, todo: Sequence[Run]) -> Outcome:
    """Execute the runs that ``prepare`` returned."""
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
    """Return which required run has no usable record, and why; None if all have one.

    A required run whose repetition (``force=true``) failed counts as one without a record.
    """
    for required in run.requirements:
        failure = required.failure()
        if not required.is_finished or (required.config["force"] and failure):
            why = f"failed: {failure['error']}" if failure else "left no record"
            if not failure and required.readable_record() is not None:
                why = "did not keep its encoder; the same command computes it again"
            return f"requires {required.describe()}, which {why}"
    return requires_no_result(run)


def requires_no_result(run: Run) -> str | None:
    """Return which required evaluation is finished as not applicable, and why; None if none is."""
    for required in run.evaluations.values():
        record = required.readable_record() if required.is_finished else None
        if record is not None and record["status"] != "finished":
            return f"requires {required.describe()}, which is not applicable: {record['reason']}"
    return None


def attempt(run: Run) -> str | None:
    """Execute a run whose requirements are finished; return the reason if it fails."""
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


def _still_needed(runs: Sequence[Run], todo: Sequence[Run]) -> set[str]:
    """Return the ids of requested runs and of runs that an unfinished run requires."""
    needed, left = {run.id for run in runs}, {run.id for run in todo}
    for run in reversed(graph(runs)):
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
    monitored = record.get("monitored")
    if isinstance(monitored, dict) and "knn_top1" in monitored:
        shown.append(f"kNN top1 {100 * monitored['knn_top1']:.2f} % (monitor)")
    return f"{', '.join(shown) or 'done'} ({record['duration_s']} s)"


def say(text: str) -> None:
    """Print a line without buffering, from the main process only."""
    if is_main_process():
        print(printable(text), flush=True)


def count(number: int, noun: str) -> str:
    """Return ``1 run``, ``2 runs``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def reasons(failures: Mapping[str, str]) -> list[str]:
    """Return the distinct reasons of failures, each with the number of its runs.

    Args:
        failures: run id -> reason.
    """
    numbers = collections.Counter(failures.values())
    return [f"{count(number, 'run')}: {reason}" for reason, number in numbers.items()]


def size(number: int) -> str:
    """Return a number of bytes in decimal units, e.g. ``1.2 GB``."""
    for unit, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if number >= factor:
            return f"{number / factor:.1f} {unit}"
    return f"{number} B"


def duration(seconds: float) -> str:
    """Return a time as a person reads it.

    Example:
        >>> [duration(seconds) for seconds in (0.26, 5.4, 60, 3599, 90_000, 3_600_000)]
        ['0.3 s', '5 s', '1 min', '1 h', '25 h', '1,000 h']
    """
    if seconds < 59.5:
        return f"{max(seconds, 0.1):.1f} s" if seconds < 1 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    hours, rest = divmod(minutes, 60)
    if not hours:
        return f"{minutes} min"
    # Minutes are not worth reading beside days.
    return f"{hours} h {rest} min" if rest and hours < 100 else f"{hours:,} h"


def is_main_process() -> bool:
    """Return whether this process prints for all of them, without importing torch."""
    return os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"


def conclude(outcome: Outcome) -> None:
    """Print how a single run ended.

    Raises:
        SystemExit: with code 1 if the run or one of its requirements failed.
    """
    run = outcome.asked[0]
    for identifier, reason in outcome.failures.items():
        other = "" if identifier == run.id else f" ({identifier[:8]})"
        if is_main_process():  # all processes find the same failures
            print(f"error{other}: {printable(reason)}", file=sys.stderr)
    if outcome.failures:
        raise SystemExit(outcome.exit_code)
    if is_main_process():
        if not outcome.computed:
            say(f"{run.describe()} was finished before: {describe_scores(run.record())}")
        say(f"record: {run.folder / 'record.json'}")
