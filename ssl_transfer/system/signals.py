"""Stopping on request: a signal ends a run where it can go on later.

SIGTERM (a cancelled job, a requeue, ``kill``) and SIGUSR2 (SLURM's warning before a time limit or a
preemption) raise ``Interrupted`` at once, as does SIGHUP (the terminal is gone), unless it is
ignored as under ``nohup``, because whatever a run does between trainings is either
finished and on disk or quickly repeated. A training defers them: it saves at the step boundary.
Ctrl-C does the same with ``KeyboardInterrupt``; a second one does not wait.
"""

import atexit
import contextlib
import multiprocessing
import multiprocessing.util  # registers its own exit function: ours must come after it
import os
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGTERM, signal.SIGUSR2)
EXIT_CODE = 75
"""EX_TEMPFAIL of sysexits(3): start again to go on."""

_arrived: set[int] = set()
_deferring = False
_installed = False
_on_terminal: list[int] = []
"""Standard output and error, as far as they are a terminal, which may go away."""


class Interrupted(SystemExit):
    """A signal asked the run to stop; it has saved what it must and can go on."""

    def __init__(self) -> None:
        super().__init__(EXIT_CODE)


def arrived(number: int | None = None) -> bool:
    """Return whether a signal (``None``: any) arrived since ``stoppable`` began."""
    return bool(_arrived) if number is None else number in _arrived


def end() -> NoReturn:
    """End the run as the signal that arrived asks for it.

    Raises:
        KeyboardInterrupt: after Ctrl-C.
        Interrupted: otherwise, also where another process got the signal.
    """
    raise KeyboardInterrupt if signal.SIGINT in _arrived else Interrupted


def _remember(number: int, frame: FrameType | None) -> None:
    first = not _arrived
    _arrived.add(number)
    if number == signal.SIGHUP:
        _leave_terminal()
    if number == signal.SIGINT and not (first and _deferring):
        raise KeyboardInterrupt
    if first and not _deferring:
        raise Interrupted  # once only: the second signal must not disturb the way out


def _leave_terminal() -> None:
    """Print into the void: where the terminal is gone, writing to it would fail the run."""
    with open(os.devnull, "w") as void:  # noqa: PTH123 - in a signal handler, as little as possible
        for descriptor in _on_terminal:
            os.dup2(void.fileno(), descriptor)


def _heeded() -> Iterator[signal.Signals]:
    yield from SIGNALS
    # Ignored under nohup; a caller's script may have a use of its own for it, too.
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        yield signal.SIGHUP
    # Ignored in the background of a shell, and a caller's script may have a use of its own for it.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        yield signal.SIGINT


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Let signals end a run as above inside; the handlers before return afterwards."""
    global _installed
    if _installed:
        yield
        return
    _arrived.clear()  # in a thread, too, where nothing can arrive
    try:
        before = {number: signal.signal(number, _remember) for number in _heeded()}
    except ValueError:  # not in the main thread: a caller's script decides about signals
        yield
        return
    _installed = True
    _on_terminal[:] = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]
    try:
        yield
    finally:
        _installed = False
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """Hold the end back inside; yield a function that tells whether it is wanted."""
    global _deferring
    with stoppable():
        _deferring = True
        try:
            yield arrived
        finally:
            _deferring = False
        if _arrived:  # too late for the last step to see it
            end()


def shield_worker(worker: int) -> None:
    """Let a DataLoader worker ignore the signals: its parent alone decides (``worker_init_fn``).

    SLURM signals every process of a step, a terminal every process of a command, and a worker that
    dies of it fails its parent's run.
    """
    for number in (*SIGNALS, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _kill_children() -> None:
    # Shielded workers cannot be terminated, for which multiprocessing would wait at exit.
    for child in multiprocessing.active_children():
        child.kill()


atexit.register(_kill_children)
