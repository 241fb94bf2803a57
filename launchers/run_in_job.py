"""What a job, or a slot, does with one run: look whether it can begin, then execute it."""

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
    """Carry out one run of a job; return why it has no record, None if it has one.

    Args:
        run: whose configuration is frozen.
        packed: whether the job has others, because of which it may be started again.
    """
    from ssl_transfer.runs.execution import fail
    from ssl_transfer.system import distributed

    try:
        distributed.start(run.config["trainer"]["device"])
    except (OSError, ValueError, RuntimeError) as error:  # no such device, nobody to meet
        if sweep.is_main_process():
            fail(run, str(error), trace=traceback.format_exc(), stage="check")
            claims.release(run.folder)
        return str(error)
    # One process looks at the files, so that all of them agree.
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
    """Return whether to go on with a run, and if not, why."""
    me = slurm.current_job()
    in_earlier_turn = me is not None and run.is_finished and run.record().get("job") == me
    if run.is_finished and (in_earlier_turn or not run.config["force"]):
        claims.release(run.folder)
        return "finished", ""
    failure = run.failure()
    if packed and me and failure and failure["stage"] == "work" and failure.get("job") == me:
        return "failed", str(failure["error"])  # in an earlier turn of this job
    for needed in (*run.requirements, run):
        if (needed is run or not needed.is_finished) and (other := claims.other(needed.folder)):
            _go_behind(other, needed, give_back=not packed)
    reason = sweep.blocked(run)
    return ("go", "") if reason is None else ("blocked", reason)


def _go_behind(owner: dict[str, Any], run: Run, *, give_back: bool) -> None:
    """Queue again, because somebody else computes what this job needs; wait if that cannot be."""
    log.info("%s computes %s; this job goes behind it", claims.describe(owner), run.describe())
    me = slurm.current_job()
    if give_back and me is not None:
        complaint = slurm.requeue(me)
        if complaint is None:
            wait_for_the_end()
        log.warning("the job cannot be requeued (%s), so it waits where it is", complaint)
    while claims.other(run.folder) and not run.is_finished:
        time.sleep(5)


def wait_for_the_end() -> NoReturn:
    """Sleep until SLURM ends this process; what is between keeps its signal handlers."""
    while True:
        signal.pause()
