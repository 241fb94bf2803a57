"""Read ``encoder.yaml`` from untrusted sources: only plain values, of a limited size."""

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
        OSError: if the file cannot be read.
        ValueError: if it is not YAML, is larger than 1 MB, or expands through aliases to more than
            100,000 values (a file of a few lines can expand to billions).
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
    """Return the number of values in a node, with every alias expanded."""
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
    """Return the preprocessing of an encoder's images from its ``encoder.yaml``.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is not such a file, or a value has a wrong type or is out of its range.
    """
    facts = read_yaml(path)
    return plain_preprocessing(
        facts.get("preprocessing") if isinstance(facts, dict) else None, path
    )


def plain_preprocessing(written: Any, path: Path) -> Preprocessing:
    """Return the preprocessing that plain values describe.

    Args:
        written: the values.
        path: the file with them, for messages.

    Raises:
        ValueError: if a value is missing, has a wrong type or is out of its range.
    """
    if not isinstance(written, dict):
        raise ValueError(f"`{path}` says nothing of `preprocessing`.")
    for key, kind in _REQUIRED.items():
        if key not in written or not isinstance(written[key], kind) or written[key] is True:
            raise ValueError(f"`{path}` lacks a valid `preprocessing.{key}`.")
    for key in ("square", "squash"):
        if not isinstance(written.get(key, False), bool):
            raise ValueError(f"`{path}` lacks a valid `preprocessing.{key}`.")
    try:
        return Preprocessing().replaced(values=written)
    except TypeError as error:
        raise ValueError(f"`{path}` has an odd value in `preprocessing`.") from error
