"""Calls to SLURM's commands; no other module runs them.

The id of a job is ``12``, that of an array element ``12_3``.
"""

import dataclasses
import functools
import getpass
import logging
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence

log = logging.getLogger(__name__)

# States of squeue(1) in which a job has ended for good; in all others it runs or will run.
_OVER = frozenset({
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
    "PREEMPTED", "TIMEOUT",
})  # fmt: skip
_ANSWER_SECONDS = 60.0
_SILENCE_SECONDS = 30.0


class NoAnswer(OSError):
    """SLURM is not installed here, or its controller did not answer."""


@dataclasses.dataclass(frozen=True)
class Job:
    """A job as the queue sees it.

    Args:
        id: ``12`` or ``12_3``.
        state: in SLURM's words, e.g. ``PENDING``.
        reason: why it waits or how it ended; the nodes of a running job.
    """

    id: str
    state: str
    reason: str = ""

    @property
    def is_over(self) -> bool:
        """Whether it has ended and SLURM will not restart it."""
        return self.state in _OVER

    @property
    def is_running(self) -> bool:
        """Whether it holds a node now."""
        return self.state in ("RUNNING", "COMPLETING", "CONFIGURING", "STAGE_OUT", "SUSPENDED")

    def describe(self) -> str:
        """Return the state and its reason as text."""
        words = self.state.lower().replace("_", " ")
        return f"{words} ({self.reason})" if self.reason not in ("", "None") else words


def is_available() -> bool:
    """Return whether this machine has SLURM's commands."""
    return shutil.which("sbatch") is not None and shutil.which("squeue") is not None


def current_job(environment: Mapping[str, str] | None = None) -> str | None:
    """Return the id of the job in which a launcher of this project started this process, or None.

    The shell of an allocation also has SLURM's variables, but it is not such a job.
    """
    env = os.environ if environment is None else environment
    if env.get("SUBMITIT_EXECUTOR") != "slurm" or "SLURM_JOB_ID" not in env:
        return None
    if "SLURM_ARRAY_JOB_ID" in env:
        return f"{env['SLURM_ARRAY_JOB_ID']}_{env['SLURM_ARRAY_TASK_ID']}"
    return env["SLURM_JOB_ID"]


