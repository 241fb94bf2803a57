"""Claims: of several processes that meet on one run, one computes it.

A claim is a file ``claim.json`` in the run's folder, created exclusively. Its owner is a SLURM job
(from its submission on, through requeues), alive while the queue knows it; or a process: host +
boot + process number (+ its start time, since process numbers come round again), which touches the
file twice a minute. A process's claim is dead if the process is gone (same host and boot), its host
has booted since, or its heartbeat stopped long ago (another host). A dead claim is taken over by
renaming it away first: the rename succeeds for one process only. No file locks are needed, which
network file systems often lack.
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ssl_transfer import cluster
from ssl_transfer.stopping import Interrupted

NAME = "claim.json"
SUBMISSION = "SSL_TRANSFER_SUBMISSION"
"""Environment variable in a job: the submission that made the claims on its runs."""
LOG = "SSL_TRANSFER_LOG"
"""Environment variable of a process that a launcher started: the file its output goes to."""
HEARTBEAT_SECONDS = 30.0
DEAD_AFTER_SECONDS = 600.0
HIDDEN_SECONDS = 86400.0
"""For how long another user's job is believed in, where the queue does not show it."""
_BOOT = Path("/proc/sys/kernel/random/boot_id")


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
    me = {"host": socket.gethostname(), "boot": boot, "pid": pid, "started": _started(pid)}
    if not alone and (job := cluster.current_job()):
        me |= {"job": job, "user": cluster.user(), "submission": os.environ.get(SUBMISSION, "")}
    if path := os.environ.get(LOG):
        me["log"] = path
    return me


def read(folder: Path) -> dict[str, Any] | None:
    """Return the claim on a run's folder, or None."""
    try:
        return dict(json.loads((folder / NAME).read_text()))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def is_alive(path: Path) -> bool:
    """Return whether the job or process that owns the claim at ``path`` may still be working."""
    try:
        claim = json.loads(path.read_text())
        age = time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return False
    except ValueError:  # created, but not yet filled
        return time.time() - path.stat().st_mtime < HEARTBEAT_SECONDS
    if "job" in claim:
        if cluster.may_run(claim["job"]):
            return True
        # Other users' jobs cannot be seen everywhere; give them time.
        theirs = claim.get("user", cluster.user()) != cluster.user()
        return theirs and cluster.hides_others() and age < HIDDEN_SECONDS
    me = owner()
    if claim["host"] != me["host"]:
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
    if _is_ours(read(folder)):
        _write(path, claim or owner())
        return True
    if path.exists() and not is_alive(path):
        grave = path.with_name(f".claim.{uuid.uuid4().hex[:8]}.tmp")
        try:
            path.rename(grave)
        except FileNotFoundError:
            return False  # another process was quicker
        if is_alive(grave):
            # Quicker still: it had already put its own claim there, which is given back.
            grave.rename(path)
            return False
        grave.unlink(missing_ok=True)
    return _create(path, json.dumps(claim or owner()))


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


def hand_over(folder: Path, claim: dict[str, Any]) -> None:
    """Let a claim that this process holds belong to ``claim``, e.g. to the job just submitted."""
    if (folder / NAME).exists():  # else the job was quick enough to have finished
        _write(folder / NAME, claim)


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
    same = ("host", "boot", "pid", "started")
    return None if all(claim.get(key) == me[key] for key in same) else claim


def release(folder: Path) -> None:
    """Give up a claim that this process holds."""
    (folder / NAME).unlink(missing_ok=True)


def release_own(folder: Path) -> None:
    """Give up the claim if it is that of this process's job."""
    if _is_ours(read(folder)):
        release(folder)


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
        if not told:
            with contextlib.suppress(OSError, ValueError):  # it may just have been released
                waiting(json.loads(path.read_text()))
                told = True
        time.sleep(0.5)
    stop = threading.Event()
    threading.Thread(target=_heartbeat, args=(path, stop), daemon=True).start()
    keep = False
    try:
        yield not finished()
    except Interrupted:
        # The job comes back, or the queue forgets it.
        keep = not alone and cluster.current_job() is not None
        raise
    finally:
        stop.set()
        if not keep:
            path.unlink(missing_ok=True)


def _heartbeat(path: Path, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_SECONDS):
        try:
            os.utime(path)
        except OSError:
            return
