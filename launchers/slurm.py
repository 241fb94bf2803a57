"""The SLURM launcher: submits the unfinished runs of a sweep and prints where to find them."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from omegaconf import OmegaConf

from launchers import base, sweep
from launchers.resources import Resources
from ssl_transfer.config.ranges import Count, Range
from ssl_transfer.runs import Run
from ssl_transfer.runs.signature import signature_problems

if TYPE_CHECKING:
    from launchers.submission import Plan


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(Resources):
    """Keys of ``hydra.launcher``: the resources of every run, and options of the submission.

    Args:
        pretrain: keys of ``Resources`` for pre-training runs only.
        job_name, comment, wckey: as of sbatch(1).
        array_parallelism: elements of an array that run at the same time.
        array_size: largest array (``None``: the cluster's limit).
        signal_delay_s: seconds between the warning and the time limit.
        max_num_timeout: how often a job may be requeued after its time limit.
        wait: whether to wait for the jobs and show a live table.
        dry_run: whether to show the submission without submitting.
        snapshot: whether the jobs run from a copy of the code.
    """

    pretrain: dict[str, Any] = dataclasses.field(default_factory=dict)
    job_name: str = "ssl_transfer"
    array_parallelism: Count = 256
    array_size: Count | None = None
    signal_delay_s: Annotated[int, Range(0, cap=10**6)] = 120
    max_num_timeout: Annotated[int, Range(0, cap=10**6)] = 100
    comment: str | None = None
    wckey: str | None = None
    wait: bool = False
    dry_run: bool = False
    snapshot: bool = False


class SlurmLauncher(base.ProjectLauncher):
    """Submits a sweep through submitit.

    Args:
        options: keys of ``conf/hydra/launcher/slurm.yaml``.

    Raises:
        SweepRefused: for an unknown key, e.g. in a site's own file, or a wrong type.
    """

    def __init__(self, **options: Any) -> None:
        self.options = {
            key: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            for key, value in options.items()
        }
        set_options = {key: value for key, value in self.options.items() if value is not None}
        problems = signature_problems("hydra.launcher", Options, set_options, supplied=frozenset())
        if problems:
            raise sweep.SweepRefused(problems)

    def run_all(self, runs: Sequence[Run], outputs: Path) -> sweep.Outcome:
        """Submit the unfinished runs; with ``dry_run`` only print the submission."""
        return send(runs, outputs, self.options)

    def show_plan(self, runs: Sequence[Run], outputs: Path) -> sweep.Outcome:
        """Print the submission and its estimated cost without submitting."""
        return send(runs, outputs, {**self.options, "dry_run": True})


def send(runs: Sequence[Run], outputs: Path, options: dict[str, Any]) -> sweep.Outcome:
    """Submit the unfinished ones of some runs and of their requirements.

    Raises:
        SweepRefused: before anything is submitted, if a configuration is wrong, the outputs
            cannot be written, or SLURM is missing or would refuse a job.
    """
    from ssl_transfer.system import slurm

    if not slurm.is_available():
        raise sweep.SweepRefused(
            ["`sbatch` and `squeue` must be on the PATH for hydra/launcher=slurm, but are not; "
             "load the cluster's module, or use hydra/launcher=local."]
        )  # fmt: skip
    from launchers import status, submission
    from launchers.sweep_folder import SweepFolder

    try:
        plan = submission.plan(runs, options)
        if options["dry_run"]:
            status.show_plan(plan, outputs, options)
            _show_cost(plan, outputs, options)
            return plan.outcome
        submission.refuse_impossible(plan, options)
        sweep_folder = SweepFolder.create(runs, outputs, {"name": "slurm", **options})
        outcome = plan.outcome
        try:
            jobs = submission.submit(plan, sweep_folder, options)
        finally:
            outcome.pending = len(plan.live) + sum(len(group.runs) for group in plan.groups)
            sweep_folder.note(outcome)
    except OSError as error:  # SLURM does not answer, or a folder cannot be written
        raise sweep.SweepRefused([str(error)]) from error
    status.tell_submission(plan, sweep_folder, jobs)
    if options["wait"]:
        status.watch(sweep_folder)
        sweep_folder.tidy()
        outcome.pending = 0
        ended = {run.id: run for run in status.survey(sweep_folder)}
        outcome.failures |= {i: run.detail for i, run in ended.items() if run.state != "done"}
        sweep_folder.note(outcome)
    return outcome


def _show_cost(plan: "Plan", outputs: Path, options: dict[str, Any]) -> None:
    """Print the estimated hours and disk of the runs that would be submitted."""
    from launchers import dry_run

    at_once = sum(
        min(len(group.runs), options["array_parallelism"] * group.resources.runs_per_gpu)
        for group in plan.groups
    )
    runs = [run for group in plan.groups for run in group.runs]
    for line in dry_run.estimates(runs, outputs, at_once):
        sweep.say(line)
