"""Tables and correlations from the records that runs leave.

This package reads ``record.json`` and ``failure.json`` files and nothing else. It never imports
torch or ``ssl_transfer``, so it works on a laptop that holds only a copy of the outputs folder.
On the command line it is ``python -m results``; in a notebook start with
``frame(read(Path("outputs")))``.
"""

from results.errors import ResultsError
from results.records import MissingRun, Results, Row, frame, read

__all__ = ["MissingRun", "Results", "ResultsError", "Row", "frame", "read"]
