"""Labels for tables that show some hyper-parameters as rows or columns of their own."""

import dataclasses
from collections.abc import Sequence
from typing import TypeVar

from results.records.reading import MissingRun, Results, Row
from results.records.tabulation import identities_of

Entry = TypeVar("Entry", Row, MissingRun)


def relabelled(results: Results, apart: Sequence[str]) -> Results:
    """Return results whose labels lack the values of some axes.

    A label together with these values is still unique, so that no two encoders and no two variants
    of a protocol or a data set share a cell.

    Args:
        results: the results.
        apart: keys of hyper-parameters such as ``protocol.epochs``, and ``model`` or ``method``.
    """
    if not apart:
        return results
    identities = identities_of(results.runs.values(), results.mean_over, apart)
    changed = {run_id: identities[id(run.description)] for run_id, run in results.runs.items()}

    def renamed(entry: Entry) -> Entry:
        if (identity := changed.get(entry.run_id)) is None:
            return entry
        _, encoder, protocol, dataset = identity
        return entry._replace(encoder=encoder, protocol=protocol, dataset=dataset)

    return dataclasses.replace(
        results, rows=list(map(renamed, results.rows)), gaps=list(map(renamed, results.gaps))
    )
