"""The state of a sweep, from the runs' own files and one request to SLURM."""

import collections
import dataclasses
import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from launchers.sweep import count, describe_scores, duration, say
from launchers.sweep_folder import SweepFolder
from ssl_transfer.system import claims, slurm
from ssl_transfer.system.files import Unreadable, read_json
from ssl_transfer.system.plain_text import printable

State = Literal["new", "waiting", "running", "done", "failed", "lost"]
STATES: tuple[State, ...] = ("running", "waiting", "new", "lost", "failed", "done")
UNFINISHED: tuple[State, ...] = ("running", "waiting")

_TAIL_BYTES = 8192


@dataclasses.dataclass(frozen=True)
class RunStatus:
    """The state of one run.

    Args:
        id: the run's id.
        place: its folder below ``outputs``.
        state: ``new`` (without an owner), ``waiting`` (in the queue), ``running``, ``done``,
            ``failed``, or ``lost`` (its job or process ended without a record or a failure file).
        detail: score, step or reason, for display.
        owner: the job or process that computes or computed it.
        log: the file with its output.
    """

    id: str
    place: str
    state: State
    detail: str = ""
    owner: str = ""
    log: str | None = None


def survey(sweep_folder: SweepFolder) -> list[RunStatus]:
    """Return the state of every run of a sweep, in the sweep's order, requirements first."""
    outputs = sweep_folder.outputs
    places = sweep_folder.places()
    claims_by_id = {}
    for identifier, place in places.items():
        if (claim := claims.read(outputs / place)) is not None:
            claims_by_id[identifier] = claim
    jobs = _ask({claim["job"] for claim in claims_by_id.values() if "job" in claim})
    return [
        _status_of(i, place, outputs / place, claims_by_id.get(i), jobs)
        for i, place in places.items()
    ]


def _ask(jobs: set[str]) -> Mapping[str, slurm.Job] | None:
    """Return SLURM's information about the jobs; None if it does not answer."""
    try:
        known = slurm.queue(jobs)
    except slurm.NoAnswer as error:
        print(f"warning: {error}", file=sys.stderr)
        return None
    try:
        return {**slurm.history(jobs - set(known)), **known}
    except slurm.NoAnswer as error:  # accounting does not answer; the queue suffices
        print(f"warning: {error}", file=sys.stderr)
        return known


def _status_of(
    identifier: str,
    place: str,
    folder: Path,
    claim: dict[str, Any] | None,
    jobs: Mapping[str, slurm.Job] | None,
) -> RunStatus:
    owner = claims.describe(claim) if claim else ""
    log = claim.get("log") if claim else None
    state: State | None = None
    detail = ""
    if claim is not None and "job" in claim:
        if jobs is None:
            state, detail = "waiting", "SLURM does not answer"
        elif (job := jobs.get(claim["job"])) is None:
            detail = f"job {claim['job']} is no longer known to SLURM"
        elif job.is_over:
            detail = f"job {claim['job']}: {job.describe()}"
        else:
            state = "running" if job.is_running else "waiting"
            detail = _progress(folder) if job.is_running else job.reason
            owner += f" on {job.reason}" if job.state == "RUNNING" else ""
    elif claim is not None:
        if claims.is_alive(folder / claims.NAME):
            # The claim of a submission before SLURM has assigned a job id has no log.
            state, detail = "running", _progress(folder)
        else:
            detail = f"{owner} is gone"
    if state is not None:  # a run sent again with `force=true` may have a record, too
        return RunStatus(identifier, place, state, detail, owner, log)
    record, failure = _read(folder / "record.json"), _read(folder / "failure.json")
    if record is not None and (scores := _describe(record)) is not None:
        owner = f"job {record['job']}" if record.get("job") else ""
        detail = scores
        if failure is not None:
            detail += f"; computing it again failed: {failure.get('error')}"
        return RunStatus(identifier, place, "done", detail, owner)
    if failure is not None:
        owner = f"job {failure['job']}" if failure.get("job") else owner
        log = failure.get("log") or log
        return RunStatus(identifier, place, "failed", str(failure.get("error")), owner, log)
    if claim is not None:
        lines = last_lines(log, 3)
        return RunStatus(identifier, place, "lost", "; ".join([detail, *lines]), owner, log)
    resumable = (folder / "checkpoint.pt").exists()
    return RunStatus(identifier, place, "new", "has a checkpoint" if resumable else "")


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return read_json(path)
    except Unreadable as error:
        print(f"warning: {error}", file=sys.stderr)
        return None


