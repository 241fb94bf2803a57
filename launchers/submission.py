"""Submission of runs to SLURM through submitit: arrays of unfinished runs, and their dependencies.

Runs with equal resources and equal parents share an array. A child waits for its parents with
``afterany`` and checks their records itself. ``afterok`` would not work: SLURM treats a forgotten
job as successful, a job of several runs may fail because of another run, and a child that never
starts could not report the reason.
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
    """Runs that share one array.

    Args:
        resources: the resources of each job.
        parents: ids of the runs that must end first.
        runs: the runs in the order of the sweep.
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
    """The plan of a submission.

    Args:
        outcome: contains the runs that cannot be executed.
        groups: the groups to submit, parents first.
        live: run id -> claim of the job or process that already computes it.
    """

    outcome: sweep.Outcome
    groups: list[Group]
    live: dict[str, dict[str, Any]]


def plan(runs: Sequence[Run], options: Mapping[str, Any]) -> Plan:
    """Return the unfinished runs in groups; failed checks are written unless for a dry run.

    Raises:
        SweepRefused: if a configuration or its resources are wrong.
    """
    wants = {}

    def processes(run: Run) -> int:
        wants[run.id] = resources.of(run, options)
        return wants[run.id].processes

    # A submission that is only shown leaves nothing behind.
    outcome, todo = sweep.prepare(runs, processes, leave_failures=not options["dry_run"])
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
    """Return run id -> claim for the runs that a live job or process owns."""
    claims_by_id = {run.id: claim for run in runs if (claim := claims.read(run.folder)) is not None}
    with contextlib.suppress(slurm.NoAnswer):  # `other` then assumes that jobs are alive
        slurm.queue(claim["job"] for claim in claims_by_id.values() if "job" in claim)
    live = {}
    for run in runs:
        if run.id in claims_by_id and (claim := claims.other(run.folder)) is not None:
            live[run.id] = claim
    return live


def executor_for(
    group: Group, folder: Path, options: Mapping[str, Any], environment: Mapping[str, str]
) -> submitit.SlurmExecutor:
    """Return submitit's executor with the group's resources."""
    wants = group.resources
    srun = [f"--cpus-per-task={wants.cpus_per_task}"] if wants.cpus_per_task else []
    # If one rank fails, end the job instead of letting the other ranks wait.
    srun.append("--kill-on-bad-exit=1")
    srun.append("--export=ALL")  # a default of NONE would drop the exports below
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
    """Return export lines for the batch file, as some sites do not pass on the environment."""
    lines = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    # On a shared computer a job must use only its own cores.
    lines.append("export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}")
    return lines


@contextlib.contextmanager
def outside_of_any_job() -> Iterator[None]:
    """Hide the variables of the allocation that this process runs in, which sbatch would use."""
    # Keep the cluster, and the user's defaults unless a surrounding job's batch file set them.
    inside = "SLURM_JOB_ID" in os.environ
    variables = {
        name: value
        for name, value in os.environ.items()
        if name in ("SLURM_CONF", "SLURM_CLUSTERS") or (name.startswith("SBATCH_") and not inside)
    }
    with submitit.helpers.clean_env():
        os.environ.update(variables)
        yield


def refuse_impossible(planned: Plan, options: Mapping[str, Any]) -> None:
    """Ask SLURM about every kind of job before any job is submitted.

    Raises:
        SweepRefused: with SLURM's message for each kind that it would refuse.
    """
    group_by_resources: dict[str, Group] = {}
    for group in planned.groups:
        group_by_resources.setdefault(repr(group.resources), group)
    problems = []
    for group in group_by_resources.values():
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
    """Return whether SLURM would accept a batch file, and its message."""
    with outside_of_any_job():
        return slurm.test(text)


def batch_file(group: Group, folder: Path, options: Mapping[str, Any]) -> str:
    """Return the batch file of a group as submitit would write it, without dependencies."""
    executor = executor_for(group, folder, options, {})
    if len(group.jobs) > 1:
        executor.parameters["map_count"] = min(len(group.jobs), _largest(options))
    text: str = executor._make_submission_file_text(executor._submitit_command_str, "dry-run")
    return text


def submit(planned: Plan, sweep_folder: SweepFolder, options: Mapping[str, Any]) -> list[str]:
    """Submit the plan's groups, parents first; return the ids of the arrays and jobs.

    Every run is claimed for its job before the job exists, so that two submissions never submit the
    same run. If SLURM refuses a group, the submitted jobs stay, and the claims of the other runs
    are released: the same command submits the rest.

    Raises:
        SweepRefused: with SLURM's message, if it refuses a job.
    """
    submission = secrets.token_hex(8)
    code = sweep_folder.snapshot() if options["snapshot"] else provenance.ROOT
    environment = {
        "PYTHONPATH": provenance.search_path(code),
        "PYTHONSAFEPATH": "1",  # the working directory may contain another copy of the code
        claims.SUBMISSION: submission,
        provenance.SUBMITTED: json.dumps(provenance.code()),
    }
    jobs: dict[str, str] = {i: c["job"] for i, c in planned.live.items() if "job" in c}
    submitted: list[str] = []
    largest = _largest(options)
    for group in planned.groups:
        group.runs = [run for run in group.runs if _reserve(run, submission, planned)]
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
                _give_up(planned, jobs)
                sent_now = len(jobs.keys() - planned.live.keys())
                raise sweep.SweepRefused([_refusal(error, sent_now, planned)]) from error
            for job, runs in zip(sent, chunk, strict=True):
                for run in runs:
                    jobs[run.id] = job.job_id
                    claims.hand_over(run.folder, _claim(job, submission))
            submitted.append(sent[0].job_id.partition("_")[0])
    return submitted


def _largest(options: Mapping[str, Any]) -> int:
    """Return the maximal number of elements of an array."""
    cap = slurm.largest_array()
    return min(options["array_size"] or cap, cap)


def _job(runs: Sequence[Run], wants: Resources) -> Job:
    return Job([run.config for run in runs], slots=wants.slots)


def _reserve(run: Run, submission: str, planned: Plan) -> bool:
    """Claim a run for a new job; return False if another owner has it or it is finished."""
    if not claims.try_claim(run.folder, {**claims.owner(), "submission": submission}):
        if (claim := claims.read(run.folder)) is not None:
            planned.live[run.id] = claim
        return False
    if sweep.left_to_do(run):
        return True
    claims.release(run.folder)
    return False


def _claim(job: submitit.Job[Any], submission: str) -> dict[str, Any]:
    """Return the claim of a newly submitted job."""
    return {
        "job": job.job_id,
        "submission": submission,
        "user": slurm.user(),
        "log": str(job.paths.stdout),
    }


def _give_up(planned: Plan, jobs: Mapping[str, str]) -> None:
    """Release the claims on runs without a job."""
    for group in planned.groups:
        for run in group.runs:
            if run.id not in jobs:
                claims.release(run.folder)


def _refusal(error: Exception, sent: int, planned: Plan) -> str:
    total = sum(len(group.runs) for group in planned.groups)
    message = " ".join(str(error).split())
    return (
        f"SLURM must accept the sweep, but after {sent} of {total} runs it said: {message}; "
        "those are on their way, and the same command submits the rest when there is room."
    )
