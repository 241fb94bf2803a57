"""Encoder references: the other encoders that a method's node names, such as a teacher.

A reference is either the name of a model, whose weights are used without training, or a mapping
with the keys ``model`` (default: the run's own), ``method`` (default: ``as_is``), ``seed`` (of the
method) and ``overrides`` (as on the command line). ``expanded`` replaces the names by whole nodes,
so that ids and frozen configurations contain what the names meant.
"""

import copy
import enum
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from hydra.errors import ConfigCompositionException, HydraException
from omegaconf import DictConfig, OmegaConf

from ssl_transfer.config import places
from ssl_transfer.config.arguments import quoted
from ssl_transfer.config.composition import compose
from ssl_transfer.config.hydra_errors import did_you_mean, sentence

T = TypeVar("T")


class Role(enum.Enum):
    """How a method uses the encoder that a reference names."""

    INITIAL_WEIGHTS = "the trained encoder starts from its weights"
    ARGUMENT = "the method's constructor receives it under the key's name"
    MEMBER = "its features are a part of the run's encoder"


class Reference(NamedTuple):
    """The role of a key that holds references."""

    role: Role
    several: bool = False
    """Whether the key holds a list of references."""


REFERENCES = {
    "start_from": Reference(Role.INITIAL_WEIGHTS),
    "teacher": Reference(Role.ARGUMENT),
    "teachers": Reference(Role.ARGUMENT, several=True),
    "members": Reference(Role.MEMBER, several=True),
}
"""The keys of a method's node that hold references."""

AXES = ("model", "method")
"""The keys of an expanded reference."""

_KNOWN = {*AXES, "seed", "overrides"}

Node = dict[str, Any]


def plain(config: DictConfig) -> dict[str, Any]:
    """Return a composed configuration as plain dictionaries, interpolations unresolved.

    Raises:
        hydra.errors.HydraException: if an encoder reference in it does not compose.
    """
    container = OmegaConf.to_container(config, resolve=False, enum_to_str=True)
    assert isinstance(container, dict)
    return expanded({str(k): v for k, v in container.items() if k != "hydra"})


def expanded(config: Node) -> Node:
    """Return a composed configuration with the references of its method expanded.

    Values that are not references, or are already expanded, are returned unchanged;
    ``config.problems`` checks them.

    Args:
        config: plain, interpolations unresolved.

    Raises:
        hydra.errors.HydraException: in one sentence, for an unknown name.
    """
    method = config.get("method")
    if not isinstance(method, Mapping):
        return config
    references = items(method)
    for path, value in references.items():
        _refuse_keys(f"method.{path}", value)
    if not any(_is_short(value) for value in references.values()):
        return config
    nodes = {
        path: _nodes(f"method.{path}", value, config) if _is_short(value) else value
        for path, value in references.items()
    }
    return {**config, "method": {**method, **by_key(nodes)}}


def items(method: Mapping[str, Any]) -> dict[str, Any]:
    """Return the references of a method's node by their paths, e.g. ``teacher``, ``teachers[0]``.

    A key that should hold a list but does not, or the reverse, counts as one item.
    """
    references: dict[str, Any] = {}
    for key, reference in REFERENCES.items():
        value = method.get(key)
        if reference.several and isinstance(value, list):
            references |= {f"{key}[{number}]": item for number, item in enumerate(value)}
        elif value is not None:
            references[key] = value
    return references


def role(path: str) -> Role:
    """Return the role of the reference at a path."""
    return REFERENCES[path.partition("[")[0]].role


def by_key(values: Mapping[str, T]) -> dict[str, T | list[T]]:
    """Return values by path (see ``items``) grouped by key: single values or lists."""
    grouped: dict[str, T | list[T]] = {}
    for path, value in values.items():
        key, bracket, _ = path.partition("[")
        if bracket:
            several = grouped.setdefault(key, [])
            assert isinstance(several, list)
            several.append(value)
        else:
            grouped[key] = value
    return grouped


def _is_short(value: Any) -> bool:
    """Return whether a value is a reference that contains names."""
    if isinstance(value, str):
        return value != "???"  # a required value that is missing
    return isinstance(value, Mapping) and value.keys() <= _KNOWN and not _is_whole(value)


def _is_whole(value: Any) -> bool:
    """Return whether a value is an expanded reference with both nodes."""
    return isinstance(value, Mapping) and all(isinstance(value.get(axis), Mapping) for axis in AXES)


def whole(method: Mapping[str, Any]) -> dict[str, Node]:
    """Return path -> nodes ``model`` and ``method`` of the references in an expanded method."""
    return {path: value for path, value in items(method).items() if _is_whole(value)}


def _nodes(path: str, value: str | Mapping[str, Any], config: Node) -> Node:
    """Return the nodes ``model`` and ``method`` that a reference names."""
    named = {"model": value} if isinstance(value, str) else dict(value)
    for axis in AXES:
        _refuse_file(path, axis, named.get(axis))
    overrides = [places.quoted(str(override)) for override in named.get("overrides") or ()]
    if named.get("seed") is not None:
        overrides.insert(0, f"method.seed={named['seed']}")
    axes = {axis: named.get(axis) for axis in AXES}
    for axis, name in axes.items():
        # The run's own model, and whole nodes, need no composition.
        fixed = isinstance(name, Mapping) or (axis == "model" and name is None)
        if fixed and any(_axis(override) == axis for override in overrides):
            raise ConfigCompositionException(
                f"`{path}.seed` and `.overrides` must leave the {axis} alone unless "
                f"`{path}.{axis}` is a name, but change it by {overrides}; name it"
            )
    options = [f"{axis}={name}" for axis, name in axes.items() if isinstance(name, str)]
    try:
        other = plain(compose([*options, *overrides]))
    except HydraException as error:
        raise ConfigCompositionException(f"`{path}`: {sentence(error)}") from error
    nodes = {axis: axes[axis] if isinstance(axes[axis], Mapping) else other[axis] for axis in axes}
    if axes["model"] is None:
        nodes["model"] = copy.deepcopy(config["model"])
    return nodes


def _refuse_keys(path: str, value: Any) -> None:
    """Raise an error for keys that a reference does not have."""
    unknown = [] if not isinstance(value, Mapping) else sorted(map(str, value.keys() - _KNOWN))
    if unknown:
        elsewhere = f"; keys of its method belong into overrides:[method.{unknown[0]}=…]"
        raise ConfigCompositionException(
            f"`{path}` must have no keys but {', '.join(sorted(_KNOWN))}, but has `{unknown[0]}`"
            f"{did_you_mean(unknown[0], _KNOWN) or elsewhere}"
        )


def _refuse_file(path: str, axis: str, name: Any) -> None:
    """Raise an error for a file path instead of the name of an option."""
    if isinstance(name, str) and ("/" in name or Path(name).suffix):
        override = quoted(f"model.weights.path={quoted(name)}")
        remedy = shlex.quote(f"{path}={{model:NAME,overrides:[{override}]}}")
        raise ConfigCompositionException(
            f"`{path}` must name an option of `{axis}`, but is the file `{name}`; write {remedy} "
            "with the option of its architecture"
        )


def _axis(override: str) -> str:
    """Return the first part of an override's key."""
    return override.lstrip("+~").partition("=")[0].rpartition("@")[2].partition(".")[0]
