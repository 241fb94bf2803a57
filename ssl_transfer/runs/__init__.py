"""Runs: identity, folder and record of a run, the checks before it, and its execution.

Importing this package is cheap; only ``execution``, ``builders``, ``preflight`` and ``disk`` import
torch.
"""

from ssl_transfer.runs.folder import begin, clear, finish
from ssl_transfer.runs.run import PRETRAIN, Run, graph

__all__ = ["PRETRAIN", "Run", "begin", "clear", "finish", "graph"]
