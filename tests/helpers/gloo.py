"""One pool of gloo processes for the whole test session."""

import os
import pickle
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any

import pytest
import torch
from processes import prepared

START_TIMEOUT_S = 200.0  # a busy computer imports torch for a minute
GRACE_S = 3.0  # for the other ranks' answers after a failure


def _serve(pipe: Connection, rank: int, world_size: int, port: int) -> None:
    """Run functions on request as one of ``world_size`` processes, started as by torchrun."""
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    from ssl_transfer.system import distributed

    torch.set_num_threads(1)
    distributed.start("cpu", timeout_minutes=2.0)
    pipe.send_bytes(b"ready")
    while True:
        try:
            function, arguments = pickle.loads(pipe.recv_bytes())
        except EOFError:
            return
        try:
            answer = pickle.dumps((True, function(*arguments)))
        except Exception as error:
            error.add_note("".join(traceback.format_exception(error)))
            try:
                answer = pickle.dumps((False, error))
            except Exception:
                answer = pickle.dumps((False, RuntimeError(traceback.format_exc())))
        pipe.send_bytes(answer)


class _Workers:
    """Processes that form one group."""

    def __init__(self, world_size: int) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        context = prepared()
        self.pipes: list[Connection] = []
        self.processes: list[Any] = []
        for rank in range(world_size):
            here, there = context.Pipe()
            process = context.Process(
                target=_serve, args=(there, rank, world_size, port), daemon=True
            )
            process.start()
            there.close()
            self.pipes.append(here)
            self.processes.append(process)
        for pipe in self.pipes:
            if not pipe.poll(START_TIMEOUT_S):
                self.close()
                raise TimeoutError("the gloo processes do not start")
            pipe.recv_bytes()

    def run(self, request: bytes, timeout: float) -> list[tuple[bool, Any]]:
        """Return each rank's (succeeded, value or exception), in order of rank."""
        for pipe in self.pipes:
            pipe.send_bytes(request)
        answers: dict[Connection, tuple[bool, Any]] = {}
        deadline = time.monotonic() + timeout
        while len(answers) < len(self.pipes):
            pending = [pipe for pipe in self.pipes if pipe not in answers]
            ready = wait(pending, max(0.0, deadline - time.monotonic()))
            if not ready:
                late = [self.pipes.index(pipe) for pipe in pending]
                hang = (False, TimeoutError(f"no answer from ranks {late}"))
                answers |= dict.fromkeys(pending, hang)
            for pipe in ready:
                assert isinstance(pipe, Connection)
                try:
                    answers[pipe] = pickle.loads(pipe.recv_bytes())
                except EOFError:
                    answers[pipe] = (False, RuntimeError("a gloo process died"))
                if not answers[pipe][0]:  # the others may fail alike, or wait for this one
                    deadline = min(deadline, time.monotonic() + GRACE_S)
        return [answers[pipe] for pipe in self.pipes]

    def close(self) -> None:
        for pipe in self.pipes:
            pipe.close()
        for process in self.processes:
            process.kill()
            process.join()


class GlooPool:
    """Runs a module-level function on every rank of a group of processes."""

    def __init__(self) -> None:
        self._workers: dict[int, _Workers] = {}

    def run(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        processes: int = 2,
        timeout: float = 60.0,
    ) -> list[Any]:
        """Return the results in order of rank; the first rank's exception is raised here."""
        if processes not in self._workers:
            self._workers[processes] = _Workers(processes)
        request = pickle.dumps((function, arguments))
        answers = self._workers[processes].run(request, timeout)
        errors = [value for ok, value in answers if not ok]
        if errors:
            if len({repr(error) for error in errors}) > 1 or len(errors) < processes:
                # Not all failed in the same place: they are out of step for good.
                self.restart(processes)
            # A rank that waited in vain is not the cause.
            raise next((e for e in errors if not isinstance(e, TimeoutError)), errors[0])
        return [value for _, value in answers]

    def restart(self, processes: int) -> None:
        """Let the next run begin with new processes."""
        self._workers.pop(processes).close()

    def close(self) -> None:
        """End all processes."""
        for workers in self._workers.values():
            workers.close()


@pytest.fixture(scope="session")
def gloo_pool() -> Iterator[GlooPool]:
    """``gloo_pool.run(function, *arguments, processes=2)``; starts when it is first used."""
    pool = GlooPool()
    yield pool
    pool.close()
