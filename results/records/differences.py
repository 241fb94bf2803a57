"""Short texts of what distinguishes configurations, and the natural order of such texts."""

import ast
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

_SHOWN_AT_MOST = 3


def distinguish(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return for each configuration the ``key=value`` pairs that distinguish it, or ``""``.

    Up to three differing keys are all shown; of more, only enough to distinguish the
    configurations. Keys that a configuration lacks are left out. Equal ones get equal texts.
    """
    return distinguish_flat([flattened(config) for config in configs])


def distinguish_flat(flat: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the texts of ``distinguish`` for configurations that ``flattened`` returned."""
    keys = list(dict.fromkeys(key for config in flat for key in config))
    keys = _named([key for key in keys if len({config.get(key) for config in flat}) > 1], flat)
    if len(keys) > _SHOWN_AT_MOST:
        keys = _enough(flat, keys)
    names = {key: _short_name(key, keys) for key in keys}
    texts = {key: _texts({config[key] for config in flat if key in config}) for key in keys}
    return [
        " ".join(f"{names[k]}={texts[k][config[k]]}" for k in keys if k in config)
        for config in flat
    ]


def natural(text: str) -> list[tuple[int, float, str]]:
    """Return a sorting key under which ``epochs=4`` comes before ``epochs=40``."""
    parts = re.split(r"(\d+(?:\.\d+)?)", text)
    return [(0, float(p), "") if p[:1].isdecimal() else (1, 0.0, p) for p in parts if p]


def fits(label: str, name: str) -> bool:
    """Return whether a label begins with the same word as a name and has all of its pairs.

    Example:
        >>> fits("finetune epochs=20 lr=0.1", "finetune lr=0.1")
        True
        >>> fits("finetune epochs=20 lr=0.1", "finetune lr=0.2")
        False
    """
    (first, *pairs), (wanted, *some) = label.split(" "), name.split(" ")
    return first == wanted and set(some) <= set(pairs)


def flattened(config: Mapping[str, Any]) -> dict[str, str]:
    """Return a nested configuration as dotted keys with the ``repr`` of the values."""
    return {key: repr(value) for key, value in leaves(config)}


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the value of every leaf of a nested configuration.

    A list is a leaf, unless it contains objects such as views.
    """
    if isinstance(node, list) and any(isinstance(item, dict) for item in node):
        node = {str(place): item for place, item in enumerate(node)}
    if isinstance(node, dict) and (node or not path):
        for key, value in node.items():
            yield from leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, node


def _separated(flat: Sequence[Mapping[str, str]], keys: Sequence[str]) -> int:
    """Return how many different configurations there are with respect to some keys."""
    return len({tuple(config.get(key) for key in keys) for config in flat})


def _named(keys: list[str], flat: Sequence[Mapping[str, str]]) -> list[str]:
    """Leave out keys that a node's ``name`` implies, such as the reader of another data set."""
    nodes = tuple(key.removesuffix("name") for key in keys if key.endswith(".name"))
    rest = [key for key in keys if key.endswith(".name") or not key.startswith(nodes)]
    return rest if _separated(flat, rest) == _separated(flat, keys) else keys


def _enough(flat: Sequence[Mapping[str, str]], keys: Sequence[str]) -> list[str]:
    """Return a small set of keys that distinguishes as much as all keys do, shallow ones first."""
    candidates = sorted(keys, key=lambda key: key.count("."))
    chosen: list[str] = []
    while _separated(flat, chosen) < _separated(flat, keys):
        chosen.append(max(candidates, key=lambda key: _separated(flat, [*chosen, key])))
    return chosen


def _short_name(key: str, keys: Sequence[str]) -> str:
    """Return the shortest unique end of a dotted key; ``.name`` is left out."""
    key = key.removesuffix(".name")
    parts = key.split(".")
    for length in range(1, len(parts)):
        end = ".".join(parts[-length:])
        if not any(other != key and f".{other}".endswith(f".{end}") for other in keys):
            return end
    return key


def _texts(values: Collection[str]) -> dict[str, str]:
    """Return value -> short unique text, for all values of a key.

    The text for a path is its last part, with as many folders before it as make it unique.
    """
    shorter = {value: _shorter(value) for value in values}
    length = dict.fromkeys(values, 0)
    while True:
        texts = {value: shorter[value][length[value]] for value in values}
        times = Counter(texts.values())
        longer = [v for v in values if times[texts[v]] > 1 and length[v] + 1 < len(shorter[v])]
        if not longer:
            return texts
        for value in longer:
            length[value] += 1


def _shorter(value: str) -> list[str]:
    """Return texts for a value of ``_flat``, the shortest first, the value itself last."""
    if value[:1] not in ("'", '"'):
        return ["null" if value == "None" else value, value]
    text = str(ast.literal_eval(value))
    parts = text.rstrip("/").split("/")
    ends = ["/".join(parts[-length:]) for length in range(1, len(parts) + 1)]
    return [*(end for end in ends if end), text, value]
