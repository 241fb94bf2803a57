"""Slots: runs side by side on one computer, each slot a process that serves one run after another.

The local queue is made of them, and so is a SLURM job with ``runs_per_gpu``. Python and torch start
once per slot. A run whose process dies does not stop the others: the slot gets a new process.
"""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from ssl_transfer.runs import Run
from ssl_transfer.system import claims, provenance, signals

GRACE_SECONDS = 120.0
"""How long a slot may take to save after it was asked to stop."""


@dataclasses.dataclass(frozen=True)
class Slot:
    """A place for one run at a time.

    Args:
        log: file that the runs' output goes to.
        environment: variables that differ from this process's.
    """

    log: Path
    environment: dict[str, str]


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    gpus = [line for line in listed.stdout.splitlines() if line.startswith("GPU ")]
    return [str(number) for number in range(len(gpus))]


def slots_for(
    logs: Sequence[Path], *, gpus: Sequence[str], threads: int | None = None
) -> list[Slot]:
    """Return a slot per log file, the GPUs and the cores shared out evenly.

    Args:
        logs: one file per slot.
        gpus: as ``CUDA_VISIBLE_DEVICES`` names them; empty: none.
        threads: CPU threads per slot (``None``: the cores shared out, or as OMP_NUM_THREADS says).
    """
    cores = len(os.sched_getaffinity(0))
    fair = os.environ.get("OMP_NUM_THREADS", str(max(1, cores // len(logs))))
    shared = {"OMP_NUM_THREADS": fair if threads is None else str(threads)}
    return [
        Slot(log, shared | ({"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} if gpus else {}))
        for i, log in enumerate(logs)
    ]


def serve(
    runs: Iterable[Run],
    slots: Sequence[Slot],
    *,
    done: Callable[[Run, dict[str, Any]], None] = lambda run, answer: None,
) -> dict[str, str]:
    """Carry out runs in the slots; return run id -> why it has no record.

    A run waits for those of its requirements that are among the runs. A signal, or Ctrl-C, stops
    the slots where they can go on and is raised when they have saved.

    Args:
        runs: requirements first.
        slots: places for them.
        done: called with each run and what its process said: ``failure`` and ``said``.

    Raises:
        Interrupted: after SIGTERM or SIGUSR2.
        KeyboardInterrupt: after Ctrl-C.
    """
    queue = _Queue(list(runs))
    workers = [_Worker(slot, queue, done) for slot in slots]
    with signals.stoppable():
        try:
            for worker in workers:
                worker.start()
            while True:
                alive = any(worker.is_alive() for worker in workers)
                for error in filter(None, (worker.error for worker in workers)):
                    raise error
                if not alive:
                    return queue.failures
                # Not `Thread.join`: a signal that raises inside lets Python take the thread for
                # ended, and its process would be killed instead of waited for.
                time.sleep(0.05)
        except BaseException:
            _stop(workers, queue)
            raise


def _stop(workers: Sequence["_Worker"], queue: "_Queue") -> None:
    """Ask every slot to stop where it can go on; kill those that take too long, or at Ctrl-C."""
    queue.close()
    for worker in workers:
        worker.signal(signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    with contextlib.suppress(KeyboardInterrupt):
        while any(worker.is_alive() for worker in workers) and time.monotonic() < deadline:
            time.sleep(0.05)
    for worker in workers:
        worker.signal(signal.SIGKILL)
        worker.join()


class _Queue:
    """Which run is next: the first whose requirements are settled."""

    def __init__(self, runs: list[Run]) -> None:
        self.waiting = runs
        self.unsettled = {run.id for run in runs}
        self.failures: dict[str, str] = {}
        self.closed = False
        self.changed = threading.Condition()

    def next(self) -> Run | None:
        """Return a run to carry out, waiting until one is ready; None if there is no more."""
        with self.changed:
            while self.waiting and not self.closed:
                for run in self.waiting:
                    if not any(required.id in self.unsettled for required in run.requirements):
                        self.waiting.remove(run)
                        return run
                self.changed.wait()
            return None

    def settle(self, run: Run, failure: str | None) -> None:
        """Note how a run ended."""
        with self.changed:
            self.unsettled.discard(run.id)
            if failure is not None:
                self.failures[run.id] = failure
            self.changed.notify_all()

    def close(self) -> None:
        """Hand out nothing any more."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()


class _Worker(threading.Thread):
    """The slot's thread: feeds its process with runs and listens to it."""

    def __init__(
        self, slot: Slot, queue: _Queue, done: Callable[[Run, dict[str, Any]], None]
    ) -> None:
        super().__init__(daemon=True)
        self.slot, self.queue, self.done = slot, queue, done
        self.process: subprocess.Popen[str] | None = None
        self.error: Exception | None = None

    def run(self) -> None:
        """Serve runs until there are none; an error here ends the whole queue and is kept."""
        try:
            while (run := self.queue.next()) is not None:
                answer = self._run_one(run)
                self.queue.settle(run, answer.get("failure"))
                self.done(run, answer)
        except Exception as error:  # no log file, no process, nobody who reads what `done` prints
            self.error = error
            self.queue.close()
        if self.process is not None:
            _part(self.process)

    def _run_one(self, run: Run) -> dict[str, Any]:
        if self.process is None:
            self.process = self._start()
            if self.queue.closed:  # while it started: the signal to stop did not reach it
                self.process.terminate()
        process = self.process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(run.config) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if answer:
            return dict(json.loads(answer))
        code = _part(process)
        self.process = None
        if code == signals.EXIT_CODE or self.queue.closed:
            return {"failure": "it was interrupted; the same command goes on where it stopped"}
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        why = ", perhaps for want of memory" if code == -signal.SIGKILL else ""
        return {"failure": f"its process was lost ({how}{why}); see `{self.slot.log}`"}

    def _start(self) -> subprocess.Popen[str]:
        self.slot.log.parent.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, **self.slot.environment, claims.LOG: str(self.slot.log)}
        environment["PYTHONPATH"] = provenance.search_path()
        with self.slot.log.open("a") as log:
            return subprocess.Popen(
                [sys.executable, "-P", "-m", "launchers.worker"],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # Ctrl-C reaches this process, which asks the slots to stop
            )

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the slot's process, if it has one."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)


def _part(process: subprocess.Popen[str]) -> int:
    """Let a slot's process end, or find it ended; return its exit code."""
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    code = process.wait()
    process.stdout.close()
    return code
