"""From runs to SLURM: what is left, in which arrays, behind which jobs; then submitit.

Runs of equal resources and equal parents share an array. A child waits for its parents with
``afterany`` and looks at their records itself: SLURM takes a forgotten job for a success, a job of
several runs can fail for a sibling's sake, and a child that never starts could not say why.
"""

import contextlib
import dataclasses
import json
import os
import secrets
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import submitit

from launchers import resources, sweep
from launchers.job import Job
from launchers.resources import Resources
from launchers.sweep_folder import SweepFolder
from ssl_transfer.runs import Run
from ssl_transfer.system import claims, provenance, slurm


@dataclasses.dataclass
class Group:
    """Runs that one array takes.

    Args:
        resources: of each job.
        parents: ids of the runs that must end first.
        runs: in the order of the sweep.
    """

    resources: Resources
    parents: frozenset[str]
    runs: list[Run]

    @property
    def jobs(self) -> list[list[Run]]:
        """The runs of each job."""
        size = self.resources.runs_in_a_job
        return [self.runs[start : start + size] for start in range(0, len(self.runs), size)]


@dataclasses.dataclass
class Plan:
    """What a submission would do.

    Args:
        outcome: with the runs that cannot be done.
        groups: what to submit, parents first.
        live: run id -> who computes it already.
    """

    outcome: sweep.Outcome
    groups: list[Group]
    live: dict[str, dict[str, Any]]


def plan(asked: Sequence[Run], options: Mapping[str, Any]) -> Plan:
    """Return what is left of the runs, grouped; nothing is written but why a run cannot be done.

    Raises:
        SweepRefused: if a configuration or what it asks of the cluster is wrong.
    """
    wants = {}

    def processes(run: Run) -> int:
        wants[run.id] = resources.of(run, options)
        return wants[run.id].processes

    outcome, todo = sweep.prepare(asked, processes)
    live = _live([run for run in todo if run.id not in outcome.failures])
    groups: dict[str, Group] = {}
    waiting = set(live)
    for run in todo:
        if run.id in outcome.failures or run.id in live:
            continue
        failed = [r for r in run.requirements if r.id in outcome.failures]
        if failed:
            why = outcome.failures[failed[0].id]
            outcome.failures[run.id] = f"requires {failed[0].describe()}, which failed: {why}"
            continue
        parents = frozenset(r.id for r in run.requirements if r.id in waiting)
        waiting.add(run.id)
        key = json.dumps([dataclasses.asdict(wants[run.id]), sorted(parents)])
        groups.setdefault(key, Group(wants[run.id], parents, [])).runs.append(run)
    return Plan(outcome, list(groups.values()), live)


def _live(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """Return run id -> claim, for the runs that a job or process alive works on or waits for."""
    held = {run.id: claim for run in runs if (claim := claims.read(run.folder)) is not None}
    with contextlib.suppress(slurm.NoAnswer):  # `other` takes what it cannot ask for alive
        slurm.queue(claim["job"] for claim in held.values() if "job" in claim)
    live = {}
    for run in runs:
        if run.id in held and (claim := claims.other(run.folder)) is not None:
            live[run.id] = claim
    return live


def executor_for(
    group: Group, folder: Path, options: Mapping[str, Any], environment: Mapping[str, str]
) -> submitit.SlurmExecutor:
    """Return submitit's executor with what the group asks for."""
    wants = group.resources
    srun = [f"--cpus-per-task={wants.cpus_per_task}"] if wants.cpus_per_task else []
    # One rank's failure ends the job, instead of the others waiting for it.
    srun.append("--kill-on-bad-exit=1")
    srun.append("--export=ALL")  # a site's or user's NONE would keep the exports below from it
    executor = submitit.SlurmExecutor(folder, max_num_timeout=options["max_num_timeout"])
    parameters = {
        "job_name": options["job_name"],
        "nodes": wants.nodes,
        "ntasks_per_node": wants.tasks,
        "gpus_per_node": wants.gpus_per_node if wants.gpus_per_node and not wants.gres else None,
        "cpus_per_task": wants.cpus_per_task,
        "time": wants.timeout_min,
        "mem": None if wants.mem_gb is None else f"{round(wants.mem_gb * 1024)}M",
        **{
            key: getattr(wants, key)
            for key in ("partition", "qos", "account", "constraint", "exclude", "nodelist", "gres")
        },
        "signal_delay_s": options["signal_delay_s"],
        "array_parallelism": options["array_parallelism"],
        "comment": options["comment"],
        "wckey": options["wckey"],
        "stderr_to_stdout": True,
        "srun_args": srun,
        "setup": [*_exports(environment), *wants.setup],
        "additional_parameters": {"requeue": True, **wants.additional},
    }
    executor.update_parameters(**parameters)
    return executor


def _exports(environment: Mapping[str, str]) -> list[str]:
    """Return shell lines: they hold where a site does not pass the environment on, too."""
    lines = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    # A job on a shared computer may use its own cores only.
    lines.append("export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}")
    return lines


@contextlib.contextmanager
def outside_of_any_job() -> Iterator[None]:
    """Hide the variables of the allocation that this process may run in; sbatch believes them."""
    # Which cluster, not which job; and the user's own defaults, which a job's batch file sets, too.
    inside = "SLURM_JOB_ID" in os.environ
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in ("SLURM_CONF", "SLURM_CLUSTERS") or (name.startswith("SBATCH_") and not inside)
    }
    with submitit.helpers.clean_env():
        os.environ.update(kept)
        yield


