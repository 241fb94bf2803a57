"""Validation of records and failures, and of the values of scores."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from results.errors import ResultsError

KNOWN_SCHEMA = 1
DEEPEST = 60
"""Maximal nesting of a record; configurations have about ten levels."""
LARGEST = 1e100
"""Largest absolute value of a score, so that means and deviations stay finite."""
ROUNDING = 1e-6
"""Tolerance of fractions outside of [0, 1]."""
_NESTED = frozenset({dict, list})


_SEAL_LENGTH = len(',\n "seal": ""\n}') + 64


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _text_or_null(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**64


def _is(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kind)


Rules = Mapping[str, Callable[[Any], bool]]

_BOTH: Rules = {
    "schema": _whole,
    "run_id": _text,
    "model": _text,
    "method": _text,
    "protocol": _text,
    "dataset": _text_or_null,
    "seed": lambda value: value is None or _whole(value),
}
_BY_FILE: Mapping[str, Rules] = {
    "record.json": {
        "status": lambda value: value in ("finished", "not_applicable"),
        "reason": _text_or_null,
        "encoder": _is(dict),
        "config": _is(dict),
        "scores": _is(list),
    },
    "failure.json": {
        "error": _is(str),
        "encoder": lambda value: value is None or isinstance(value, dict),
    },
}
_ENCODER: Rules = {"id": _text_or_null, "label": _text_or_null}
_SCORE: Rules = {
    "metric": _text,
    "unit": _text,
    "higher_is_better": _is(bool),
    "primary": _is(bool),
    "split": _text_or_null,
}


def require_valid(document: Any, content: bytes, path: Path) -> None:
    """Raise an error for a record or failure that tables cannot show.

    Args:
        document: the value of the file, from which the checksum and the seal are removed.
        content: the text of the file.
        path: ``record.json`` or ``failure.json``.

    Raises:
        ResultsError: in one sentence, if it is damaged or newer than this code.
    """
    schema = document.get("schema") if isinstance(document, dict) else None
    if isinstance(schema, int) and _whole(schema) and schema > KNOWN_SCHEMA:
        raise ResultsError(
            f"`{path}` was skipped: it has schema {schema}, but this version reads up to "
            f"{KNOWN_SCHEMA}; update the project to read it."
        )
    if not isinstance(document, dict):
        wrong = ["no valid 'JSON object'"]
    else:
        wrong = list(oddities(document)) or list(_wrong_parts(document, path.name))
    if wrong:
        raise ResultsError(f"`{path}` was skipped: it is damaged ({'; '.join(wrong)}).")
    # The key `checksum` is a hash of the other keys; files of older code lack it.
    stated, _ = document.pop("checksum", None), document.pop("seal", None)
    if stated is not None and not is_sealed(content) and stated != _checksum(document):
        raise ResultsError(
            f"`{path}` was skipped: it was damaged or changed (its checksum is wrong)."
        )


def is_tabular(record: dict[str, Any]) -> bool:
    """Return whether tables can show a record, whose checksum and nesting are not examined."""
    schema = record.get("schema")
    known = isinstance(schema, int) and _whole(schema) and schema <= KNOWN_SCHEMA
    return known and not any(_wrong_parts(record, "record.json"))


def is_sealed(content: bytes) -> bool:
    """Return whether a file is what a run wrote: its last key is the sha256 of the text before."""
    text = content[:-_SEAL_LENGTH] + b"\n}"
    digest = hashlib.sha256(text).hexdigest().encode()
    return content[-_SEAL_LENGTH:] == b',\n "seal": "%b"\n}' % digest


def _checksum(document: dict[str, Any]) -> str:
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _wrong_parts(document: dict[str, Any], name: str) -> Iterator[str]:
    wrong = _wrong_keys(document, {**_BOTH, **_BY_FILE[name]})
    if isinstance(document.get("encoder"), dict):
        wrong += [f"encoder.{key}" for key in _wrong_keys(document["encoder"], _ENCODER)]
    config = document.get("config", {})
    if not isinstance(config, dict):
        wrong += [] if "config" in wrong else ["config"]
    scores = document.get("scores", []) if name == "record.json" and not wrong else []
    for score in scores:
        wrong += _wrong_keys(score, _SCORE) if isinstance(score, dict) else ["JSON object"]
    if wrong:
        yield f"no valid {', '.join(map(repr, dict.fromkeys(wrong)))}"
        return
    counts = Counter((score["metric"], score.get("split") or "") for score in scores)
    primary = {score["metric"] for score in scores if score["primary"]}
    if scores and len(primary) != 1:
        yield f"{len(primary)} primary metrics"
    for (metric, split), count in counts.items():
        if count > 1:
            yield f"{count} scores `{metric}`{f' on `{split}`' if split else ''}"


def _wrong_keys(node: Mapping[str, Any], rules: Rules) -> list[str]:
    return [key for key, valid in rules.items() if not valid(node.get(key))]


def oddities(document: dict[str, Any]) -> Iterator[str]:
    """Yield the faults that may occur in any part of a record, at most once."""
    if is_too_deep(document):
        yield f"nested more than {DEEPEST} levels deep"
        return
    try:  # JSON may contain unpaired surrogates
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        yield "text that is not valid Unicode"


def is_too_deep(document: dict[str, Any]) -> bool:
    """Return whether a record is nested more deeply than any configuration."""
    level: list[Any] = [document]
    for _ in range(DEEPEST + 1):
        values = [one.values() if type(one) is dict else one for one in level]
        # Most nodes, such as the names of classes, hold no other nodes.
        nodes = [some for some in values if not _NESTED.isdisjoint(map(type, some))]
        level = [one for one in chain.from_iterable(nodes) if type(one) in _NESTED]
    return bool(level)


def impossible(score: Mapping[str, Any]) -> str | None:
    """Return why a score's value is impossible, such as a fraction of 170 %, or None.

    Args:
        score: a score whose keys except ``value`` are valid.
    """
    value, metric = score.get("value"), score["metric"]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"`{metric}` is {_shown(value)}, which is not a number"
    if not abs(value) <= LARGEST:
        return f"`{metric}` is {_shown(value)}, which is not finite"
    if score["unit"] == "fraction" and not -ROUNDING <= value <= 1 + ROUNDING:
        return f"`{metric}` is {100 * value:.6g} %, but a fraction lies between 0 and 100 %"
    return None


def _shown(value: Any) -> str:
    if isinstance(value, float) and math.isnan(value):
        return "NaN"
    text = "null" if value is None else repr(value)
    return text if len(text) <= 40 else f"{text[:39]}…"
