"""Fixtures of all tests."""

import signal

from fake_slurm import slurm
from gloo import gloo_pool

__all__ = ["gloo_pool", "slurm"]

# A shell without job control starts what runs in its background with Ctrl-C ignored, and children
# inherit that: the tests of Ctrl-C would wait for nothing.
signal.signal(signal.SIGINT, signal.default_int_handler)