def refuse_impossible(found: Plan, options: Mapping[str, Any]) -> None:
    """Ask SLURM about every kind of job before anything is submitted.

    Raises:
        SweepRefused: with SLURM's own sentence for each that it would refuse.
    """
    asked: dict[str, Group] = {}
    for group in found.groups:
        asked.setdefault(repr(group.resources), group)
    problems = []
    for group in asked.values():
        accepted, verdict = verdict_on(batch_file(group, Path(), options))
        if not accepted:
            wants = {
                key: value
                for key, value in dataclasses.asdict(group.resources).items()
                if value != Resources.__dataclass_fields__[key].default and value not in ([], {})
            }
            problems.append(
                f"SLURM must accept the jobs ({wants}), but says: {verdict}; change "
                "`hydra.launcher.*`."
            )
    if problems:
        raise sweep.SweepRefused(problems)


def verdict_on(text: str) -> tuple[bool, str]:
    """Return whether SLURM would accept a batch file, and what it says."""
    with outside_of_any_job():
        return slurm.test(text)


def batch_file(group: Group, folder: Path, options: Mapping[str, Any]) -> str:
    """Return the batch file of a group, as submitit would write it (dependencies apart)."""
    executor = executor_for(group, folder, options, {})
    if len(group.jobs) > 1:
        executor.parameters["map_count"] = min(len(group.jobs), _largest(options))
    text: str = executor._make_submission_file_text(executor._submitit_command_str, "dry-run")
    return text


def submit(found: Plan, sweep_folder: SweepFolder, options: Mapping[str, Any]) -> list[str]:
    """Submit the plan's groups, parents first; return the ids of the arrays and jobs.

    Every run is claimed for its job before the job exists, so that two submissions never take the
    same run. If SLURM refuses in the middle, what was submitted stays, and the claims of the rest
    are given up: the same command goes on from there.

    Raises:
        SweepRefused: with SLURM's sentence, if it refuses.
    """
    submission = secrets.token_hex(8)
    code = sweep_folder.snapshot() if options["snapshot"] else provenance.ROOT
    environment = {
        "PYTHONPATH": provenance.search_path(code),
        "PYTHONSAFEPATH": "1",  # the directory of submission may hold other code of that name
        claims.SUBMISSION: submission,
        provenance.SUBMITTED: json.dumps(provenance.code()),
    }
    jobs: dict[str, str] = {i: c["job"] for i, c in found.live.items() if "job" in c}
    submitted: list[str] = []
    largest = _largest(options)
    for group in found.groups:
        group.runs = [run for run in group.runs if _reserve(run, submission, found)]
        executor = executor_for(group, sweep_folder.jobs, options, environment)
        behind = sorted({jobs[parent] for parent in group.parents if parent in jobs})
        if behind:
            executor.update_parameters(dependency="afterany:" + ":".join(behind))
        elements = group.jobs
        for start in range(0, len(elements), largest):
            chunk = elements[start : start + largest]
            try:
                with outside_of_any_job():
                    sent = executor.submit_array([_job(runs, group.resources) for runs in chunk])
            except (submitit.core.utils.FailedJobError, OSError) as error:
                _give_up(found, jobs)
                sent_now = len(jobs.keys() - found.live.keys())
                raise sweep.SweepRefused([_refusal(error, sent_now, found)]) from error
            for job, runs in zip(sent, chunk, strict=True):
                for run in runs:
                    jobs[run.id] = job.job_id
                    claims.hand_over(run.folder, _claim(job, submission))
            submitted.append(sent[0].job_id.partition("_")[0])
    return submitted


def _largest(options: Mapping[str, Any]) -> int:
    """Return how many elements an array may have here."""
    cap = slurm.largest_array()
    return min(options["array_size"] or cap, cap)


def _job(runs: Sequence[Run], wants: Resources) -> Job:
    return Job([run.config for run in runs], slots=wants.slots)


def _reserve(run: Run, submission: str, found: Plan) -> bool:
    """Claim a run for the job to come; False if somebody was quicker: it is theirs, or finished."""
    if not claims.try_claim(run.folder, {**claims.owner(), "submission": submission}):
        if (claim := claims.read(run.folder)) is not None:
            found.live[run.id] = claim
        return False
    if sweep.left_to_do(run):
        return True
    claims.release(run.folder)
    return False


def _claim(job: submitit.Job[Any], submission: str) -> dict[str, Any]:
    """Return the claim of a job that was just submitted."""
    return {
        "job": job.job_id,
        "submission": submission,
        "user": slurm.user(),
        "log": str(job.paths.stdout),
    }


def _give_up(found: Plan, jobs: Mapping[str, str]) -> None:
    """Release the claims on runs that got no job."""
    for group in found.groups:
        for run in group.runs:
            if run.id not in jobs:
                claims.release(run.folder)


def _refusal(error: Exception, sent: int, found: Plan) -> str:
    total = sum(len(group.runs) for group in found.groups)
    said = " ".join(str(error).split())
    return (
        f"SLURM must accept the sweep, but after {sent} of {total} runs it said: {said}; "
        "those are on their way, and the same command submits the rest when there is room."
    )