def _describe(record: Mapping[str, Any]) -> str | None:
    """Return a record's scores in one line; None if the document is not a valid record."""
    try:
        return describe_scores(dict(record))
    except (KeyError, TypeError, ValueError, AssertionError):
        return None


def _progress(folder: Path) -> str:
    """Return the step and the remaining time of the present training, from its metrics."""
    lines = []
    for line in _tail(folder / "metrics.jsonl"):
        try:
            values = json.loads(line)
        except ValueError:
            continue  # an incomplete first or last line
        if isinstance(values, dict) and all(
            isinstance(values.get(key), int | float) for key in ("step", "steps", "time")
        ):
            lines.append(values)
    if not lines:
        return ""
    last = lines[-1]
    same = [line for line in lines if line.get("training") == last.get("training")]
    text = f"{last.get('training')}: step {last['step']}/{last['steps']}"
    walked, took = last["step"] - same[0]["step"], last["time"] - same[0]["time"]
    if walked > 0 and took > 0:
        text += f", {duration((last['steps'] - last['step']) * took / walked)} left"
    return text


def _tail(path: Path) -> list[str]:
    """Return the last lines of a file; the first of them may be incomplete."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            return file.read().decode(errors="replace").splitlines()
    except OSError:
        return []


def last_lines(log: str | None, count: int) -> list[str]:
    """Return the last non-empty lines of a log."""
    # Only a launcher's log file, because another user's claim could name any file.
    is_log = isinstance(log, str) and log.endswith("_log.out") and Path(log).is_file()
    lines = [line.strip() for line in _tail(Path(log))] if log and is_log else []
    return [line for line in lines if line][-count:]


def read_failure(folder: Path) -> dict[str, Any] | None:
    """Return a run's failure, or None."""
    return _read(folder / "failure.json")


def find_log(sweep_folder: SweepFolder, run: RunStatus) -> str | None:
    """Return the log of a finished run's job; the newest if SLURM has reused the job's number."""
    if not run.owner.startswith("job "):
        return None
    job = run.owner.split()[1]
    logs = sweep_folder.outputs.glob(f"sweeps/*/jobs/{job}_*_log.out")
    return max(map(str, logs), default=None)


def counts(runs: Sequence[RunStatus]) -> str:
    """Return how many runs are in each state, in one line."""
    numbers = collections.Counter(run.state for run in runs)
    return ", ".join(f"{numbers[state]} {state}" for state in STATES if numbers[state])


def table(runs: Sequence[RunStatus], *, rows: int | None = None) -> list[str]:
    """Return the lines of a table; runs that need attention come first.

    Args:
        runs: the runs.
        rows: maximal number of runs to show; the others are counted.
    """
    order = {state: number for number, state in enumerate(STATES)}
    shown = sorted(runs, key=lambda run: order[run.state])[:rows]
    width = max((len(run.place) for run in shown), default=0)
    owners = max((len(run.owner) for run in shown), default=0)
    room = shutil.get_terminal_size((160, 24)).columns if sys.stdout.isatty() else 10_000
    lines = [
        printable(f"{run.state:8}{run.place:{width}}  {run.owner:{owners}}  {detail}".rstrip())[
            :room
        ]
        for run in shown
        for detail in [" ".join(run.detail.split())]
    ]
    if len(shown) < len(runs):
        lines.append(f"… and {len(runs) - len(shown)} more (--all)")
    return [*lines, counts(runs) or "no runs"]


