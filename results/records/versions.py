"""Detection of records with different data or weights under the same name."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple


class Version(NamedTuple):
    """The data and weights that a finished run's scores belong to.

    Args:
        files: fingerprints of the data and of the encoder's weights.
        started: start time of the run in ISO 8601; empty if the record lacks it.
        outdated: whether a later run with the same data set or encoder used other files.
    """

    files: str
    started: str
    outdated: bool


def versions(documents: Iterable[tuple[str, Mapping[str, Any]]]) -> dict[str, Version]:
    """Return run id -> version of the record.

    Records with the same configuration of the data set must have the same fingerprint of the data,
    and records with the same encoder the same weights. If they differ, the latest are current.

    Args:
        documents: the encoder's id and the record of every finished run.
    """
    latest: dict[str, tuple[str, str]] = {}
    stated = []
    for encoder, document in documents:
        started = str(document.get("started") or "")
        facts = {
            f"data {_dataset_of(document)}": _text(_mapping(document.get("data")), "fingerprint"),
            f"encoder {encoder}": _text(document, "weights_sha256"),
        }
        facts = {name: value for name, value in facts.items() if value}
        for name, value in facts.items():
            latest[name] = max(latest.get(name, ("", "")), (started, value))
        stated.append((document["run_id"], started, facts))
    return {
        run_id: Version(
            " ".join(facts.values()),
            started,
            any(latest[name][1] != value for name, value in facts.items()),
        )
        for run_id, started, facts in stated
    }


def complaint(known: Mapping[str, Version]) -> str | None:
    """Return one sentence if records belong to different versions of the same files, or None."""
    old = sum(version.outdated for version in known.values())
    if not old:
        return None
    runs = "1 run belongs" if old == 1 else f"{old} runs belong"
    return (
        f"{runs} to other data or weights than the latest runs on the same data set or encoder "
        "(their fingerprints differ): they never share a mean, and tables mark them; force=true "
        "computes them again."
    )


def _dataset_of(document: Mapping[str, Any]) -> str:
    """Return the configuration of a run's data set as text."""
    config = _mapping(document.get("identity") or document.get("config"))
    node = config.get("dataset")
    if node is None:  # a pre-training has its data set in the method
        node = _mapping(config.get("method")).get("pretrain_on")
    return json.dumps(node, sort_keys=True, default=str)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(document: Mapping[str, Any], key: str) -> str:
    value = document.get(key)
    return value if isinstance(value, str) else ""
