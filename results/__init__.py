"""Tables and correlations from the records of runs.

Tables read only ``record.json``, ``failure.json`` and ``sweep.json`` files; the report on one run
also reads its ``test_predictions.npz`` and ``metrics.jsonl``, the comparison of few-shot runs their
``episodes.npz``. This package never imports torch or ``ssl_transfer``, so it works on a laptop with
only a copy of the outputs folder. On the command line it is ``python -m results``; in a notebook
start with ``results.load("outputs")``.
"""

from results.errors import ResultsError
from results.records.frames import frame, load
from results.records.reading import MissingRun, Results, Row, read

__all__ = ["MissingRun", "Results", "ResultsError", "Row", "frame", "load", "read"]
