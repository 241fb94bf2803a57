"""Execution of one run in a job or slot, after a check whether it can start."""

import logging
import signal
import time
import traceback
from typing import Any, NoReturn

from launchers import sweep
from ssl_transfer.runs import Run
from ssl_transfer.system import claims, slurm

log = logging.getLogger(__name__)


def run_one(run: Run, *, packed: bool) -> str | None:
    """Execute one run of a job; return the reason if it has no record, otherwise None.

    Args:
        run: the run, with a frozen configuration.
        packed: whether the job has several runs. Such a job is not requeued when another process
            computes the run, and a restarted job does not repeat its failed runs.
    """
    from ssl_transfer.runs.failure import fail
    from ssl_transfer.system import distributed

    try:
        distributed.start(run.config["trainer"]["device"])
    except (OSError, ValueError, RuntimeError) as error:  # no such device, or no rendezvous
        if sweep.is_main_process():
            fail(run, str(error), trace=traceback.format_exc(), stage="check")
            claims.release(run.folder)
        return str(error)
    # Only the first process checks the files, so that all processes agree.
    verdict, reason = distributed.broadcast_object(
        _verdict(run, packed=packed) if distributed.is_main() else ("", "")
    )
    if verdict == "finished":
        sweep.say("  finished before")
        return None
    if verdict == "blocked" and distributed.is_main():
        fail(run, reason, trace="", stage="check")
        claims.release(run.folder)
    if verdict != "go":
        sweep.say(f"  failed: {reason}")
        return str(reason)
    return sweep.attempt(run)


def _verdict(run: Run, *, packed: bool) -> tuple[str, str]:
    """Return what to do with a run (``go``, ``finished``, ``failed``, ``blocked``) and why."""
    this_job = slurm.current_job()
    in_earlier_turn = (
        this_job is not None and run.is_finished and run.record().get("job") == this_job
    )
    if run.is_finished and (in_earlier_turn or not run.config["force"]):
        claims.release(run.folder)
        return "finished", ""
    failure = run.failure()
    if (
        packed
        and this_job
        and failure
        and failure["stage"] == "work"
        and failure.get("job") == this_job
    ):
        return "failed", str(failure["error"])  # in an earlier turn of this job
    for needed in (*run.requirements, run):
        if (needed is run or not needed.is_finished) and (other := claims.other(needed.folder)):
            _go_behind(other, needed, give_back=not packed)
    reason = sweep.blocked(run)
    return ("go", "") if reason is None else ("blocked", reason)


def _go_behind(owner: dict[str, Any], run: Run, *, give_back: bool) -> None:
    """Requeue this job, because another owner computes a run that it needs; else wait for it."""
    log.info("%s computes %s; this job waits for it", claims.describe(owner), run.describe())
    this_job = slurm.current_job()
    if give_back and this_job is not None:
        complaint = slurm.requeue(this_job)
        if complaint is None:
            wait_for_the_end()
        log.warning("the job cannot be requeued (%s), so it waits without ending", complaint)
    while claims.other(run.folder) and not run.is_finished:
        time.sleep(5)


def wait_for_the_end() -> NoReturn:
    """Sleep until SLURM ends this process; the signal handlers stay installed."""
    while True:
        signal.pause()
