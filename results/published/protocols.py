"""What published tables state about the protocols by which their scores were measured."""

import csv
import functools
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from results.published.catalogue import PROTOCOLS

UNKNOWN = "unknown"
"""The value of a setting that neither a paper nor its program states."""

_EACH = "*"


class Fact(NamedTuple):
    """One setting of a published protocol.

    Args:
        key: the dotted key of this project's configuration; empty for a remark.
        value: the setting as in a configuration, or ``UNKNOWN``.
        comment: an explanation; of a remark its text.
    """

    key: str
    value: Any
    comment: str

    @property
    def name(self) -> str:
        """The key without ``protocol.``, as notes show it."""
        return self.key.removeprefix("protocol.")


@functools.cache
def facts(table: str, protocol: str, dataset: str) -> tuple[Fact, ...]:
    """Return what is stated about a protocol of a published table on a data set.

    Args:
        table: the name of a published table.
        protocol: the protocol's label; its first word is its name.
        dataset: the name of the data set.
    """
    settings: dict[str, Fact] = {}
    remarks = []
    for line in _lines():
        concerned = (
            _among(table, line["table"])
            and _among(protocol.split(" ")[0], line["protocol"])
            and (not line["datasets"] or _among(dataset, line["datasets"]))
        )
        if concerned:
            fact = Fact(line["key"], _value(line["value"]), line["comment"])
            if fact.key:
                settings[fact.key] = fact  # a later line replaces an earlier one
            else:
                remarks.append(fact)
    return (*settings.values(), *remarks)


def value_text(value: Any) -> str:
    """Return a short text for a value of a configuration.

    Example:
        >>> value_text([0.1, 1e-3]), value_text([30]), value_text(None), value_text(True)
        ('[0.1, 0.001]', '30', 'none', 'true')
    """
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        texts = [value_text(item) for item in value]
        return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {value_text(item)}' for key, item in value.items())}}}"
    return str(value)


@functools.cache
def _lines() -> list[dict[str, str]]:
    with PROTOCOLS.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


def _among(name: str, names: str) -> bool:
    return names == _EACH or name in names.split(";")


def _value(text: str) -> Any:
    """Return a value of a configuration: a JSON value, or the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text
