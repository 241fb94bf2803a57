"""Claims: when several processes want the same run, exactly one computes it.

A claim is a file ``claim.json`` in the run's folder, created exclusively. Its owner is one of:

* a SLURM job, from its submission on and through requeues; the claim is alive while the queue knows
  the job;
* a process, identified by host, boot id, PID namespace, process number and start time (process
  numbers are reused). The process touches the file twice a minute. On the same host and in the same
  namespace, the claim is dead if the process is gone or the host has rebooted. On another host, or
  in another container of this host, it is dead if the file's time differs too much from the current
  time, in either direction because clocks differ.

To take over a dead claim, a process first renames it; the rename succeeds for one process only. So
no file locks are needed, which many network file systems lack. A claim holds a token of the process
that made it, and only that process, or the job it was made for, removes it. An unreadable file is
treated as a claim that is still being written: alive for ``HEARTBEAT_SECONDS``.
"""

import contextlib
import json
import logging
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ssl_transfer.system import slurm
from ssl_transfer.system.signals import Interrupted

log = logging.getLogger(__name__)

NAME = "claim.json"
SCHEMA = 1
SUBMISSION = "SSL_TRANSFER_SUBMISSION"
"""Environment variable in a job: the submission that made the claims on its runs."""
LOG = "SSL_TRANSFER_LOG"
"""Environment variable of a process that a launcher started: the file its output goes to."""
HEARTBEAT_SECONDS = 30.0
DEAD_AFTER_SECONDS = 600.0
HIDDEN_SECONDS = 86400.0
"""How long another user's job counts as alive where the queue hides other users' jobs."""
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_NAMESPACE = Path("/proc/self/ns/pid")
_JOB = re.compile(r"\d+(_\d+)?")
_tokens: dict[Path, str] = {}
"""Claims that this process made and has not given up."""


def _started(pid: int) -> str | None:
    """Return when a process of this host started, in clock ticks since boot; None if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    # After the name come the state (field 3 of proc(5)) and, as field 22, the start time.
    return None if fields[0] == "Z" else fields[19]


def owner(*, alone: bool = False) -> dict[str, Any]:
    """Return the claim of this process, or of its job.

    Args:
        alone: whether to leave out the job, so that the claim is the process's own.
    """
    boot = _BOOT.read_text().strip() if _BOOT.exists() else ""
    pid = os.getpid()
    try:
        namespace = str(_NAMESPACE.readlink())
    except OSError:
        namespace = ""
    me = {
        "schema": SCHEMA, "host": socket.gethostname(), "boot": boot, "namespace": namespace,
        "pid": pid, "started": _started(pid),
    }  # fmt: skip
    if not alone and (job := slurm.current_job()):
        me |= {"job": job, "user": slurm.user(), "submission": os.environ.get(SUBMISSION, "")}
    if path := os.environ.get(LOG):
        me["log"] = path
    return me


def read(folder: Path) -> dict[str, Any] | None:
    """Return the claim on a run's folder; None if there is no valid claim."""
    return _parse(folder / NAME)


def _parse(path: Path) -> dict[str, Any] | None:
    try:
        claim = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(claim, dict) or not isinstance(claim.get("log"), str | None):
        return None
    if "job" in claim:
        fits = isinstance(claim["job"], str) and bool(_JOB.fullmatch(claim["job"]))
        return claim if fits and isinstance(claim.get("user", ""), str) else None
    kinds = {"host": str, "boot": str, "pid": int, "started": str | None}
    fits = all(key in claim and isinstance(claim[key], kind) for key, kind in kinds.items())
    return claim if fits else None


def is_alive(path: Path) -> bool:
    """Return whether the job or process that owns the claim at ``path`` may still be working."""
    try:
        age = abs(time.time() - path.lstat().st_mtime)
    except OSError:
        return False
    claim = _parse(path)
    if claim is None:  # created but not yet filled, or damaged
        return age < HEARTBEAT_SECONDS
    if "job" in claim:
        if slurm.may_run(claim["job"]):
            return True
        # Some clusters hide other users' jobs: believe the claim for a while.
        is_other_user = claim.get("user", slurm.user()) != slurm.user()
        return is_other_user and slurm.hides_others() and age < HIDDEN_SECONDS
    me = owner()
    if claim["host"] != me["host"] or claim.get("namespace", me["namespace"]) != me["namespace"]:
        return age < DEAD_AFTER_SECONDS
    return bool(claim["boot"] == me["boot"] and _started(claim["pid"]) == claim["started"])


def _is_ours(claim: dict[str, Any] | None) -> bool:
    """Return whether the claim belongs to the SLURM job of this process."""
    me = owner()
    if claim is None or "job" not in me:
        return False
    if "job" in claim:
        return bool(claim["job"] == me["job"])
    # The job started before the submitting process could write the job's id into the claim.
    return bool(me["submission"] and claim.get("submission") == me["submission"])


