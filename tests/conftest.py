"""Fixtures of all tests."""

import gc
import signal

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
