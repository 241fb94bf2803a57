"""What tables need to know of a run: its description, which many runs share, and its scores.

A description holds nested parts of the configuration as JSON text. Runs have few different parts,
so whatever follows from a part is computed once per text, not once per run.
"""

import functools
import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from results.records.defaults import left_out
from results.records.differences import leaves
from results.records.validity import impossible

AXES = ("model", "method", "protocol", "dataset", "precision", "debug")
"""Keys of an identity that labels and hyper-parameters show, in this order."""
_MADE_NO_ID = frozenset({"resources", "download", "sizes", "keep_encoder"})
"""Keys that did not enter ids when records still lacked the identity; nor did nulls."""

Parts = tuple[tuple[str, str], ...]
"""Some keys of an identity with their values as JSON text."""


class Description(NamedTuple):
    """All that tables need to know of a run except its seed, its scores and its times.

    Args:
        model, method, protocol, dataset: names; ``dataset`` is None without a downstream task.
        encoder_id: the encoder's id as stated; None if the run did not read its weights.
        encoder_label: the encoder's label as stated, else model and method.
        preprocessing: that of the encoder as JSON text; None if the record does not state it.
        parts: the keys ``AXES`` of the identity; None if the run's configuration is unknown.
        requires: whether the run required another one.
        dataset_node: the configuration of the data set as JSON text.
        data, weights: fingerprints of data and weights; empty if the record lacks them.
        status: ``finished``, ``not_applicable`` or ``failed``.
        device: the device that computed the run; empty if the record lacks it.
        trial: whether the run has ``debug=true`` and trains for two steps.
    """

    model: str
    method: str
    protocol: str
    dataset: str | None
    encoder_id: str | None
    encoder_label: str
    preprocessing: str | None
    parts: Parts | None
    requires: bool
    dataset_node: str
    data: str
    weights: str
    status: str
    device: str
    trial: bool

    def part(self, *keys: str) -> Parts:
        """Return some keys of the identity, in the order of ``keys``."""
        known = dict(self.parts or ())
        return tuple((key, known[key]) for key in keys if key in known)


class Metric(NamedTuple):
    """What a score measures: all of it except its value."""

    metric: str
    unit: str
    higher_is_better: bool
    primary: bool
    split: str


class Run(NamedTuple):
    """One run.

    Args:
        run_id: its id.
        description: what it shares with other runs.
        seed: its seed; None if it has none.
        metrics: what its scores measure.
        values: their values; NaN where a value is impossible.
        faults: why values are impossible, by position.
        started: time of its start in ISO 8601; empty if unknown.
        duration_s: its duration in seconds; NaN if unknown.
        reason: why it has no scores; empty for a finished run.
        stage: ``check`` if it was refused before its work.
        folder: the folder of its files.
    """

    run_id: str
    description: Description
    seed: int | None
    metrics: tuple[Metric, ...]
    values: tuple[float, ...]
    faults: tuple[tuple[int, str], ...]
    started: str
    duration_s: float
    reason: str
    stage: str
    folder: str


def run_of(document: Mapping[str, Any], folder: str = "") -> Run:
    """Return what tables need of a valid record or failure in a folder."""
    description = describe(document)
    scores = document["scores"] if description.status == "finished" else ()
    faults = [(place, impossible(score)) for place, score in enumerate(scores)]
    wrong = {place: fault for place, fault in faults if fault is not None}
    finished = description.status == "finished"
    reason = document.get("error") or document.get("reason") or "no reason was recorded"
    return Run(
        document["run_id"],
        description,
        document.get("seed"),
        tuple(metric_of(score) for score in scores),
        tuple(math.nan if n in wrong else float(s["value"]) for n, s in enumerate(scores)),
        tuple(wrong.items()),
        str(document.get("started") or ""),
        _seconds(document.get("duration_s")),
        "" if finished else reason,
        str(document.get("stage") or ""),
        folder,
    )


