"""The SLURM launcher: submit what is left of a sweep, print where to look, return."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from launchers import base, sweep
from ssl_transfer.runs import Run


class SlurmLauncher(base.ProjectLauncher):
    """Submits a sweep through submitit.

    Args:
        options: keys of ``conf/hydra/launcher/slurm.yaml``.
    """

    def __init__(self, **options: Any) -> None:
        self.options = {
            key: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            for key, value in options.items()
        }

    def carry_out(self, runs: Sequence[Run], outputs: Path) -> sweep.Outcome:
        """Submit what is left of the runs; with ``dry_run`` only say what that would be."""
        return send(runs, outputs, self.options)


def send(asked: Sequence[Run], outputs: Path, options: dict[str, Any]) -> sweep.Outcome:
    """Submit what is left of some runs and what they require.

    Raises:
        SweepRefused: before anything is submitted, if a configuration is wrong, the outputs
            cannot be written, or SLURM is missing or would refuse a job.
    """
    from ssl_transfer import cluster

    if not cluster.is_available():
        raise sweep.SweepRefused(
            ["`sbatch` and `squeue` must be on the PATH for hydra/launcher=slurm, but are not; "
             "load the cluster's module, or use hydra/launcher=local."]
        )  # fmt: skip
    from launchers import status, submission
    from launchers.archive import Archive

    try:
        found = submission.plan(asked, options)
        if options["dry_run"]:
            status.show_plan(found, outputs, options)
            return found.outcome
        submission.refuse_impossible(found, options)
        archive = Archive.create(asked, outputs, {"name": "slurm", **options})
        began = found.outcome
        try:
            jobs = submission.submit(found, archive, options)
        finally:
            began.pending = len(found.live) + sum(len(group.runs) for group in found.groups)
            archive.note(began)
    except OSError as error:  # no answer, or a folder that cannot be written
        raise sweep.SweepRefused([str(error)]) from error
    status.tell_submission(found, archive, jobs)
    if options["wait"]:
        status.watch(archive)
        began.pending = 0
    return began