def watch(sweep_folder: SweepFolder, *, every_seconds: float = 10.0) -> None:
    """Show the table until no run waits or runs; Ctrl-C does not stop the jobs."""
    before: list[str] = []
    try:
        while True:
            runs = survey(sweep_folder)
            room = shutil.get_terminal_size().lines - 3
            if sys.stdout.isatty():
                lines = table(runs, rows=room)
                head = printable(str(sweep_folder.folder))
                print(f"\x1b[H\x1b[2J{head}", *lines, sep="\n", flush=True)
            elif (lines := [counts(runs)]) != before:
                print(*lines, sep="\n", flush=True)
            before = lines
            if not any(run.state in UNFINISHED for run in runs):
                return
            time.sleep(every_seconds)
    except KeyboardInterrupt:
        print(f"\nthe jobs go on; see them again with: {command('status', sweep_folder)} --watch")
        raise


def command(verb: str, sweep_folder: SweepFolder) -> str:
    """Return the command line for an action on a sweep."""
    return f"python -m launchers {verb} --sweep {sweep_folder.folder}"


def tell_submission(plan: Any, sweep_folder: SweepFolder, jobs: Sequence[str]) -> None:
    """Print which runs were submitted, which were not and why, and useful commands.

    Args:
        plan: the ``Plan`` that was executed.
        sweep_folder: the folder of the sweep.
        jobs: ids of the arrays and jobs.
    """
    submitted = sum(len(group.runs) for group in plan.groups)
    for run, claim in _named(plan):
        say(f"  {run.describe()}: {claims.describe(claim)} has it already")
    runs = {run.id: run for run in plan.outcome.asked}
    finished = sum(run.is_finished for run in runs.values() if run.id not in plan.live)
    say(
        f"{count(submitted, 'run')} submitted"
        + (f" as {'jobs' if len(jobs) > 1 else 'job'} {', '.join(jobs)}" if jobs else "")
        + f"; {finished} were finished, {len(plan.live)} are on their way already, "
        f"{len(plan.outcome.failures)} cannot be executed."
    )
    say(f"logs: {sweep_folder.jobs}")
    say(f"next: {command('status', sweep_folder)}")
    say(f"      {command('logs', sweep_folder)} RUN")
    say(f"      {command('cancel', sweep_folder)}")


def _named(plan: Any) -> list[tuple[Any, dict[str, Any]]]:
    runs = {run.id: run for run in plan.outcome.asked}
    return [(runs[i], claim) for i, claim in plan.live.items() if i in runs]


def show_plan(plan: Any, outputs: Path, options: Mapping[str, Any]) -> None:
    """Print a submission without executing it: runs, batch files and SLURM's verdict."""
    from launchers import submission
    from launchers.naming import descriptions
    from ssl_transfer.runs import graph

    parents = {run.id: group.parents for group in plan.groups for run in group.runs}
    every = graph(plan.outcome.asked)
    described = descriptions(every)
    for run in every:
        if run.id in plan.outcome.failures:
            state, detail = "failed", plan.outcome.failures[run.id]
        elif run.id in plan.live:
            state, detail = "running", claims.describe(plan.live[run.id])
        elif run.id in parents:
            waits = f"waits for {', '.join(sorted(i[:8] for i in parents[run.id]))}"
            state, detail = "new", waits if parents[run.id] else ""
        else:
            state, detail = "finished", ""
        say(f"{state:9}{described[run.id]}  {detail}".rstrip())
    for number, group in enumerate(plan.groups, 1):
        text = submission.batch_file(group, outputs / "sweeps" / "…" / "jobs", options)
        accepted, verdict = submission.verdict_on(text)
        say(
            f"\n# group {number}: {count(len(group.runs), 'run')} in "
            f"{count(len(group.jobs), 'job')}\n{text}"
        )
        say(f"# sbatch --test-only: {'accepted' if accepted else 'REFUSED'}: {verdict}")
    say("\nnothing was submitted (hydra.launcher.dry_run=true)")
