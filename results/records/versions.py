"""Detection of records with different data or weights under the same name."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from results.records.descriptions import Description, Run


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


def versions(runs: Iterable[tuple[str, Run]]) -> dict[str, Version]:
    """Return run id -> version of the record.

    Records with the same configuration of the data set must have the same fingerprint of the data,
    and records with the same encoder the same weights. If they differ, the latest are current.

    Args:
        runs: the encoder's id and the record of every finished run.
    """
    stated = list(runs)
    # What follows from a description is computed once; the runs of one share the encoder.
    started: dict[int, str] = {}
    facts: dict[int, dict[str, str]] = {}
    for encoder, run in stated:
        key = id(run.description)
        if key not in facts:
            facts[key], started[key] = _facts(encoder, run.description), run.started
        elif run.started > started[key]:
            started[key] = run.started
    latest: dict[str, tuple[str, str]] = {}
    for key, some in facts.items():
        for name, value in some.items():
            latest[name] = max(latest.get(name, ("", "")), (started[key], value))
    files = {key: " ".join(some.values()) for key, some in facts.items()}
    outdated = {
        key: any(latest[name][1] != value for name, value in some.items())
        for key, some in facts.items()
    }
    return {
        run.run_id: Version(files[key], run.started, outdated[key])
        for _, run in stated
        for key in (id(run.description),)
    }


def _facts(encoder: str, description: Description) -> dict[str, str]:
    """Return the fingerprints that a record states of its data and of its encoder."""
    facts = {
        f"data {description.dataset_node}": description.data,
        f"encoder {encoder}": description.weights,
    }
    return {name: value for name, value in facts.items() if value}


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
