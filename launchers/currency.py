"""Checks whether the input files of finished runs have changed; imports no torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssl_transfer.runs import Run
from ssl_transfer.system.manifests import Comparer

WORDS = {"data": "data", "more_data": "further data", "weights": "weights", "code": "code"}
"""Kinds of input files in a record -> their names in messages."""


def complaints(finished: Sequence[Run]) -> list[str]:
    """Return a sentence for every set of files that changed since finished runs read it.

    Each set and each file is checked once. Runs whose records list no files count as current.

    Args:
        finished: runs that will not be computed again; their records were just read.
    """
    comparers: dict[Path, Comparer] = {}
    stale: dict[tuple[Path, str, str], list[Run]] = {}
    unreachable: dict[str, None] = {}
    unchecked: set[str] = set()
    for run in finished:
        outputs = run.folder.parent.parent
        comparer = comparers.setdefault(outputs, Comparer(outputs))
        for kind, identity in _listed(run.recorded_inputs):
            comparison = comparer.compare(identity)
            if comparison.unreachable:
                unreachable[identity] = None
                unchecked.add(run.id)
            elif comparison.stale:
                stale.setdefault((outputs, kind, identity), []).append(run)
    sentences = [
        f"{WORDS[kind]} changed since {_named(runs)} read {'it' if kind == 'code' else 'them'} "
        f"({comparers[outputs].compare(identity).describe()}); the scores are those of the old "
        f"{WORDS[kind]}: force=true computes them again."
        for (outputs, kind, identity), runs in stale.items()
    ]
    if unchecked:
        many = f"{len(unchecked)} finished runs" if len(unchecked) > 1 else "a finished run"
        sentences.append(
            f"the files that {many} read cannot be seen from here ({len(unreachable)} sets of "
            "files), so they were not compared; the scores count as current."
        )
    return sentences


def _listed(recorded: Any) -> list[tuple[str, str]]:
    """Return the kind and the identity of each list of files in a record."""
    if not isinstance(recorded, Mapping):
        return []
    named = {
        kind: entry.get("list") for kind, entry in recorded.items() if isinstance(entry, Mapping)
    }
    return [
        (kind, identity)
        for kind, identity in named.items()
        if kind in WORDS and isinstance(identity, str) and identity.isalnum()
    ]


def _named(runs: Sequence[Run]) -> str:
    others = f" and {len(runs) - 1} more" if len(runs) > 1 else ""
    return f"{runs[0].describe()}{others}"