def try_claim(folder: Path, claim: dict[str, Any] | None = None) -> bool:
    """Claim a run's folder unless a live owner holds it; a dead claim is renamed first.

    Args:
        folder: the run's folder, created if missing.
        claim: the claim to write (``None``: that of this process or its job).

    Returns:
        Whether the claim is now ours.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME
    claim = {**(claim or owner()), "token": uuid.uuid4().hex}
    if _is_ours(read(folder)):
        _write(path, claim)
        _tokens[path] = claim["token"]
        return True
    if os.path.lexists(path) and not is_alive(path):
        grave = path.with_name(f".claim.{uuid.uuid4().hex[:8]}.tmp")
        try:
            path.rename(grave)
        except FileNotFoundError:
            return False  # another process was quicker
        if is_alive(grave):
            # The other process had already written its own claim: put that back.
            grave.rename(path)
            return False
        if _parse(grave) is None:
            log.warning("`%s` is not a valid claim; it is replaced", path)
        _bury(grave)
    if not _create(path, json.dumps(claim)):
        return False
    _tokens[path] = claim["token"]
    return True


def _bury(grave: Path) -> None:
    """Remove a dead claim; a folder instead of a file is left under its new name."""
    with contextlib.suppress(IsADirectoryError, PermissionError):
        grave.unlink(missing_ok=True)


def _create(path: Path, content: str) -> bool:
    """Create the file with its content unless it exists."""
    # A hard link appears with its whole content, so no process reads half a claim.
    draft = path.with_name(f".claim.{uuid.uuid4().hex[:8]}.tmp")
    draft.write_text(content)
    try:
        os.link(draft, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links: `is_alive` tolerates half a claim
        try:
            with path.open("x") as file:
                file.write(content)
        except FileExistsError:
            return False
    finally:
        draft.unlink(missing_ok=True)
    return True


def _write(path: Path, claim: dict[str, Any]) -> None:
    draft = path.with_name(f".claim.{uuid.uuid4().hex[:8]}.tmp")
    draft.write_text(json.dumps(claim))
    draft.replace(path)


def _is_mine(path: Path) -> bool:
    """Return whether this process made the claim at ``path``."""
    claim = _parse(path)
    return claim is not None and path in _tokens and claim.get("token") == _tokens[path]


def hand_over(folder: Path, claim: dict[str, Any]) -> None:
    """Replace a claim that this process holds by ``claim``, e.g. that of the submitted job."""
    if _is_mine(folder / NAME):  # otherwise the job has already started or finished
        _write(folder / NAME, claim)
    _tokens.pop(folder / NAME, None)


def describe(claim: dict[str, Any]) -> str:
    """Return the owner of a claim as text for messages."""
    if "job" in claim:
        return f"job {claim['job']}"
    return f"process {claim['pid']} on {claim['host']}"


def other(folder: Path) -> dict[str, Any] | None:
    """Return the live claim of another owner, or None."""
    claim = read(folder)
    if claim is None or _is_ours(claim) or not is_alive(folder / NAME):
        return None
    me = owner()
    keys = ("host", "boot", "namespace", "pid", "started")
    holder = {"namespace": me["namespace"], **claim}  # claims of older code lack it
    return None if all(holder.get(key) == me[key] for key in keys) else claim


def release(folder: Path) -> None:
    """Remove the claim if this process or its job owns it."""
    path = folder / NAME
    if _is_mine(path) or _is_ours(_parse(path)):
        path.unlink(missing_ok=True)
    _tokens.pop(path, None)


@contextlib.contextmanager
def claimed(
    folder: Path,
    *,
    finished: Callable[[], bool],
    waiting: Callable[[dict[str, Any]], None],
    alone: bool = False,
    again: Callable[[], object] | None = None,
) -> Iterator[bool]:
    """Hold the folder's claim; wait while another live owner holds it.

    Args:
        folder: the run's folder, created if missing.
        finished: called repeatedly while waiting; true means that no work is left.
        waiting: called once, with the other owner's claim, before the first wait.
        alone: whether the process rather than its job owns the claim: processes of one job then
            exclude each other, and the claim is removed when the job is interrupted.
        again: called at every wait.

    Yields:
        True if the claim is ours, False if another process finished the run.
    """
    path = folder / NAME
    announced = False
    while not try_claim(folder, owner(alone=True) if alone else None):
        if finished():
            yield False
            return
        if not announced and (holder := read(folder)) is not None:  # None if it was just released
            waiting(holder)
            announced = True
        if again is not None:
            again()
        time.sleep(0.5)
    stop = threading.Event()
    threading.Thread(target=_heartbeat, args=(path, stop), daemon=True).start()
    keep = False
    try:
        yield not finished()
    except Interrupted:
        # The job is requeued and continues, or the queue forgets it and the claim dies.
        keep = not alone and slurm.current_job() is not None
        raise
    finally:
        stop.set()
        if not keep and _is_mine(path):  # another process may have taken it over as dead
            path.unlink(missing_ok=True)
        _tokens.pop(path, None)


def _heartbeat(path: Path, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_SECONDS):
        try:
            if not _is_mine(path):
                return
            os.utime(path)
        except OSError:
            return