def metric_of(score: Mapping[str, Any]) -> Metric:
    """Return what a score of a record measures."""
    return Metric(
        score["metric"],
        score["unit"],
        score["higher_is_better"],
        score["primary"],
        score.get("split") or "",
    )


def describe(document: Mapping[str, Any]) -> Description:
    """Return the description of a record or failure."""
    encoder = document.get("encoder") or {}
    stated = encoder.get("preprocessing")
    finished = document.get("status") == "finished" and "error" not in document
    dataset = document.get("dataset")
    return Description(
        model=str(document["model"]),
        method=str(document["method"]),
        protocol=str(document["protocol"]),
        dataset=None if dataset is None else str(dataset),
        encoder_id=_stated_id(document),
        encoder_label=str(encoder.get("label") or f"{document['model']}-{document['method']}"),
        preprocessing=json.dumps(stated, sort_keys=True) if isinstance(stated, dict) else None,
        parts=_parts(document),
        requires=bool(document.get("requires")),
        dataset_node=_dataset_node(document),
        data=_text(_mapping(document.get("data")), "fingerprint"),
        weights=_text(document, "weights_sha256"),
        status="finished" if finished else "failed" if "error" in document else "not_applicable",
        device=_text(document, "device"),
        trial=bool((document.get("config") or {}).get("debug")),
    )


def hashed_part(document: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """Return keys of the identity that a run's id is a hash of.

    Records of earlier code have only the configuration, from which the identity is derived.
    """
    identity = document.get("identity")
    if not isinstance(identity, dict):
        identity = _as_hashed(document["config"])
    return {key: identity[key] for key in keys if key in identity}


def _as_hashed(config: Any) -> Any:
    """Return the identity that earlier code derived from a configuration."""
    if isinstance(config, list):
        return [_as_hashed(item) for item in config]
    if isinstance(config, dict):
        return {
            key: _as_hashed(value)
            for key, value in config.items()
            if value is not None and key not in _MADE_NO_ID
        }
    return config


def _parts(document: Mapping[str, Any]) -> Parts | None:
    if not any(isinstance(document.get(key), dict) for key in ("identity", "config")):
        return None
    return tuple((key, json.dumps(node)) for key, node in hashed_part(document, *AXES).items())


def _stated_id(document: Mapping[str, Any]) -> str | None:
    identifier = (document.get("encoder") or {}).get("id")
    if identifier == document["run_id"] and document["protocol"] != "pretrain":
        return None  # a placeholder from a run that did not read its weights
    return None if identifier is None else str(identifier)


def _dataset_node(document: Mapping[str, Any]) -> str:
    config = _mapping(document.get("identity") or document.get("config"))
    node = config.get("dataset")
    if node is None:  # a pre-training has its data set in the method
        node = _mapping(config.get("method")).get("pretrain_on")
    return json.dumps(node, sort_keys=True, default=str)


def _seconds(value: Any) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and abs(value) < 1e100 else math.nan


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(document: Mapping[str, Any], key: str) -> str:
    value = document.get(key)
    return value if isinstance(value, str) else ""


def hyperparameter(description: Description, key: str) -> Any:
    """Return a hyper-parameter of a run by dotted key, e.g. ``protocol.epochs``, or None."""
    axis = key.partition(".")[0]
    for name, text in description.parts or ():
        if name == axis:
            return values_of(name, text).get(key)
    return None


@functools.lru_cache(maxsize=20_000)
def values_of(axis: str, text: str) -> dict[str, Any]:
    """Return the hyper-parameters of one part of an identity by dotted key.

    A list of numbers or texts is one value, as text; a list of objects, such as views, has one key
    per object: ``method.views.0.hue``. Keys that the identity leaves out have their default.

    Args:
        axis: the key of the part, such as ``protocol``.
        text: its value as JSON text.
    """
    node = json.loads(text)
    values = {
        key: value if value is None or isinstance(value, str | int | float) else json.dumps(value)
        for key, value in leaves(node, axis)
    }
    return {**{f"{axis}.{key}": value for key, value in left_out(axis, node).items()}, **values}
