"""The work of one SLURM job (or one element of an array): the callable that submitit pickles.

How a job ends without losing a step (each point was tested on a real SLURM):

1. When USR2 (the warning) or TERM arrives, a run saves and stops after its current step; see
   ``ssl_transfer.system.signals``.
2. After USR2, rank 0 calls submitit's own handler, which pickles this callable, asks SLURM to
   requeue the job, and exits. The other ranks wait until SLURM ends them.
3. After TERM alone, all ranks wait until they are killed. SLURM starts the job again after a
   preemption or ``scontrol requeue``, but not after a cancellation. Requeueing on TERM would
   restart cancelled jobs, too.
4. A restarted job continues from the files on disk: records, checkpoints, claims with its own id.
"""

import logging
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import submitit

from launchers import pool, sweep
from launchers.naming import descriptions
from launchers.run_in_job import run_one, wait_for_the_end
from ssl_transfer.runs import Run
from ssl_transfer.system import claims, provenance, signals, slurm
from ssl_transfer.system.files import let_group_write
from ssl_transfer.system.plain_text import Formatter

log = logging.getLogger(__name__)


class JobFailed(RuntimeError):
    """At least one run of the job failed, so the job is FAILED for SLURM, too."""


class Job:
    """The runs of one job, one after another or side by side.

    Args:
        configs: the runs' frozen configurations, requirements first.
        slots: number of runs executed at the same time, each in its own process.
    """

    def __init__(self, configs: Sequence[dict[str, Any]], *, slots: int = 1) -> None:
        self.configs, self.slots = list(configs), slots

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Return the callable for submitit after a requeue: this one; the state is on disk."""
        return submitit.helpers.DelayedSubmission(self)

    def __call__(self) -> None:
        """Execute the unfinished runs.

        Raises:
            JobFailed: naming every run that failed.
        """
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        for handler in logging.getLogger().handlers:
            handler.setFormatter(Formatter("%(message)s"))
        logging.getLogger("submitit").propagate = False  # it has its own handler
        for config in self.configs:
            let_group_write(config["paths"])
        environment = submitit.JobEnvironment()
        os.environ[claims.LOG] = str(environment.paths.stdout)
        if environment.global_rank == 0:
            _remove_halves(environment.paths.folder, environment.job_id)
            if provenance.code().get("changed_since_submission"):
                log.warning("the code changed since this job was submitted")
        before = {number: signal.getsignal(number) for number in signals.SIGNALS}
        runs = [Run(config) for config in self.configs]
        try:
            failures = self._side_by_side(runs) if self.slots > 1 else _one_by_one(runs)
        except signals.Interrupted:
            failures = _step_aside(before, environment.global_rank)
        if failures:
            raise JobFailed("; ".join(failures))

    def _side_by_side(self, runs: Sequence[Run]) -> list[str]:
        folder = Path(os.environ[claims.LOG]).parent
        job = slurm.current_job()
        logs = [folder / f"{job}_slot{number}_log.out" for number in range(self.slots)]
        # The batch file set OMP_NUM_THREADS to the cores of the whole job.
        threads = max(1, int(os.environ.get("OMP_NUM_THREADS", "1")) // self.slots)
        slots = pool.slots_for(logs, gpus=pool.visible_gpus(), threads=threads)
        failures = pool.serve(runs, slots)
        return [f"{identifier[:8]}: {reason}" for identifier, reason in failures.items()]


def _one_by_one(runs: Sequence[Run]) -> list[str]:
    failures = []
    described = descriptions(runs)
    for number, run in enumerate(runs, 1):
        sweep.say(f"[{number}/{len(runs)}] {described[run.id]}")
        if (reason := run_one(run, packed=len(runs) > 1)) is not None:
            failures.append(f"{described[run.id]}: {reason}")
    return failures


def _step_aside(before: dict[signal.Signals, Any], rank: int) -> list[str]:
    """End a job after an interrupted run: requeue after a warning, otherwise wait for SLURM.

    Returns:
        The reason if submitit refuses to requeue the job again.
    """
    if signals.arrived(signal.SIGUSR2) and rank == 0:
        requeue: Callable[[int, None], None] = before[signal.SIGUSR2]
        try:
            requeue(signal.SIGUSR2, None)
        except submitit.core.utils.UncompletedJobError as error:
            return [
                f"a run must fit into `hydra.launcher.max_num_timeout` turns of "
                f"`timeout_min` each, but did not ({error}); the same command goes on from the "
                "checkpoint."
            ]
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            # No scontrol on this node, a slow controller, or a site that forbids requeueing.
            log.warning("the job cannot be requeued from here (%s)", error)
    log.info("waiting for SLURM to end this process")
    return wait_for_the_end()


def _remove_halves(folder: Path, job: str) -> None:
    """Remove incomplete files of a killed process, which submitit would not overwrite."""
    for path in folder.glob(f"{job}_*.save_tmp"):
        path.unlink(missing_ok=True)
