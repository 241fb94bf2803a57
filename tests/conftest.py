"""Fixtures of all tests."""

from fake_slurm import slurm
from gloo import gloo_pool

__all__ = ["gloo_pool", "slurm"]
