"""Which axes are the rows and the columns of a table, and which make tables of their own."""

import dataclasses
import operator
from collections.abc import Callable, Hashable, Sequence

from results.errors import ResultsError, unknown
from results.records.labels import natural
from results.records.reading import MissingRun, Results, Row

AXES = ("protocol", "encoder", "dataset", "metric", "seed", "model", "method")
"""Axes beside the hyper-parameters, in the order in which they head tables of their own."""
PARTS_OF_ENCODERS = ("model", "method")
"""Axes that an encoder's label otherwise shows."""
ABSENT = "–"
"""What stands for a hyper-parameter that a run does not have, or whose value is null."""

Entry = Row | MissingRun
Coordinates = tuple[str, ...]
"""One value per axis."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """The axes of a table.

    An axis that is neither a row nor a column makes tables of its own. Only seeds, and the axes
    that ``mean_over`` names, are averaged.

    Args:
        rows: axes of the rows: of ``AXES``, or keys of hyper-parameters such as
            ``protocol.epochs``.
        columns: axes of the columns.
        metrics: the metrics (empty: each run's primary one, or all if ``metric`` is an axis).
        mean_over: axes that are averaged beside the seed of the evaluation: ``dataset``, or seeds
            of encoders such as ``method.seed``.

    Raises:
        ResultsError: if an axis is unknown or occurs twice; the message lists the known ones.
    """

    rows: tuple[str, ...] = ("encoder",)
    columns: tuple[str, ...] = ("dataset",)
    metrics: tuple[str, ...] = ()
    mean_over: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the names of the axes."""
        for option, axes in (("--rows", self.rows), ("--columns", self.columns)):
            if not axes:
                raise ResultsError(
                    f"`{option}` must name an axis, such as `encoder`, but is empty."
                )
            for axis in axes:
                if axis not in AXES and not is_key(axis):
                    known = [*AXES, "a hyper-parameter in full, such as protocol.epochs"]
                    raise unknown(f"an axis of `{option}`", axis, known)
        for axis in self.mean_over:
            if axis != "dataset" and not is_seed_of_encoders(axis):
                raise ResultsError(
                    "`--mean-over` must be `dataset`, a key of datasets or protocols such as "
                    f"`dataset.split`, or `method.seed`, but is `{axis}`; encoders that differ in "
                    "more than a seed are never averaged."
                )
        used = [*self.rows, *self.columns, *self.mean_over]
        if twice := [axis for axis in used if used.count(axis) > 1]:
            raise ResultsError(
                "an axis must be either a row, a column or averaged, but "
                f"`{twice[0]}` occurs twice; name another one."
            )

    @property
    def tables(self) -> tuple[str, ...]:
        """Axes of which each value has its own tables."""
        free = [axis for axis in AXES[:3] if axis not in self._used]
        return (*free, *(["metric"] if len(self.metrics) > 1 and not self.has_metric else []))

    @property
    def apart(self) -> tuple[str, ...]:
        """Axes whose values labels must not repeat: hyper-parameters, the model, the method."""
        return tuple(axis for axis in self._used if axis in PARTS_OF_ENCODERS or is_key(axis))

    @property
    def has_metric(self) -> bool:
        """Whether the metric is an axis of rows or columns."""
        return "metric" in (*self.rows, *self.columns)

    @property
    def compares_rows(self) -> bool:
        """Whether the cells of a column are comparable, rather than those of a row."""
        return bool(set(self.rows) - {"dataset", "metric", "seed"})

    @property
    def _used(self) -> tuple[str, ...]:
        return (*self.rows, *self.columns, *self.mean_over)


def is_key(axis: str) -> bool:
    """Return whether an axis is the key of a hyper-parameter."""
    return "." in axis or axis == "precision"


def is_seed_of_encoders(key: str) -> bool:
    """Return whether a key is a seed of pre-training, of one encoder or of a member."""
    first, *_, last = key.split(".") if "." in key else ("", "")
    return first in PARTS_OF_ENCODERS and last == "seed"


def coordinates(results: Results, axes: Sequence[str]) -> Callable[[Entry], Coordinates]:
    """Return a function that looks up an entry's values on some axes.

    Entries are many and their values are few, so equal values are looked up once.
    """
    readers = [_reader(results, axis) for axis in axes]
    fields = [axis for axis in axes if axis in Row._fields]
    shared = operator.attrgetter(*(fields or ["protocol"]))
    described = len(fields) < len(axes)
    known: dict[Hashable, Coordinates] = {}

    def read(entry: Entry) -> Coordinates:
        key: Hashable = shared(entry)
        if described:
            run = results.runs.get(entry.run_id)
            key = key, None if run is None else id(run.description)
        if key not in known:
            known[key] = tuple(reader(entry) for reader in readers)
        return known[key]

    return read


def _reader(results: Results, axis: str) -> Callable[[Entry], str]:
    if axis in PARTS_OF_ENCODERS or is_key(axis):
        return lambda entry: _of_run(results, entry.run_id, axis)
    if axis == "seed":
        return lambda entry: ABSENT if entry.seed is None else str(entry.seed)
    return lambda entry: str(getattr(entry, axis))


def _of_run(results: Results, run_id: str, axis: str) -> str:
    """Return a run's value of a hyper-parameter, or the name of its model or method, as text."""
    if axis in PARTS_OF_ENCODERS:
        run = results.runs.get(run_id)
        return ABSENT if run is None else str(getattr(run.description, axis))
    value = results.hyperparameter(run_id, axis)
    return ABSENT if value is None else str(value)


def order(values: Coordinates) -> list[tuple[int, float, list[tuple[int, float, str]]]]:
    """Return a sorting key: numbers by size, then texts in natural order, then absent values."""
    return [_order(value) for value in values]


def _order(value: str) -> tuple[int, float, list[tuple[int, float, str]]]:
    if value == ABSENT:
        return 2, 0.0, []
    try:
        return 0, float(value), []
    except ValueError:
        return 1, 0.0, natural(value)


def heading(axes: Sequence[str], values: Coordinates) -> str:
    """Return the name of a column, or of a table: ``digits epochs=10``."""
    parts = []
    for axis, value in zip(axes, values, strict=True):
        if is_key(axis) or axis == "seed":
            parts.append(f"{_short(axis, axes)}={value}")
        elif value:
            parts.append(value)
    return " ".join(parts)


def _short(key: str, axes: Sequence[str]) -> str:
    """Return the last part of a key, or all of it where that is the name of another axis."""
    end = key.rpartition(".")[2]
    others = [axis.rpartition(".")[2] for axis in (*axes, *AXES) if axis != key]
    return key if end in others else end