def _call(*command: str, feed: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command of SLURM under a time limit.

    Raises:
        NoAnswer: if it is not installed, or the controller does not answer.
    """
    # A user's defaults (SQUEUE_USERS, …) would hide jobs.
    env = {k: v for k, v in os.environ.items() if not k.startswith(("SQUEUE_", "SACCT_"))}
    try:
        done = subprocess.run(
            command, input=feed, capture_output=True, text=True, check=False,
            timeout=_ANSWER_SECONDS,
            env={**env, "SLURM_BITSTR_LEN": "0"},  # prints `12_[0,2,4,…]` in full
        )  # fmt: skip
    except FileNotFoundError as error:
        raise NoAnswer(
            f"SLURM's `{command[0]}` must be on the PATH, but is not; load the cluster's module, "
            "or use hydra/launcher=local."
        ) from error
    except subprocess.TimeoutExpired as error:
        raise NoAnswer(f"`{command[0]}` did not answer within {_ANSWER_SECONDS:.0f} s.") from error
    if done.returncode and re.search(
        r"Unable to contact|Connection refused|Socket timed out|Zero Bytes were transmitted",
        done.stderr,
    ):
        raise NoAnswer(f"SLURM's controller does not answer ({_said(done)}).")
    return done


def _said(done: subprocess.CompletedProcess[str]) -> str:
    """Return the error messages of a command in one line."""
    lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    messages = [re.sub(r"^(sbatch|scancel|scontrol|squeue|allocation)?:? ?(error: )?", "", x)
            for x in lines]  # fmt: skip
    return "; ".join(dict.fromkeys(messages)) or f"exit code {done.returncode}"


_silent_until = -float("inf")  # SLURM did not answer: ask again after this time
_answers: dict[str, tuple[float, dict[str, Job]]] = {}  # array -> time of the answer, its elements


def queue(ids: Iterable[str], *, trust_seconds: float = 0.0) -> dict[str, Job]:
    """Return these jobs and all elements of their arrays as the queue reports them, in one call.

    Jobs that ended some minutes ago are missing, because SLURM forgets them.

    Args:
        ids: ``12`` or ``12_3``.
        trust_seconds: how long an earlier answer is reused.

    Raises:
        NoAnswer: if SLURM cannot be asked.
    """
    now = time.monotonic()
    arrays = sorted({identifier.partition("_")[0] for identifier in ids})
    never: tuple[float, dict[str, Job]] = (-float("inf"), {})
    stale = [a for a in arrays if now - _answers.get(a, never)[0] >= trust_seconds]
    if stale:
        fresh = _ask_queue(stale)
        _answers.update({array: (now, fresh[array]) for array in stale})
    return {job.id: job for array in arrays for job in _answers[array][1].values()}


def _ask_queue(arrays: Sequence[str]) -> dict[str, dict[str, Job]]:
    elements: dict[str, dict[str, Job]] = {array: {} for array in arrays}
    form = "%i|%T|%r|%N"
    done = _call("squeue", "-h", "-r", "-t", "all", "-o", form, "-j", ",".join(arrays))
    if done.returncode and "Invalid job id" not in done.stderr:  # the only job, already forgotten
        raise NoAnswer(f"`squeue` must list the jobs, but says: {_said(done)}.")
    for line in done.stdout.splitlines():
        identifier, state, reason, nodes = line.split("|", 3)
        job = Job(identifier, state, nodes if state == "RUNNING" else reason)
        elements[identifier.partition("_")[0]][identifier] = job
    return elements


def history(ids: Iterable[str]) -> dict[str, Job]:
    """Return how these jobs ended, from SLURM's accounting; empty if the cluster has none."""
    requested = set(ids)
    arrays = sorted({identifier.partition("_")[0] for identifier in requested})
    if not arrays or shutil.which("sacct") is None:
        return {}
    done = _call("sacct", "-n", "-X", "-P", "-o", "JobID,State,ExitCode,NodeList",
                 "-j", ",".join(arrays))  # fmt: skip
    jobs = {}
    for line in done.stdout.splitlines() if done.returncode == 0 else ():
        identifier, state, code, nodes = line.split("|", 3)
        # "CANCELLED by 1000"
        word, _, rest = state.partition(" ")
        reason = rest or (f"exit code {code} on {nodes}" if word in ("FAILED", "NODE_FAIL") else "")
        for element in _elements(identifier):
            jobs[element] = Job(element, word, reason)
    # An element that was cancelled while pending has no row of its own; its array has one.
    rows = {i: i if i in jobs else i.partition("_")[0] for i in requested}
    return {i: jobs[row] for i, row in rows.items() if row in jobs}


def _elements(identifier: str) -> list[str]:
    """Return the elements of ``12_[0-2,5%1]``; any other id is returned alone."""
    match = re.fullmatch(r"(\d+)_\[([\d,-]+)(%\d+)?\]", identifier)
    if match is None:
        return [identifier]
    ranges = [part.partition("-") for part in match[2].split(",")]
    return [f"{match[1]}_{i}" for a, _, b in ranges for i in range(int(a), int(b or a) + 1)]


def may_run(job: str, *, trust_seconds: float = 5.0) -> bool:
    """Return whether a job runs or will run; true if SLURM does not answer.

    Args:
        job: ``12`` or ``12_3``.
        trust_seconds: how long an earlier answer is reused.
    """
    global _silent_until
    if time.monotonic() < _silent_until:
        return True
    array = job.partition("_")[0]
    try:
        queue([array], trust_seconds=trust_seconds)
    except NoAnswer as error:
        log.warning("job %s is assumed to be alive: %s", job, error)
        _silent_until = time.monotonic() + _SILENCE_SECONDS
        return True
    element = _answers[array][1].get(job)
    return element is not None and not element.is_over


def requeue(job: str) -> str | None:
    """Put this process's job back into the queue; return the error message if that fails."""
    try:
        done = _call("scontrol", "requeue", job)
    except NoAnswer as error:
        return str(error)
    return _said(done) if done.returncode else None


def cancel(jobs: Sequence[str]) -> str | None:
    """Cancel jobs or elements of arrays; return SLURM's error messages, if any."""
    complaints = []
    for start in range(0, len(jobs), 500):  # the length of a command line is limited
        done = _call("scancel", *jobs[start : start + 500])
        if done.returncode or done.stderr.strip():
            complaints.append(_said(done))
    return "; ".join(complaints) or None


def test(batch_file: str) -> tuple[bool, str]:
    """Return whether SLURM would accept a batch file, and its message; nothing is submitted."""
    done = _call("sbatch", "--test-only", feed=batch_file)
    return done.returncode == 0, _said(done)


@functools.cache
def configuration() -> dict[str, str]:
    """Return the cluster's settings.

    Raises:
        NoAnswer: if SLURM cannot be asked.
    """
    lines = _call("scontrol", "show", "config").stdout.splitlines()
    return {key.strip(): value.strip() for key, _, value in (x.partition("=") for x in lines)}


def largest_array() -> int:
    """Return how many elements an array may have (``MaxArraySize``)."""
    return max(int(configuration().get("MaxArraySize", "1001")), 1)  # SLURM's default


def hides_others() -> bool:
    """Return whether users see only their own jobs (``PrivateData``); true if unknown."""
    try:
        return "jobs" in configuration().get("PrivateData", "")
    except NoAnswer:
        return True


def user() -> str:
    """Return the name of the user that this process works for."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a user database
        return str(os.getuid())
