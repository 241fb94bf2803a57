"""How a sweep stands: from the runs' own files and one question to SLURM."""

import collections
import dataclasses
import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from launchers.sweep import count, describe_scores, say
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
    """How one run stands.

    Args:
        id: of the run.
        place: its folder below ``outputs``.
        state: ``new`` (nobody has it), ``waiting`` (in the queue), ``running``, ``done``,
            ``failed``, or ``lost`` (its job or process ended without a record or a reason).
        detail: score, step, or reason, for a person.
        owner: the job or process that has it, or had it.
        log: file that its output goes to, or went to.
    """

    id: str
    place: str
    state: State
    detail: str = ""
    owner: str = ""
    log: str | None = None


def survey(sweep_folder: SweepFolder) -> list[RunStatus]:
    """Return how every run of a sweep stands, in the sweep's order, requirements first."""
    outputs = sweep_folder.outputs
    places = sweep_folder.places()
    held = {}
    for identifier, place in places.items():
        if (claim := claims.read(outputs / place)) is not None:
            held[identifier] = claim
    ended = _ask({claim["job"] for claim in held.values() if "job" in claim})
    return [_stand(i, place, outputs / place, held.get(i), ended) for i, place in places.items()]


def _ask(jobs: set[str]) -> Mapping[str, slurm.Job] | None:
    """Return what SLURM knows of the jobs; None where it does not answer."""
    try:
        known = slurm.queue(jobs)
    except slurm.NoAnswer as error:
        print(f"warning: {error}", file=sys.stderr)
        return None
    try:
        return {**slurm.history(jobs - set(known)), **known}
    except slurm.NoAnswer as error:  # of the accounts; the queue is enough
        print(f"warning: {error}", file=sys.stderr)
        return known


