"""In which settings of a protocol own runs differ from published ones."""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from results.published.protocols import UNKNOWN, Fact, value_text

_ABSENT = object()
_NAMED_AT_MOST = 3
"""Number of data sets that are named for a difference that only some of them have."""


class Setting(NamedTuple):
    """A setting that differs: its name, the own value, the published one."""

    name: str
    own: str
    published: str

    def __str__(self) -> str:
        """Return e.g. ``selection val for test``."""
        return f"{self.name} {self.own} for {self.published}"


@dataclasses.dataclass(frozen=True)
class Differences:
    """A run's settings beside those of a published protocol.

    Args:
        differing: settings with another value.
        agreeing: names of settings with the published value.
        unknown: names of settings that are not stated for the published protocol.
        unrecorded: names of settings that the own record lacks.
        remarks: facts about the published protocol that no setting expresses.
    """

    differing: list[Setting] = dataclasses.field(default_factory=list)
    agreeing: list[str] = dataclasses.field(default_factory=list)
    unknown: list[str] = dataclasses.field(default_factory=list)
    unrecorded: list[str] = dataclasses.field(default_factory=list)
    remarks: list[str] = dataclasses.field(default_factory=list)


def differences(document: Mapping[str, Any], facts: Iterable[Fact]) -> Differences:
    """Return what differs between a run and a published protocol.

    Epochs and optimizer steps are one setting, the length. A learning rate or weight decay that is
    not in the grid is a grid of one value. Null of a preprocessing stands for the encoder's own.

    Args:
        document: the run's record.
        facts: the settings of the published protocol.
    """
    differ = Differences()
    for fact in facts:
        name = _SEARCHED.get(fact.key, fact.name)
        if not fact.key:
            differ.remarks.append(fact.comment)
        elif fact.value == UNKNOWN:
            differ.unknown.append(name)
        elif (own := _own(document, fact.key)) is _ABSENT:
            differ.unrecorded.append(name)
        elif _equal(own, published := _published(fact)):
            differ.agreeing.append(name)
        elif isinstance(own, _Length):
            differ.differing.append(Setting(own.unit, value_text(own.number), str(published)))
        else:
            differ.differing.append(Setting(name, value_text(own), value_text(published)))
    return differ


class _Length(NamedTuple):
    """How long a training is, in epochs or in steps."""

    unit: str
    number: float

    def __str__(self) -> str:
        return f"{value_text(self.number)} {self.unit}"


_LENGTHS = {"protocol.epochs": "epochs", "protocol.steps": "steps"}
_SEARCHED = {
    f"protocol.{place}.{name}": name
    for place in ("grid", "optimizer")
    for name in ("lr", "weight_decay")
}
_PREPROCESSING = "protocol.preprocessing."


def _published(fact: Fact) -> Any:
    if fact.key in _LENGTHS:
        return _Length(_LENGTHS[fact.key], fact.value)
    if fact.key in _SEARCHED and not isinstance(fact.value, list):
        return [fact.value]
    return fact.value


def _own(document: Mapping[str, Any], key: str) -> Any:
    """Return the value that a run had for a setting; ``_ABSENT`` if the record does not tell."""
    if key in _LENGTHS:
        steps, epochs = _at(document, "protocol.steps"), _at(document, "protocol.epochs")
        if steps not in (None, _ABSENT):
            return _Length("steps", steps)
        return epochs if epochs in (None, _ABSENT) else _Length("epochs", epochs)
    if name := _SEARCHED.get(key):
        grid = _at(document, f"protocol.grid.{name}")
        if grid not in (None, _ABSENT):
            return grid if isinstance(grid, list) else [grid]
        single = _at(document, f"protocol.optimizer.{name}")
        return single if single is _ABSENT else [single]
    if key.startswith(_PREPROCESSING):
        return _preprocessing(document).get(key.removeprefix(_PREPROCESSING), _ABSENT)
    return _at(document, key)


def _at(document: Mapping[str, Any], key: str) -> Any:
    """Return the value at a dotted key of a run's configuration, or ``_ABSENT``."""
    node: Any = document.get("config")
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return _ABSENT
        node = node[part]
    return node


def _preprocessing(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the preprocessing of a run: the encoder's, with what the protocol replaces."""
    stated = (document.get("encoder") or {}).get("preprocessing")
    base = dict(stated or _mapping(_at(document, "model.preprocessing")))
    if not base:
        return {}
    replaced = _mapping(_at(document, "protocol.preprocessing"))
    if (size := _at(document, "protocol.image_size")) not in (None, _ABSENT):
        replaced = {"size": size, **replaced}
    values = {"squash": False, "square": False, **base, **replaced}
    if values.get("resize") is None:
        values["resize"] = values.get("size")
    elif "size" in replaced and "resize" not in replaced and base.get("size"):
        # The crop keeps its share of the image.
        values["resize"] = round(base["resize"] * replaced["size"] / base["size"])
    return values


def _mapping(node: Any) -> dict[str, Any]:
    return dict(node) if isinstance(node, Mapping) else {}


def _equal(own: Any, published: Any) -> bool:
    """Return whether two values are the same; the order within lists does not count."""
    if isinstance(own, _Length) and isinstance(published, _Length):
        return own.unit == published.unit and _equal(own.number, published.number)
    if isinstance(own, list) and isinstance(published, list):
        if not all(_is_number(value) for value in (*own, *published)):
            return own == published
        pairs = zip(sorted(own), sorted(published), strict=False)
        return len(own) == len(published) and all(_equal(*pair) for pair in pairs)
    if _is_number(own) and _is_number(published):
        return math.isclose(own, published, rel_tol=1e-6, abs_tol=1e-12)
    return bool(own == published)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def summary(cells: Sequence[tuple[str, Differences]]) -> str:
    """Return one sentence about what differs in all cells of a protocol.

    Args:
        cells: data sets and what differs on each.
    """
    datasets = list(dict.fromkeys(dataset for dataset, _ in cells))
    places: dict[str, list[str]] = defaultdict(list)
    for dataset, differ in cells:
        for setting in differ.differing:
            if dataset not in places[str(setting)]:
                places[str(setting)].append(dataset)
    parts = ["has no setting to compare"]
    if places:
        texts = [f"{text}{_where(found, datasets)}" for text, found in places.items()]
        parts = [f"differs: {'; '.join(texts)}"]
    elif agreeing := _united(differ.agreeing for _, differ in cells):
        parts = [f"is as published in all {len(agreeing)} settings that are compared"]
    for beginning, names in (
        ("not stated there", _united(differ.unknown for _, differ in cells)),
        ("not recorded here", _united(differ.unrecorded for _, differ in cells)),
        ("also there", _united(differ.remarks for _, differ in cells)),
    ):
        if names:
            parts.append(f"{beginning}: {', '.join(names)}")
    return ". ".join(part[0].upper() + part[1:] if n else part for n, part in enumerate(parts))


def _where(found: Sequence[str], datasets: Sequence[str]) -> str:
    """Return on which data sets a setting differs, unless on all."""
    if len(found) == len(datasets):
        return ""
    more = len(found) - _NAMED_AT_MOST
    named = ", ".join(found[:_NAMED_AT_MOST])
    return f" ({named}{f' and {more} more' if more > 0 else ''})"


def _united(lists: Iterable[Sequence[str]]) -> list[str]:
    return list(dict.fromkeys(name for names in lists for name in names))
