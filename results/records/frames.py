"""The long table as a pandas data frame, with hyper-parameters as columns."""

import math
import os
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from results.records import kept_table
from results.records.descriptions import Description, Run, values_of
from results.records.reading import Results, folders_of, read
from results.records.rows import MissingRun, Row
from results.records.store import stamps_of

if TYPE_CHECKING:
    import pandas as pd

_TEXTS = ("encoder", "encoder_id", "protocol", "dataset", "metric", "unit", "split")
FACTS = ("status", "reason", "started", "duration_s", "device", "folder")
"""Columns between those of ``Row`` and the hyper-parameters."""


def load(
    outputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    sweep: str | None = None,
    mean_over: Sequence[str] = (),
) -> "pd.DataFrame":
    """Return the long table of one or more outputs folders, with one row per run and metric.

    The columns are those of ``Row``, then ``status``, ``reason``, ``started`` (ISO 8601),
    ``duration_s`` (seconds), ``device`` and ``folder``, then the hyper-parameters by dotted key.
    A run without scores has one row with its status and an empty value, so that it is not silently
    absent. Texts and hyper-parameters are categorical.

    Example:
        >>> import results
        >>> table = results.load(["outputs", "of_a_colleague"])  # doctest: +SKIP
        >>> long = table[table["protocol.epochs"] == 100]  # doctest: +SKIP
        >>> long.groupby(["encoder", "dataset"], observed=True)["value"].mean()  # doctest: +SKIP

    A large table is kept in the outputs folder and taken from there as long as no record changes.
    Each unusable record is left out with a warning.

    Args:
        outputs: the folder that runs write to, or several of them.
        sweep: ``latest``, a path, or a name below ``outputs/sweeps``; None reads everything.
        mean_over: keys that do not distinguish labels, e.g. ``dataset.split``.

    Raises:
        ResultsError: if there is no such folder, sweep or key.
    """
    folders = folders_of(outputs)
    files = {folder: stamps_of(folder) for folder in folders} if sweep is None else None
    key = kept_table.key_of(files, mean_over) if files is not None else None
    if key is not None and (table := kept_table.kept(folders[0], key)) is not None:
        return table
    results = read(folders, sweep, mean_over, files)
    for problem in results.problems:
        warnings.warn(problem, stacklevel=2)
    table = long_table(results)
    if key is not None and not results.problems:
        kept_table.keep(folders[0], key, table)
    return table


def frame(results: Results) -> "pd.DataFrame":
    """Return the scores as a data frame with the columns of ``Row``."""
    import pandas as pd  # slow to import, so only where it is needed

    return pd.DataFrame(results.rows, columns=list(Row._fields))


def column_names(results: Results) -> list[str]:
    """Return the names of the columns of ``long_table``."""
    parts = {part for one in _distinct(results) for part in one.parts or ()}
    keys = {key for part in parts for key in values_of(*part)}
    own = [*Row._fields, *FACTS]
    # Of a run without a data set, the whole part `dataset` is one empty value.
    return [*own, *sorted(keys.difference(own))]


def long_table(results: Results, columns: Sequence[str] | None = None) -> "pd.DataFrame":
    """Return the table of ``load``: first all rows of results, then all gaps, in their order.

    Args:
        results: the results.
        columns: the names of the columns (None: all of ``column_names``).
    """
    import pandas as pd

    names = column_names(results) if columns is None else columns
    entries = [*results.rows, *map(_as_row, results.gaps)]
    runs = [results.runs.get(entry.run_id) for entry in entries]
    hyperparameters = _Hyperparameters(runs)
    scores = dict(zip(Row._fields, zip(*entries, strict=True), strict=False))
    table = {}
    for name in names:
        if name in Row._fields:
            values = scores.get(name, ())
            table[name] = _categories(values) if name in _TEXTS else values
        elif name in FACTS:
            table[name] = _fact(name, results, runs)
        else:
            table[name] = hyperparameters.column(name)
    return pd.DataFrame(table, columns=list(names))


def _distinct(results: Results) -> list[Description]:
    """Return the different descriptions of runs."""
    return list({id(run.description): run.description for run in results.runs.values()}.values())


def _as_row(gap: MissingRun) -> Row:
    """Return a run without scores as a row with an empty value."""
    return Row(
        gap.encoder, "", gap.protocol, gap.dataset, gap.seed or 0, gap.metric, math.nan, "",
        higher_is_better=True, primary=gap.primary, split="", run_id=gap.run_id,
    )  # fmt: skip


def _fact(name: str, results: Results, runs: Sequence[Run | None]) -> Any:
    """Return the values of a column of ``FACTS``."""
    if name == "status":
        return _categories(["finished"] * len(results.rows) + [gap.kind for gap in results.gaps])
    if name == "reason":
        return _categories([""] * len(results.rows) + [gap.reason for gap in results.gaps])
    if name == "device":
        return _categories([run.description.device if run else "" for run in runs])
    absent: Any = math.nan if name == "duration_s" else ""
    return [getattr(run, name) if run else absent for run in runs]


def _categories(values: Sequence[Any]) -> "pd.Categorical":
    import pandas as pd

    return pd.Categorical(values)


class _Hyperparameters:
    """Columns of hyper-parameters, computed once per part of a configuration, not once per run.

    Args:
        runs: the run of each row of the table; None if nothing is known of it.
    """

    def __init__(self, runs: Sequence[Run | None]) -> None:
        import numpy as np

        distinct = {id(run.description): run.description for run in runs if run is not None}
        numbers = {key: number for number, key in enumerate(distinct)}
        codes = [-1 if run is None else numbers[id(run.description)] for run in runs]
        self._codes = np.array(codes, dtype=np.int64)
        self._parts = [dict(one.parts or ()) for one in distinct.values()]
        self._texts: dict[str, tuple[list[str], Any]] = {}

    def _texts_of(self, axis: str) -> tuple[list[str], Any]:
        """Return the different texts of a part, and the number of the text of each row or -1."""
        import numpy as np

        if axis not in self._texts:
            numbers: dict[str, int] = {}
            by_description = [
                numbers.setdefault(parts[axis], len(numbers)) if axis in parts else -1
                for parts in self._parts
            ]
            # The last one is no description.
            self._texts[axis] = list(numbers), np.array([*by_description, -1])[self._codes]
        return self._texts[axis]

    def column(self, key: str) -> "pd.Categorical":
        """Return the values of a hyper-parameter; its categories are the different ones."""
        import numpy as np
        import pandas as pd

        axis = key.partition(".")[0]
        texts, by_row = self._texts_of(axis)
        values = pd.Categorical([values_of(axis, text).get(key) for text in texts])
        by_text = np.append(values.codes, -1)  # the last one is no text
        return pd.Categorical.from_codes(by_text[by_row], categories=values.categories)
