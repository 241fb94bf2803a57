"""What SLURM's commands say: the one place that calls them.

A job is spoken of as ``12``, an element of an array as ``12_3``.
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

# States of squeue(1) in which a job is over for good; everything else still does, or will do, work.
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
        state: SLURM's word for it, e.g. ``PENDING``.
        reason: why it waits, or ended as it did; where it runs.
    """

    id: str
    state: str
    reason: str = ""

    @property
    def is_over(self) -> bool:
        """Whether it will never run again by itself."""
        return self.state in _OVER

    @property
    def is_running(self) -> bool:
        """Whether it holds a node now."""
        return self.state in ("RUNNING", "COMPLETING", "CONFIGURING", "STAGE_OUT", "SUSPENDED")

    def describe(self) -> str:
        """Return the state and its reason in words."""
        words = self.state.lower().replace("_", " ")
        return f"{words} ({self.reason})" if self.reason not in ("", "None") else words


def is_available() -> bool:
    """Return whether this machine has SLURM's commands."""
    return shutil.which("sbatch") is not None and shutil.which("squeue") is not None


def current_job(environment: Mapping[str, str] | None = None) -> str | None:
    """Return the id of the job that a launcher of this project started this process in, or None.

    Shells of an allocation have SLURM's variables, too, but outlive what is started in them.
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
            env={**env, "SLURM_BITSTR_LEN": "0"},  # `12_[0,2,4,…]` whole, not its beginning
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
    """Return what a command complained about, in one line."""
    lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    told = [re.sub(r"^(sbatch|scancel|scontrol|squeue|allocation)?:? ?(error: )?", "", x)
            for x in lines]  # fmt: skip
    return "; ".join(dict.fromkeys(told)) or f"exit code {done.returncode}"


_silent_until = -float("inf")  # no answer lately: do not ask again before
_answers: dict[str, tuple[float, dict[str, Job]]] = {}  # array -> when asked, its elements


def queue(ids: Iterable[str], *, trust_seconds: float = 0.0) -> dict[str, Job]:
    """Return what the queue knows of these jobs and of all elements of their arrays; one call.

    Jobs that SLURM has forgotten (some minutes after their end) are missing.

    Args:
        ids: ``12`` or ``12_3``.
        trust_seconds: for how long an earlier answer is believed.

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
    found: dict[str, dict[str, Job]] = {array: {} for array in arrays}
    form = "%i|%T|%r|%N"
    done = _call("squeue", "-h", "-r", "-t", "all", "-o", form, "-j", ",".join(arrays))
    if done.returncode and "Invalid job id" not in done.stderr:  # a single forgotten one
        raise NoAnswer(f"`squeue` must list the jobs, but says: {_said(done)}.")
    for line in done.stdout.splitlines():
        identifier, state, reason, nodes = line.split("|", 3)
        job = Job(identifier, state, nodes if state == "RUNNING" else reason)
        found[identifier.partition("_")[0]][identifier] = job
    return found


def history(ids: Iterable[str]) -> dict[str, Job]:
    """Return how these jobs ended by accounting; empty where the cluster keeps no accounts."""
    asked = set(ids)
    wanted = sorted({identifier.partition("_")[0] for identifier in asked})
    if not wanted or shutil.which("sacct") is None:
        return {}
    done = _call("sacct", "-n", "-X", "-P", "-o", "JobID,State,ExitCode,NodeList",
                 "-j", ",".join(wanted))  # fmt: skip
    found = {}
    for line in done.stdout.splitlines() if done.returncode == 0 else ():
        identifier, state, code, nodes = line.split("|", 3)
        # "CANCELLED by 1000"
        word, _, rest = state.partition(" ")
        reason = rest or (f"exit code {code} on {nodes}" if word in ("FAILED", "NODE_FAIL") else "")
        for element in _elements(identifier):
            found[element] = Job(element, word, reason)
    # An element that was cancelled while it waited has no row of its own, but its array has.
    known = {i: i if i in found else i.partition("_")[0] for i in asked}
    return {i: found[row] for i, row in known.items() if row in found}


def _elements(identifier: str) -> list[str]:
    """Return the single elements of ``12_[0-2,5%1]``; anything else stands for itself."""
    match = re.fullmatch(r"(\d+)_\[([\d,-]+)(%\d+)?\]", identifier)
    if match is None:
        return [identifier]
    ranges = [part.partition("-") for part in match[2].split(",")]
    return [f"{match[1]}_{i}" for a, _, b in ranges for i in range(int(a), int(b or a) + 1)]


def may_run(job: str, *, trust_seconds: float = 5.0) -> bool:
    """Return whether a job runs or will run; true where SLURM cannot be asked.

    Args:
        job: ``12`` or ``12_3``.
        trust_seconds: for how long an earlier answer is believed.
    """
    global _silent_until
    if time.monotonic() < _silent_until:
        return True
    array = job.partition("_")[0]
    try:
        queue([array], trust_seconds=trust_seconds)
    except NoAnswer as error:
        log.warning("job %s is taken for alive: %s", job, error)
        _silent_until = time.monotonic() + _SILENCE_SECONDS
        return True
    found = _answers[array][1].get(job)
    return found is not None and not found.is_over


def requeue(job: str) -> str | None:
    """Send the job that this process belongs to back to the queue; return why that failed."""
    try:
        done = _call("scontrol", "requeue", job)
    except NoAnswer as error:
        return str(error)
    return _said(done) if done.returncode else None


def cancel(jobs: Sequence[str]) -> str | None:
    """Cancel jobs or elements of arrays; return what SLURM complained about."""
    complaints = []
    for start in range(0, len(jobs), 500):  # a command line has a limit, too
        done = _call("scancel", *jobs[start : start + 500])
        if done.returncode or done.stderr.strip():
            complaints.append(_said(done))
    return "; ".join(complaints) or None


def test(batch_file: str) -> tuple[bool, str]:
    """Return whether SLURM would accept a batch file, and what it says; nothing is submitted."""
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
    """Return whether users see their own jobs only (``PrivateData``); true if that is unknown."""
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
