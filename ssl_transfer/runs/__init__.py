"""Runs: what identifies one, its folder and record, the checks before it, and its execution.

Importing this package is cheap; ``execution``, ``builders`` and ``preflight`` load torch.
"""

from ssl_transfer.runs.folder import begin, clear, finish
from ssl_transfer.runs.run import PRETRAIN, Run, graph

__all__ = ["PRETRAIN", "Run", "begin", "clear", "finish", "graph"]
