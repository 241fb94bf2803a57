"""Which records belong to the same data and weights: one name may stand for files that changed."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple


class Version(NamedTuple):
    """What files a finished run's scores belong to.

    Args:
        files: differs where the data or the encoder's weights differ.
        started: when the run began, in ISO 8601; empty if the record does not say.
        outdated: whether a later run on the same data set or encoder met other files.
    """

    files: str
    started: str
    outdated: bool


def versions(documents: Iterable[tuple[str, Mapping[str, Any]]]) -> dict[str, Version]:
    """Return the version of every record by its run's id.

    Records with the same keys of the data set must have the same fingerprint of the data, and
    those with the same encoder the same weights. Where they differ, the latest are current.

    Args:
        documents: the encoder's id, and the record, of every finished run.
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
    """Return one sentence if records belong to different versions of the same files."""
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
    """Return the keys that say which data a run asks for."""
    config = _mapping(document.get("identity") or document.get("config"))
    node = config.get("dataset")
    if node is None:  # a pre-training has its set in the method
        node = _mapping(config.get("method")).get("pretrain_on")
    return json.dumps(node, sort_keys=True, default=str)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(document: Mapping[str, Any], key: str) -> str:
    value = document.get(key)
    return value if isinstance(value, str) else ""
