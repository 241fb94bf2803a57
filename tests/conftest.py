"""Fixtures of all tests."""

from gloo import gloo_pool

__all__ = ["gloo_pool"]
