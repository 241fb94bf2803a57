"""Claims: of several processes that meet on one run, one computes it.

A claim is a file ``claim.json`` in the run's folder, created exclusively. Its owner is
host + boot + process (+ the process's start time, since process numbers come round again) and
touches the file twice a minute. A claim is dead if its process is gone (same host and boot), its
host has booted since, or its heartbeat stopped long ago (another host). A dead claim is taken over
by renaming it away first: the rename succeeds for one process only.
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

HEARTBEAT_SECONDS = 30.0
DEAD_AFTER_SECONDS = 600.0
_BOOT = Path("/proc/sys/kernel/random/boot_id")


def _started(pid: int) -> str | None:
    """Return when a process of this host started, in clock ticks since boot; None if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    # After the name come the state (field 3 of proc(5)) and, as field 22, the start time.
    return None if fields[0] == "Z" else fields[19]


def owner() -> dict[str, Any]:
    """Return who this process is."""
    boot = _BOOT.read_text().strip() if _BOOT.exists() else ""
    pid = os.getpid()
    return {"host": socket.gethostname(), "boot": boot, "pid": pid, "started": _started(pid)}


def is_alive(path: Path) -> bool:
    """Return whether the process that owns the claim at ``path`` may still be working."""
    try:
        claim = json.loads(path.read_text())
        age = time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return False
    except ValueError:  # created, but not yet filled
        return time.time() - path.stat().st_mtime < HEARTBEAT_SECONDS
    me = owner()
    if claim["host"] != me["host"]:
        return age < DEAD_AFTER_SECONDS
    return bool(claim["boot"] == me["boot"] and _started(claim["pid"]) == claim["started"])


def _try_claim(path: Path) -> bool:
    """Create the claim if nobody holds it; a dead one is moved out of the way first."""
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
    # A link appears whole or not at all, so nobody ever reads half a claim.
    draft = path.with_name(f".claim.{uuid.uuid4().hex[:8]}.tmp")
    draft.write_text(json.dumps(owner()))
    try:
        os.link(draft, path)
    except FileExistsError:
        return False
    finally:
        draft.unlink(missing_ok=True)
    return True


@contextlib.contextmanager
def claimed(
    folder: Path, *, finished: Callable[[], bool], waiting: Callable[[dict[str, Any]], None]
) -> Iterator[bool]:
    """Hold the folder's claim, waiting while a live process holds it.

    Args:
        folder: the run's folder, created if missing.
        finished: asked while waiting; once true there is nothing left to do.
        waiting: called once, with the other owner, when there is one to wait for.

    Yields:
        True if the claim is ours, False if another process finished the run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "claim.json"
    told = False
    while not _try_claim(path):
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
    try:
        yield not finished()
    finally:
        stop.set()
        path.unlink(missing_ok=True)


def _heartbeat(path: Path, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_SECONDS):
        try:
            os.utime(path)
        except OSError:
            return
