"""Distinct one-line descriptions of a sweep's runs."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ssl_transfer.runs import Run


def descriptions(runs: Sequence[Run]) -> dict[str, str]:
    """Return run id -> one line for logs.

    ``Run.describe`` names the axes and the seed. If several runs share these, their lines also show
    the few keys that distinguish them, such as ``model.width=16``.
    """
    alike: dict[str, dict[str, Run]] = defaultdict(dict)
    for run in runs:
        alike[_names(run)][run.id] = run
    lines = {}
    for names, members in alike.items():
        flat = [dict(_leaves(run.identity, "")) for run in members.values()]
        keys = _enough(flat) if len(members) > 1 else []
        for (identifier, run), values in zip(members.items(), flat, strict=True):
            shown = "".join(f", {key}={values[key]}" for key in keys if key in values)
            lines[identifier] = f"{names}{shown}{run.describe().removeprefix(names)}"
    return lines


def _names(run: Run) -> str:
    return run.describe().removesuffix(f" [{run.id[:8]}]")


def _leaves(node: Any, path: str) -> Iterator[tuple[str, str]]:
    """Yield the dotted keys of an identity and their values as text."""
    if isinstance(node, list) and any(isinstance(item, dict) for item in node):
        node = dict(enumerate(node))
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, "null" if node is None else str(node)


def _enough(flat: Sequence[Mapping[str, str]]) -> list[str]:
    """Return a small set of keys that distinguishes as much as all keys do, shallow ones first."""

    def separated(keys: Sequence[str]) -> int:
        return len({tuple(values.get(key) for key in keys) for values in flat})

    every = dict.fromkeys(key for values in flat for key in values)
    differing = [key for key in every if separated([key]) > 1]
    candidates = sorted(differing, key=lambda key: key.count("."))
    chosen: list[str] = []
    while separated(chosen) < separated(differing):
        chosen.append(max(candidates, key=lambda key: separated([*chosen, key])))
    return chosen
