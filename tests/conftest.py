"""Fixtures of all tests."""

import ctypes
import gc
import resource
import signal
from pathlib import Path

import pytest
from fake_slurm import slurm
from gloo import gloo_pool

__all__ = ["gloo_pool", "slurm"]

# A shell without job control starts what runs in its background with Ctrl-C ignored, and children
# inherit that: the tests of Ctrl-C would wait for nothing.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Keep objects that live until the end out of each garbage collection: a sixth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


GROWTH_BYTES = 256 << 20
"""By how much a process may grow before what tests left behind is collected."""
_allowed_bytes = 0


def pytest_runtest_logfinish() -> None:
    """Free networks that are only kept by cycles (tracebacks are such) before they add up."""
    global _allowed_bytes
    if _resident_bytes() <= _allowed_bytes:
        return
    gc.collect()
    # glibc keeps what was freed for later allocations.
    getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)(0)
    _allowed_bytes = _resident_bytes() + GROWTH_BYTES


def _resident_bytes() -> int:
    """Return the memory of this process; 0 where the system does not tell."""
    try:
        pages = Path("/proc/self/statm").read_text().split()[1]
    except OSError:
        return 0
    return int(pages) * resource.getpagesize()