def _stand(
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
            # A submission's claim, for the seconds until SLURM gave it an id, has no log.
            state, detail = "running", _progress(folder)
        else:
            detail = f"{owner} is gone"
    if state is not None:  # though there may be a record, of a run sent again with `force=true`
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
        said = last_lines(log, 3)
        return RunStatus(identifier, place, "lost", "; ".join([detail, *said]), owner, log)
    resumable = (folder / "checkpoint.pt").exists()
    return RunStatus(identifier, place, "new", "has a checkpoint" if resumable else "")


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return read_json(path)
    except Unreadable as error:
        print(f"warning: {error}", file=sys.stderr)
        return None


def _describe(record: Mapping[str, Any]) -> str | None:
    """Return a record's scores in one line; None if it is no record, whatever else it is."""
    try:
        return describe_scores(dict(record))
    except (KeyError, TypeError, ValueError, AssertionError):
        return None


def _progress(folder: Path) -> str:
    """Return the step of the training that runs, and how long it will take, from its metrics."""
    lines = []
    for line in _tail(folder / "metrics.jsonl"):
        try:
            values = json.loads(line)
        except ValueError:
            continue  # half a line, at the beginning of the tail or being written
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
        text += f", {_duration((last['steps'] - last['step']) * took / walked)} left"
    return text


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def _tail(path: Path) -> list[str]:
    """Return the last lines of a file, the first of them perhaps cut."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            return file.read().decode(errors="replace").splitlines()
    except OSError:
        return []


def last_lines(log: str | None, count: int) -> list[str]:
    """Return the last lines of a log that say something."""
    # Only what a launcher may have written: a claim of somebody else could name any file.
    is_log = isinstance(log, str) and log.endswith("_log.out") and Path(log).is_file()
    lines = [line.strip() for line in _tail(Path(log))] if log and is_log else []
    return [line for line in lines if line][-count:]


def read_failure(folder: Path) -> dict[str, Any] | None:
    """Return what a failed run left, or None."""
    return _read(folder / "failure.json")


def find_log(sweep_folder: SweepFolder, run: RunStatus) -> str | None:
    """Return the log of a finished run's job, the newest if SLURM counted from 1 again."""
    if not run.owner.startswith("job "):
        return None
    job = run.owner.split()[1]
    logs = sweep_folder.outputs.glob(f"sweeps/*/jobs/{job}_*_log.out")
    return max(map(str, logs), default=None)


def counts(found: Sequence[RunStatus]) -> str:
    """Return how many runs are in each state, in one line."""
    numbers = collections.Counter(run.state for run in found)
    return ", ".join(f"{numbers[state]} {state}" for state in STATES if numbers[state])


def table(found: Sequence[RunStatus], *, rows: int | None = None) -> list[str]:
    """Return the lines of a table, what needs attention first.

    Args:
        found: the runs.
        rows: at most so many; the rest is counted.
    """
    order = {state: number for number, state in enumerate(STATES)}
    shown = sorted(found, key=lambda run: order[run.state])[:rows]
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
    if len(shown) < len(found):
        lines.append(f"… and {len(found) - len(shown)} more (--all)")
    return [*lines, counts(found) or "no runs"]


def watch(sweep_folder: SweepFolder, *, every_seconds: float = 10.0) -> None:
    """Show the table until no run waits or runs; Ctrl-C leaves the jobs alone."""
    before: list[str] = []
    try:
        while True:
            found = survey(sweep_folder)
            room = shutil.get_terminal_size().lines - 3
            if sys.stdout.isatty():
                lines = table(found, rows=room)
                head = printable(str(sweep_folder.folder))
                print(f"\x1b[H\x1b[2J{head}", *lines, sep="\n", flush=True)
            elif (lines := [counts(found)]) != before:
                print(*lines, sep="\n", flush=True)
            before = lines
            if not any(run.state in UNFINISHED for run in found):
                return
            time.sleep(every_seconds)
    except KeyboardInterrupt:
        print(f"\nthe jobs go on; see them again with: {command('status', sweep_folder)} --watch")
        raise


def command(verb: str, sweep_folder: SweepFolder) -> str:
    """Return the command that does ``verb`` on a sweep, as a user types it."""
    return f"python -m launchers {verb} --sweep {sweep_folder.folder}"


def tell_submission(found: Any, sweep_folder: SweepFolder, jobs: Sequence[str]) -> None:
    """Print what was submitted, what was not and why, and the next commands.

    Args:
        found: the ``Plan`` that was carried out.
        sweep_folder: of the sweep.
        jobs: ids of the arrays and jobs.
    """
    submitted = sum(len(group.runs) for group in found.groups)
    for run, claim in _named(found):
        say(f"  {run.describe()}: {claims.describe(claim)} has it already")
    asked = {run.id: run for run in found.outcome.asked}
    finished = sum(run.is_finished for run in asked.values() if run.id not in found.live)
    say(
        f"{count(submitted, 'run')} submitted"
        + (f" as {'jobs' if len(jobs) > 1 else 'job'} {', '.join(jobs)}" if jobs else "")
        + f"; {finished} were finished, {len(found.live)} are on their way already, "
        f"{len(found.outcome.failures)} cannot be done."
    )
    say(f"logs: {sweep_folder.jobs}")
    say(f"next: {command('status', sweep_folder)}")
    say(f"      {command('logs', sweep_folder)} RUN")
    say(f"      {command('cancel', sweep_folder)}")


def _named(found: Any) -> list[tuple[Any, dict[str, Any]]]:
    runs = {run.id: run for run in found.outcome.asked}
    return [(runs[i], claim) for i, claim in found.live.items() if i in runs]


def show_plan(found: Any, outputs: Path, options: Mapping[str, Any]) -> None:
    """Print what a submission would do: the runs, the batch file per group, SLURM's verdict."""
    from launchers import submission
    from launchers.naming import descriptions
    from ssl_transfer.runs import graph

    parents = {run.id: group.parents for group in found.groups for run in group.runs}
    every = graph(found.outcome.asked)
    described = descriptions(every)
    for run in every:
        if run.id in found.outcome.failures:
            state, detail = "failed", found.outcome.failures[run.id]
        elif run.id in found.live:
            state, detail = "running", claims.describe(found.live[run.id])
        elif run.id in parents:
            waits = f"waits for {', '.join(sorted(i[:8] for i in parents[run.id]))}"
            state, detail = "new", waits if parents[run.id] else ""
        else:
            state, detail = "finished", ""
        say(f"{state:9}{described[run.id]}  {detail}".rstrip())
    for number, group in enumerate(found.groups, 1):
        text = submission.batch_file(group, outputs / "sweeps" / "…" / "jobs", options)
        accepted, verdict = submission.verdict_on(text)
        say(
            f"\n# group {number}: {count(len(group.runs), 'run')} in "
            f"{count(len(group.jobs), 'job')}\n{text}"
        )
        say(f"# sbatch --test-only: {'accepted' if accepted else 'REFUSED'}: {verdict}")
    say("\nnothing was submitted (hydra.launcher.dry_run=true)")
