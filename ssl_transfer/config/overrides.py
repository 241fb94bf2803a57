"""The command-line overrides that compose a node of a configuration, so that a record can say them.

A run's configuration does not say which options, recipes and experiments it was composed from. The
overrides of this module need none of them: an option of the axis, and every key that differs.
"""

import contextlib
import functools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ssl_transfer.config.arguments import quoted
from ssl_transfer.config.composition import compose, options
from ssl_transfer.config.references import plain
from ssl_transfer.config.schema import AXES, CONF

_MOUNTED = {
    ("method", "pretrain_on"): "dataset",
    ("protocol", "statistics"): "dataset",
    ("method", "optimizer"): "optimizer",
    ("protocol", "optimizer"): "optimizer",
}
"""Nodes inside an axis that are options of another group."""

_MISSING = object()
_REFUSALS = (HydraException, OmegaConfBaseException, ValueError, KeyError)
Node = dict[str, Any]


def overrides_of(config: Mapping[str, Any]) -> dict[str, list[str] | None]:
    """Return the overrides that compose each axis of a configuration, and its paths.

    All of them together, with ``seed`` and ``precision``, compose the run of the configuration.

    Args:
        config: the configuration of a run, plain, interpolations unresolved.

    Returns:
        By axis, and ``paths``: an option and the keys that differ from it. None if no option of
        this project composes the node, such as one from a user's own code. Axes that the
        configuration lacks are left out.
    """
    nodes = {
        axis: json.loads(json.dumps(config[axis]))
        for axis in AXES
        if isinstance(config.get(axis), Mapping) and not _is_pretraining(axis, config[axis])
    }
    overrides = dict(_overrides_by_axis(nodes))
    if isinstance(config.get("paths"), Mapping):
        overrides["paths"] = list(_differences(_default_paths(), config["paths"], "paths"))
    return overrides


_known: dict[str, list[str] | None] = {}
"""Axis and node as JSON -> overrides. A composition by Hydra takes a quarter of a second."""
_KNOWN_AT_MOST = 4096


def _overrides_by_axis(nodes: Mapping[str, Node]) -> Iterator[tuple[str, list[str] | None]]:
    """Yield each axis and its overrides; those that are unknown are composed together."""
    keys = {axis: json.dumps([axis, node], sort_keys=True) for axis, node in nodes.items()}
    if len(_known) > _KNOWN_AT_MOST:
        _known.clear()
    unknown = {axis: node for axis, node in nodes.items() if keys[axis] not in _known}
    overrides = _of_named(unknown)
    for axis, node in nodes.items():
        if axis in unknown:
            _known[keys[axis]] = overrides[axis] if axis in overrides else _of_axis(axis, node)
        yield axis, _known[keys[axis]]


def _of_named(nodes: Mapping[str, Node]) -> dict[str, list[str]]:
    """Return the overrides of axes whose nodes are named after their options.

    All of them are composed at once. An axis for which this fails is left out.
    """
    named = {axis: node for axis, node in nodes.items() if node.get("name") in options(axis)}
    if not named:
        return {}
    with contextlib.suppress(*_REFUSALS):
        lines = _lines({axis: str(node["name"]) for axis, node in named.items()}, named)
        composed = _composed(_joined(lines.values()))
        return {axis: lines[axis] for axis in lines if _is_same(composed, named, axis)}
    return {}


def _is_pretraining(axis: str, node: Mapping[str, Any]) -> bool:
    """Return whether a node is the protocol of a pre-training, which has no keys."""
    return axis == "protocol" and node.get("_target_") is None


def _of_axis(axis: str, node: Node) -> list[str] | None:
    """Return the fewest overrides that compose a node of an axis; None if there are none."""
    candidates = []
    for option in _options_of(axis, node):
        with contextlib.suppress(*_REFUSALS):
            lines = _lines({axis: option}, {axis: node})[axis]
            if _is_same(_composed(lines), {axis: node}, axis):
                candidates.append(lines)
    return min(candidates, key=len, default=None)


def _lines(chosen: Mapping[str, str], nodes: Mapping[str, Node]) -> dict[str, list[str]]:
    """Return the overrides that turn chosen options into nodes, by axis."""
    lines = {axis: [f"{axis}={option}"] for axis, option in chosen.items()}
    base = _composed(_joined(lines.values()))
    for axis, node in nodes.items():
        lines[axis] += _mounts(axis, base[axis], node)
    base = _composed(_joined(lines.values()))
    return {
        axis: [*lines[axis], *_differences(base[axis], node, axis)] for axis, node in nodes.items()
    }


def _joined(lines: Iterable[Sequence[str]]) -> list[str]:
    """Return overrides of several axes as one list."""
    return [line for one in lines for line in one]


def _is_same(composed: Node, nodes: Mapping[str, Node], axis: str) -> bool:
    return not any(_differences(composed[axis], nodes[axis], axis))


def _options_of(axis: str, node: Mapping[str, Any]) -> Sequence[str]:
    """Return the options that a node may have been composed from.

    The name of a node is usually that of its option. Otherwise the options with its target count.
    """
    known = options(axis)
    if (name := node.get("name")) in known:
        return [str(name)]
    target = f"_target_: {node.get('_target_')}\n"
    return [option for option in known if target in _text(axis, option)]


def _text(axis: str, option: str) -> str:
    try:
        return (CONF / axis / f"{option}.yaml").read_text(encoding="utf-8") + "\n"
    except OSError:
        return ""


def _mounts(axis: str, base: Mapping[str, Any], node: Mapping[str, Any]) -> Iterator[str]:
    """Yield the choices of options for nodes inside an axis that are another option's."""
    for (owner, key), group in _MOUNTED.items():
        inner, default = node.get(key), base.get(key)
        if owner != axis or not isinstance(inner, Mapping) or not isinstance(default, Mapping):
            continue
        label = (
            "_target_"
            if "_target_" in inner and inner.get("name") not in options(group)
            else "name"
        )
        if inner.get(label) != default.get(label) and (known := _options_of(group, inner)):
            yield f"{group}@{axis}.{key}={known[0]}"


@functools.cache
def _default_paths() -> Node:
    """Return the paths that a configuration has without overrides."""
    paths = OmegaConf.to_container(OmegaConf.load(CONF / "paths" / "default.yaml"))
    assert isinstance(paths, dict)
    return {str(key): value for key, value in paths.items()}


def _composed(lines: Sequence[str]) -> dict[str, Any]:
    config = plain(compose(lines))
    return dict(json.loads(json.dumps(config)))  # tuples become lists, as in records


def _differences(base: Any, node: Any, path: str) -> Iterator[str]:
    """Yield the overrides that turn one node into another.

    A key that is null in the first and missing in the second is no difference: records of earlier
    code lack the keys that were added later.
    """
    if base is _MISSING:
        yield f"+{path}={_literal(node)}"
    elif isinstance(base, Mapping) and isinstance(node, Mapping):
        removed = (key for key in base if key not in node and base[key] is not None)
        yield from (f"~{path}.{key}" for key in removed)
        for key, value in node.items():
            yield from _differences(base.get(key, _MISSING), value, f"{path}.{key}")
    elif base != node or type(base) is not type(node):
        yield f"{path}={_literal(node)}"


def _literal(value: Any) -> str:
    """Return a value in Hydra's grammar."""
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(_literal(item) for item in value) + "]"
    return json.dumps(value) if value is None or isinstance(value, bool) else repr(value)
