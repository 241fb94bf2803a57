"""Slots: parallel execution of runs on one computer; each slot's process executes run after run.

The local launcher and SLURM jobs with ``runs_per_gpu`` use slots. Python and torch start only once
per slot. If the process of a run dies, the slot starts a new process and the other runs continue.
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
"""How long a slot may take to save after the signal to stop."""


@dataclasses.dataclass(frozen=True)
class Slot:
    """A place for one run at a time.

    Args:
        log: file for the runs' output.
        environment: environment variables that differ from those of this process.
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
    output = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    gpus = [line for line in output.stdout.splitlines() if line.startswith("GPU ")]
    return [str(number) for number in range(len(gpus))]


def slots_for(
    logs: Sequence[Path], *, gpus: Sequence[str], threads: int | None = None
) -> list[Slot]:
    """Return one slot per log file; the GPUs and the cores are divided evenly.

    Args:
        logs: one file per slot.
        gpus: as ``CUDA_VISIBLE_DEVICES`` names them; may be empty.
        threads: CPU threads per slot (``None``: OMP_NUM_THREADS, or an equal share of the cores).
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
    """Execute runs in the slots; return run id -> reason why it has no record.

    A run waits for its requirements if they are among the runs. After a signal or Ctrl-C, the slots
    save their runs and stop; then the exception is raised.

    Args:
        runs: requirements first.
        slots: the slots.
        done: called with each run and its process's answer (keys ``failure`` and ``said``).

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
                # Not `Thread.join`: if a signal raises inside it, Python considers the thread
                # ended, and its process would be killed before it has saved.
                time.sleep(0.05)
        except BaseException:
            _stop(workers, queue)
            raise


def _stop(workers: Sequence["_Worker"], queue: "_Queue") -> None:
    """Ask every slot to save and stop; kill slots that take too long, or all after Ctrl-C."""
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
    """Queue of runs; the next one is the first whose requirements have ended.

    A run that another command executes at this moment comes last, since its slot would wait.
    """

    def __init__(self, runs: list[Run]) -> None:
        self.waiting = runs
        self.unsettled = {run.id for run in runs}
        self.failures: dict[str, str] = {}
        self.closed = False
        self.changed = threading.Condition()

    def next(self) -> Run | None:
        """Return the next run, waiting until one is ready; None if there are no more."""
        with self.changed:
            while self.waiting and not self.closed:
                if (run := self._chosen()) is not None:
                    self.waiting.remove(run)
                    return run
                self.changed.wait()
            return None

    def _chosen(self) -> Run | None:
        """Return the run that a slot takes now; None if none is ready."""
        claimed = None
        for run in self.waiting:
            if any(required.id in self.unsettled for required in run.requirements):
                continue
            if not claims.is_alive(run.folder / claims.NAME):
                return run
            claimed = claimed or run
        return claimed

    def settle(self, run: Run, failure: str | None) -> None:
        """Record that a run has ended, and its failure."""
        with self.changed:
            self.unsettled.discard(run.id)
            if failure is not None:
                self.failures[run.id] = failure
            self.changed.notify_all()

    def close(self) -> None:
        """Stop returning runs."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()


class _Worker(threading.Thread):
    """Thread of a slot: sends runs to the slot's process and receives the answers."""

    def __init__(
        self, slot: Slot, queue: _Queue, done: Callable[[Run, dict[str, Any]], None]
    ) -> None:
        super().__init__(daemon=True)
        self.slot, self.queue, self.done = slot, queue, done
        self.process: subprocess.Popen[str] | None = None
        self.error: Exception | None = None

    def run(self) -> None:
        """Execute runs until the queue is empty; an error here is stored and closes the queue."""
        try:
            while (run := self.queue.next()) is not None:
                answer = self._run_one(run)
                self.queue.settle(run, answer.get("failure"))
                self.done(run, answer)
        except Exception as error:  # e.g. no log file, no process, or a closed standard output
            self.error = error
            self.queue.close()
        if self.process is not None:
            _part(self.process)

    def _run_one(self, run: Run) -> dict[str, Any]:
        if self.process is None:
            self.process = self._start()
            if self.queue.closed:  # the stop signal came before the process existed
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
        why = ", perhaps because memory ran out" if code == -signal.SIGKILL else ""
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
                start_new_session=True,  # only this process receives Ctrl-C; it stops the slots
            )

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the slot's process, if it runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)


def _part(process: subprocess.Popen[str]) -> int:
    """Close the input of a slot's process, wait for its end, and return its exit code."""
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    code = process.wait()
    process.stdout.close()
    return code
