"""Reading of ``encoder.yaml``, which may be anybody's: plain values, of a bounded size."""

from pathlib import Path
from typing import Any

import yaml

from ssl_transfer.preprocessing import Preprocessing

_LARGEST = 1 << 20  # bytes
_MOST_VALUES = 100_000
_REQUIRED = {"size": int, "resize": int | None, "interpolation": str, "mean": list, "std": list}


def read_yaml(path: Path) -> Any:
    """Return the plain values of a file.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is no YAML, larger than 1 MB, or has aliases that stand for more than
            100,000 values (a file of a few lines can stand for billions).
    """
    if path.stat().st_size > _LARGEST:
        raise ValueError(f"`{path}` is larger than {_LARGEST:,} bytes.")
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), yaml.SafeLoader)
        if root is None or _values(root, {}, ()) > _MOST_VALUES:
            raise ValueError(f"`{path}` is empty, or stands for too many values.")
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, RecursionError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"`{path}` is no YAML of plain values.") from error


def _values(node: yaml.Node, known: dict[int, int], above: tuple[int, ...]) -> int:
    """Return how many values a node stands for, every alias counted as what it repeats."""
    if id(node) in above:
        raise ValueError("a value holds itself")
    if id(node) not in known:
        children = list(node.value) if isinstance(node, yaml.SequenceNode) else []
        if isinstance(node, yaml.MappingNode):
            children = [part for pair in node.value for part in pair]
        above = (*above, id(node))
        known[id(node)] = 1 + sum(_values(child, known, above) for child in children)
    return known[id(node)]


def read_preprocessing(path: Path) -> Preprocessing:
    """Return what the images of an encoder go through, as ``encoder.yaml`` says.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is no such file, or a value is of another kind or out of its range.
    """
    facts = read_yaml(path)
    written = facts.get("preprocessing") if isinstance(facts, dict) else None
    if not isinstance(written, dict):
        raise ValueError(f"`{path}` says nothing of `preprocessing`.")
    for key, kind in _REQUIRED.items():
        if key not in written or not isinstance(written[key], kind) or written[key] is True:
            raise ValueError(f"`{path}` lacks a valid `preprocessing.{key}`.")
    if not isinstance(written.get("square", False), bool):
        raise ValueError(f"`{path}` lacks a valid `preprocessing.square`.")
    try:
        return Preprocessing().replaced(values=written)
    except TypeError as error:
        raise ValueError(f"`{path}` has an odd value in `preprocessing`.") from error
