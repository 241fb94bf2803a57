"""The SLURM launcher: submit what is left of a sweep, print where to look, return."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from omegaconf import OmegaConf

from launchers import base, sweep
from launchers.resources import Resources
from ssl_transfer.config.ranges import Count, Range
from ssl_transfer.runs import Run
from ssl_transfer.runs.signature import signature_problems


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(Resources):
    """Keys of ``hydra.launcher``: what every run asks for, and how the sweep is submitted.

    Args:
        pretrain: keys of ``Resources`` for pre-training runs only.
        job_name, comment, wckey: as of sbatch(1).
        array_parallelism: elements of an array that run at the same time.
        array_size: largest array (``None``: the cluster's limit).
        signal_delay_s: seconds between the warning and a time limit.
        max_num_timeout: turns that a run may take.
        wait: whether to stay and show a live table.
        dry_run: whether only to show what would be submitted.
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
        SweepRefused: for an unknown key, as a site's own file may have one, or a wrong type.
    """

    def __init__(self, **options: Any) -> None:
        self.options = {
            key: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            for key, value in options.items()
        }
        given = {key: value for key, value in self.options.items() if value is not None}
        problems = signature_problems("hydra.launcher", Options, given, supplied=frozenset())
        if problems:
            raise sweep.SweepRefused(problems)

    def run_all(self, runs: Sequence[Run], outputs: Path) -> sweep.Outcome:
        """Submit what is left of the runs; with ``dry_run`` only say what that would be."""
        return send(runs, outputs, self.options)


def send(asked: Sequence[Run], outputs: Path, options: dict[str, Any]) -> sweep.Outcome:
    """Submit what is left of some runs and what they require.

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
        found = submission.plan(asked, options)
        if options["dry_run"]:
            status.show_plan(found, outputs, options)
            return found.outcome
        submission.refuse_impossible(found, options)
        sweep_folder = SweepFolder.create(asked, outputs, {"name": "slurm", **options})
        began = found.outcome
        try:
            jobs = submission.submit(found, sweep_folder, options)
        finally:
            began.pending = len(found.live) + sum(len(group.runs) for group in found.groups)
            sweep_folder.note(began)
    except OSError as error:  # no answer, or a folder that cannot be written
        raise sweep.SweepRefused([str(error)]) from error
    status.tell_submission(found, sweep_folder, jobs)
    if options["wait"]:
        status.watch(sweep_folder)
        sweep_folder.tidy()
        began.pending = 0
        ended = {run.id: run for run in status.survey(sweep_folder)}
        began.failures |= {i: run.detail for i, run in ended.items() if run.state != "done"}
        sweep_folder.note(began)
    return began
