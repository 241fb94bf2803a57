"""Fast reading of the records of finished runs in the form in which runs write them.

A seal proves that a record is what a run wrote, without hashing its keys again. What many records
share, such as the model's configuration, is examined and described once. Whatever is not sealed,
not finished or not valid is left to ``load_document``.
"""

from typing import Any

import orjson

from results.records.descriptions import Description, Metric, Run, describe, metric_of
from results.records.validity import LARGEST, ROUNDING, is_sealed, is_tabular, is_too_deep

_DESCRIBED = (
    "schema", "model", "method", "protocol", "dataset", "status", "reason", "encoder", "requires",
    "weights_sha256", "device", "precision", "stage", "error",
)  # fmt: skip
"""Keys on which the description or the validity of a record depends; others are named below."""


class _Kind:
    """What the records of one kind share: all that is described but seed, time and values."""

    def __init__(self, document: dict[str, Any], known: dict[Description, Description]) -> None:
        self.description: Description | None = None
        self.metrics: tuple[Metric, ...] = ()
        # The parser refuses text that is not valid Unicode.
        if not is_tabular(document) or is_too_deep(document):
            return
        if document["status"] == "finished" and "stage" not in document:
            description = describe(document)
            self.description = known.setdefault(description, description)
            self.metrics = tuple(metric_of(score) for score in document["scores"])


class FinishedRecords:
    """Reads records and remembers their kinds."""

    def __init__(self) -> None:
        self._kinds: dict[bytes, _Kind] = {}
        self._descriptions: dict[Description, Description] = {}

    def share(self, description: Description) -> Description:
        """Return the object of an equal description that was read before, else this one."""
        return self._descriptions.setdefault(description, description)

    def read(self, content: bytes, folder: str) -> Run | None:
        """Return a run from its record; None if ``load_document`` must read or refuse it.

        Args:
            content: the record's text.
            folder: the folder of the run.
        """
        if not is_sealed(content):
            return None
        try:
            return self._read(orjson.loads(content), folder)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None

    def _read(self, document: dict[str, Any], folder: str) -> Run | None:
        key = _key(document)
        if (kind := self._kinds.get(key)) is None:
            kind = self._kinds[key] = _Kind(document, self._descriptions)
        run_id, seed, started = document["run_id"], document.get("seed"), document.get("started")
        duration: Any = document.get("duration_s")
        values = [score["value"] for score in document["scores"]]
        if (
            kind.description is None
            or not (isinstance(run_id, str) and run_id.strip())
            or not (seed is None or (type(seed) is int and abs(seed) < 2**64))
            or not isinstance(started, str)
            or type(duration) not in (int, float)
            or not abs(duration) <= LARGEST
            or not all(map(_possible, values, kind.metrics))
            # A placeholder of a run that did not read its weights.
            or (document["encoder"].get("id") == run_id and document["protocol"] != "pretrain")
        ):
            return None
        return Run(
            run_id, kind.description, seed, kind.metrics, tuple(map(float, values)), (), started,
            float(duration), "", "", folder,
        )  # fmt: skip


def _key(document: dict[str, Any]) -> bytes:
    """Return a text that records of one kind share and records of other kinds do not."""
    identity, data, config = (document.get(key) for key in ("identity", "data", "config"))
    without_seed = {**identity, "seed": None} if isinstance(identity, dict) else identity
    shared = [
        [document.get(key) for key in _DESCRIBED],
        [key in document for key in ("stage", "error", "identity")],
        without_seed,
        data.get("fingerprint") if isinstance(data, dict) else data,
        # Records without identity are described by their configuration.
        config if not isinstance(identity, dict) else config.get("debug"),  # type: ignore[union-attr]
        [{**score, "value": None} for score in document["scores"]],
    ]
    return orjson.dumps(shared)


def _possible(value: object, metric: Metric) -> bool:
    """Return whether a score is finite, and a fraction within [0, 1]."""
    if type(value) not in (int, float) or not abs(value) <= LARGEST:  # type: ignore[arg-type]
        return False
    return metric.unit != "fraction" or -ROUNDING <= value <= 1 + ROUNDING  # type: ignore[operator]
