"""Stopping on request: a signal ends a run so that it can be resumed.

SIGTERM (a cancelled job, a requeue, ``kill``), SIGUSR2 (SLURM's warning before a time limit or a
preemption) and SIGHUP (the terminal was closed; ignored under ``nohup``) raise ``Interrupted`` at
once. Outside of training this loses nothing: work is either on disk or quickly repeated. A training
defers the signals and saves a checkpoint after the current step. Ctrl-C is handled in the same way
but raises ``KeyboardInterrupt``; a second Ctrl-C is not deferred.
"""

import atexit
import contextlib
import multiprocessing
import multiprocessing.util  # registers an exit function; ours must be registered later
import os
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGTERM, signal.SIGUSR2)
EXIT_CODE = 75
"""EX_TEMPFAIL of sysexits(3): the same command resumes the run."""

_arrived: set[int] = set()
_deferring = False
_installed = False
_on_terminal: list[int] = []
"""File descriptors of standard output and error that are terminals."""


class Interrupted(SystemExit):
    """A signal stopped the run; its state is saved and it can be resumed."""

    def __init__(self) -> None:
        super().__init__(EXIT_CODE)


def arrived(number: int | None = None) -> bool:
    """Return whether a signal (``None``: any) arrived since ``stoppable`` began."""
    return bool(_arrived) if number is None else number in _arrived


def end() -> NoReturn:
    """End the run with the exception that belongs to the signal.

    Raises:
        KeyboardInterrupt: after Ctrl-C.
        Interrupted: otherwise, including when another process received the signal.
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
        raise Interrupted  # only once: a second signal must not disturb the clean-up


def _leave_terminal() -> None:
    """Redirect output to the null device: writing to a closed terminal would fail the run."""
    with open(os.devnull, "w") as void:  # noqa: PTH123 - a signal handler does as little as possible
        for descriptor in _on_terminal:
            os.dup2(void.fileno(), descriptor)


def _heeded() -> Iterator[signal.Signals]:
    yield from SIGNALS
    # Not if it is ignored (nohup), or handled by the caller's script.
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        yield signal.SIGHUP
    # Not if it is ignored (a background job of a shell), or handled by the caller's script.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        yield signal.SIGINT


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Handle the signals inside the block as described above; restore the handlers after it."""
    global _installed
    if _installed:
        yield
        return
    _arrived.clear()  # also in a thread, where no signal can arrive
    try:
        before = {number: signal.signal(number, _remember) for number in _heeded()}
    except ValueError:  # not in the main thread: the caller's script handles signals
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
    """Defer the signals inside the block; yield a function that returns whether one arrived."""
    global _deferring
    with stoppable():
        _deferring = True
        try:
            yield arrived
        finally:
            _deferring = False
        if _arrived:  # arrived after the last step had checked
            end()


def shield_worker(worker: int) -> None:
    """Make a DataLoader worker ignore the signals, which its parent handles (``worker_init_fn``).

    SLURM signals every process of a step, and a terminal every process of a command. A worker that
    ends because of a signal would fail its parent's run.
    """
    for number in (*SIGNALS, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _kill_children() -> None:
    # At exit multiprocessing terminates its children and waits, but shielded workers ignore that.
    for child in multiprocessing.active_children():
        child.kill()


atexit.register(_kill_children)
