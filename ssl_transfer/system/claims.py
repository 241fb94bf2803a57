"""Claims: of several processes that meet on one run, one computes it.

A claim is a file ``claim.json`` in the run's folder, created exclusively. Its owner is a SLURM job
(from its submission on, through requeues), alive while the queue knows it; or a process: host +
boot + PID namespace + process number (+ its start time, since process numbers come round again),
which touches the file twice a minute. A process's claim is dead if the process is gone (same host,
boot and namespace), its host has booted since, or its heartbeat is far from now (another host, or
another container of this one), be that in the past or, where clocks differ, in the future.

A dead claim is taken over by renaming it away first: the rename succeeds for one process only. No
file locks are needed, which network file systems often lack. A claim carries a token of its maker's
and only who made it (or the job that it was made for) gives it up. What is no claim counts as half
of one: alive for as long as writing the rest may take.
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
"""For how long another user's job is believed in, where the queue does not show it."""
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
    """Return who this process is, or works for (``alone``: without a word of its job)."""
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
    """Return the claim on a run's folder; None if there is none, or something that is none."""
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
    if claim is None:  # created, but not yet filled; or damaged
        return age < HEARTBEAT_SECONDS
    if "job" in claim:
        if slurm.may_run(claim["job"]):
            return True
        # Other users' jobs cannot be seen everywhere; give them time.
        theirs = claim.get("user", slurm.user()) != slurm.user()
        return theirs and slurm.hides_others() and age < HIDDEN_SECONDS
    me = owner()
    if claim["host"] != me["host"] or claim.get("namespace", me["namespace"]) != me["namespace"]:
        return age < DEAD_AFTER_SECONDS
    return bool(claim["boot"] == me["boot"] and _started(claim["pid"]) == claim["started"])


def _is_ours(claim: dict[str, Any] | None) -> bool:
    """Return whether the claim is that of this process's job, made by the submission or earlier."""
    me = owner()
    if claim is None or "job" not in me:
        return False
    if "job" in claim:
        return bool(claim["job"] == me["job"])
    # The job started before its submission could write down the job's id.
    return bool(me["submission"] and claim.get("submission") == me["submission"])


def try_claim(folder: Path, claim: dict[str, Any] | None = None) -> bool:
    """Claim a run's folder if nobody alive holds it; a dead claim is moved out of the way first.

    Args:
        folder: of the run, created if missing.
        claim: what the claim says (``None``: this process, or its job).
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
            # Quicker still: it had already put its own claim there, which is given back.
            grave.rename(path)
            return False
        if _parse(grave) is None:
            log.warning("`%s` was no claim of a job or a process; it is replaced", path)
        _bury(grave)
    if not _create(path, json.dumps(claim)):
        return False
    _tokens[path] = claim["token"]
    return True


def _bury(grave: Path) -> None:
    """Remove a dead claim; a folder in a claim's place is left under its new name."""
    with contextlib.suppress(IsADirectoryError, PermissionError):
        grave.unlink(missing_ok=True)


def _create(path: Path, content: str) -> bool:
    """Create the file with its content unless it exists."""
    # A link appears whole or not at all, so nobody ever reads half a claim.
    draft = path.with_name(f".claim.{uuid.uuid4().hex[:8]}.tmp")
    draft.write_text(content)
    try:
        os.link(draft, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links: `is_alive` allows for half a claim
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
    """Return whether the claim at ``path`` is the one that this process made."""
    claim = _parse(path)
    return claim is not None and path in _tokens and claim.get("token") == _tokens[path]


def hand_over(folder: Path, claim: dict[str, Any]) -> None:
    """Let a claim that this process holds belong to ``claim``, e.g. to the job just submitted."""
    if _is_mine(folder / NAME):  # else the job was quick enough to have begun or finished
        _write(folder / NAME, claim)
    _tokens.pop(folder / NAME, None)


def describe(claim: dict[str, Any]) -> str:
    """Return who owns a claim, in words."""
    if "job" in claim:
        return f"job {claim['job']}"
    return f"process {claim['pid']} on {claim['host']}"


def other(folder: Path) -> dict[str, Any] | None:
    """Return the claim of somebody else alive, or None."""
    claim = read(folder)
    if claim is None or _is_ours(claim) or not is_alive(folder / NAME):
        return None
    me = owner()
    same = ("host", "boot", "namespace", "pid", "started")
    theirs = {"namespace": me["namespace"], **claim}  # older code did not note it
    return None if all(theirs.get(key) == me[key] for key in same) else claim


def release(folder: Path) -> None:
    """Give up the claim if this process made it, or if it is that of this process's job."""
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
) -> Iterator[bool]:
    """Hold the folder's claim, waiting while a live process holds it.

    Args:
        folder: the run's folder, created if missing.
        finished: asked while waiting; once true there is nothing left to do.
        waiting: called once, with the other owner, when there is one to wait for.
        alone: whether the claim is this process's alone: processes of one job exclude each other,
            too, and nothing is kept for the job's next turn.

    Yields:
        True if the claim is ours, False if another process finished the run.
    """
    path = folder / NAME
    told = False
    while not try_claim(folder, owner(alone=True) if alone else None):
        if finished():
            yield False
            return
        if not told and (holder := read(folder)) is not None:  # it may just have been released
            waiting(holder)
            told = True
        time.sleep(0.5)
    stop = threading.Event()
    threading.Thread(target=_heartbeat, args=(path, stop), daemon=True).start()
    keep = False
    try:
        yield not finished()
    except Interrupted:
        # The job comes back, or the queue forgets it.
        keep = not alone and slurm.current_job() is not None
        raise
    finally:
        stop.set()
        if not keep and _is_mine(path):  # not if somebody took it over, who took us for dead
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
