"""One line of the long table: a score of a run, or a run without scores."""

from typing import NamedTuple


class Row(NamedTuple):
    """One score of one run; ``encoder``, ``protocol`` and ``dataset`` are unique short labels.

    ``value`` is a fraction in ``[0, 1]`` if ``unit`` is ``"fraction"``. ``dataset`` is empty for a
    score of the encoder itself, which has no downstream task.
    """

    encoder: str
    encoder_id: str
    protocol: str
    dataset: str
    seed: int
    metric: str
    value: float
    unit: str
    higher_is_better: bool
    primary: bool
    split: str
    run_id: str


class MissingRun(NamedTuple):
    """A run without scores (``kind``: ``failed``, ``not_applicable``, ``missing`` or ``required``).

    With ``kind`` ``invalid`` it is a single impossible score, with ``metric`` and ``primary`` set.
    """

    encoder: str
    protocol: str
    dataset: str
    seed: int | None
    kind: str
    reason: str
    folder: str
    run_id: str
    metric: str = ""
    primary: bool = False
    stage: str = ""
    """``check`` if the run was refused before its work, e.g. because its data do not exist."""
