"""Command lines that run a protocol for encoders whose records lie at hand.

A command is built from the overrides that a record holds: an option of each axis and the keys that
differ from it. It composes the same encoder, and therefore the same id.
"""

import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from results.records.reading import Results

PLAIN = re.compile(r"[\w./-]+", re.ASCII)
"""Names of options."""
_WORD = re.compile(r"[A-Za-z_][\w./-]*", re.ASCII)
_VALUES = frozenset({"null", "true", "false", "nan", "inf"})  # words that Hydra reads as values
_ASSUMED = (
    "records of earlier code do not hold their overrides: keys in which all records of an option "
    "agree are assumed to have the option's values"
)


def commands_for(
    results: Results,
    encoders: Sequence[str],
    dataset: str,
    *,
    proxy: str,
    protocol: Sequence[str],
    seeds: Sequence[int],
    failed: Sequence[str] = (),
    without: Sequence[str] = (),
) -> tuple[list[str], list[str]]:
    """Return commands that run a protocol for some encoders, and remarks about them.

    Encoders that differ in the option of their model only share a command.

    Args:
        results: the results, with records of the encoders.
        encoders: their labels.
        dataset: the label of the dataset.
        proxy: the protocol whose records are preferred.
        protocol: the overrides of the protocol to run.
        seeds: the seeds to run; none means the default.
        failed: encoders whose run failed before.
        without: keys of the records' datasets whose overrides are left out.
    """
    dropped = tuple(f"dataset.{key}=" for key in without)
    groups: dict[tuple[str, ...], list[str]] = {}
    remarks = []
    for encoder in encoders:
        document = _document(results, encoder, dataset, proxy)
        parts = None if document is None else _parts(results, document)
        if parts is None:
            remarks.append(f"no option of this project composes {encoder}: run it by your own code")
            continue
        if document is not None and not isinstance(document.get("overrides"), Mapping):
            remarks.append(_ASSUMED)
        model, *rest = parts["model"]
        key = [*rest, *parts["method"]]
        key += [line for line in parts["dataset"] if not line.startswith(dropped)]
        key += protocol
        key += [line for axis in ("precision", "paths") for line in parts[axis]]
        key += ["retry=true"] if encoder in failed else []
        groups.setdefault(tuple(key), []).append(model.removeprefix("model="))
    return [_command(models, key, seeds) for key, models in groups.items()], list(
        dict.fromkeys(remarks)
    )


def _command(models: Sequence[str], lines: Sequence[str], seeds: Sequence[int]) -> str:
    """Return one command line for the shell."""
    several = len(models) > 1 or len(seeds) > 1
    seed = [] if list(seeds) in ([], [0]) else [f"seed={','.join(map(str, seeds))}"]
    words = [f"model={','.join(models)}", *lines, *seed]
    return shlex.join(["python", "run.py", *(["-m"] if several else []), *words])


def _document(results: Results, encoder: str, dataset: str, proxy: str) -> Mapping[str, Any] | None:
    """Return a record of an encoder on a dataset, that of the proxy if there is one."""
    protocol = proxy.partition("@")[0].partition(":")[0]
    rows = [row for row in results.rows if (row.encoder, row.dataset) == (encoder, dataset)]
    rows.sort(key=lambda row: (row.protocol != protocol, row.protocol, row.seed, row.run_id))
    for row in rows:
        if (document := results.documents.get(row.run_id)) is not None:
            return document
    return None


def _parts(results: Results, document: Mapping[str, Any]) -> dict[str, list[str]] | None:
    """Return the overrides of a record by axis; None if there are none for one of them."""
    parts: dict[str, list[str]] = {"paths": [], "precision": []}
    for axis in ("model", "method", "dataset"):
        if isinstance(document.get("overrides"), Mapping):
            lines = stated_overrides(document, axis)
        else:
            lines = _assumed(results, document, axis)
        if not lines:
            return None
        parts[axis] = lines
    parts["paths"] = _paths(stated_overrides(document, "paths") or [])
    precision = str(document.get("precision") or "fp32")
    parts["precision"] = [] if precision == "fp32" else [f"precision={precision}"]
    return parts


def _paths(lines: Sequence[str]) -> list[str]:
    """Return the overrides of paths that differ from what the current folder gives."""
    stated = dict(line.removeprefix("paths.").partition("=")[::2] for line in lines)
    defaults = {"features": f"{stated.get('outputs', 'outputs')}/features"}
    for name in ("outputs", "data", "weights"):
        if f"SSL_TRANSFER_{name.upper()}" not in os.environ:
            defaults[name] = str(Path.cwd() / name)
    return [f"paths.{key}={value}" for key, value in stated.items() if defaults.get(key) != value]


def stated_overrides(document: Mapping[str, Any] | None, axis: str) -> list[str] | None:
    """Return the overrides of an axis that a record holds; None if it holds none.

    A record may come from anybody: an override of anything else than the axis is not taken.
    """
    overrides = (document or {}).get("overrides")
    lines = overrides.get(axis) if isinstance(overrides, Mapping) else None
    own = re.compile(rf"([+~]{{0,2}}{axis}[.=]|\w+@{axis}\.).*", re.DOTALL)
    if not isinstance(lines, list):
        return None
    return lines if all(isinstance(line, str) and own.fullmatch(line) for line in lines) else None


def _assumed(results: Results, document: Mapping[str, Any], axis: str) -> list[str]:
    """Return an option and the keys in which records of the same option differ."""
    node = _node(document, axis)
    name = node.get("name")  # that of the option, unless it is put together from other keys
    name = name if isinstance(name, str) and PLAIN.fullmatch(name) else document.get(axis)
    if not isinstance(name, str) or not PLAIN.fullmatch(name):
        return []
    documents = results.documents.values()
    others = [_node(other, axis) for other in documents if other.get(axis) == document.get(axis)]
    lines = (
        f"{axis}.{key}={_literal(value)}"
        for key, value in node.items()
        if any(other.get(key, value) != value for other in others)
    )
    return [f"{axis}={name}", *lines]


def _node(document: Mapping[str, Any], axis: str) -> dict[str, Any]:
    """Return the leaves of an axis of a record's configuration by dotted keys."""
    config = document.get("config")
    node = config.get(axis) if isinstance(config, Mapping) else None
    return dict(_leaves(node, "")) if isinstance(node, Mapping) else {}


def _leaves(node: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _literal(value: Any) -> str:
    """Return a value in the grammar of Hydra's overrides."""
    if isinstance(value, str):
        if _WORD.fullmatch(value) and value.lower() not in _VALUES:
            return value
        escaped = re.sub(
            r'(\\*)"', r'\1\1\\"', value
        )  # Hydra's rule: backslashes before a quote count
        tail = re.search(r"\\*$", escaped)
        return f'"{escaped}{tail[0] if tail else ""}"'
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return f"[{','.join(map(_literal, value))}]"
    return json.dumps(value) if value is None or isinstance(value, bool) else repr(value)
