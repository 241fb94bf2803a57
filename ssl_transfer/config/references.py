"""Encoder references: the other encoders that a method's node names, such as a teacher.

A reference is either the name of a model, whose weights are used without training, or a mapping
with the keys ``model`` (default: the run's own), ``method`` (default: ``as_is``), ``seed`` (of the
method), ``epoch`` (whose encoder is meant instead of the final one: a snapshot) and ``overrides``
(as on the command line). Where several references may stand, a mapping with the lists ``seeds`` or
``epochs`` stands for one reference per pair of both. ``expanded`` replaces the names by whole
nodes, so that ids and frozen configurations contain what the names meant.
"""

import copy
import itertools
import pickle
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from hydra.errors import ConfigCompositionException, HydraException
from omegaconf import DictConfig, OmegaConf

from ssl_transfer.config import places
from ssl_transfer.config.arguments import quoted
from ssl_transfer.config.composition import compose_plain
from ssl_transfer.config.hydra_errors import did_you_mean, sentence
from ssl_transfer.config.roles import REFERENCES, Role

T = TypeVar("T")

AXES = ("model", "method")
"""The keys of an expanded reference."""

_SINGULAR = {"seeds": "seed", "epochs": "epoch"}
"""Keys of a mapping that stands for several references, and the key of each reference."""

_KNOWN = {*AXES, "seed", "epoch", "overrides"}

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
    method = _spread(method)
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


def _spread(method: Mapping[str, Any]) -> Node:
    """Return a method's node with a reference for each that a mapping stands for."""
    spread = dict(method)
    for key, reference in REFERENCES.items():
        value = method.get(key)
        if reference.several and isinstance(value, list):
            several = (_single(f"method.{key}[{i}]", item) for i, item in enumerate(value))
            spread[key] = list(itertools.chain.from_iterable(several))
        elif reference.several and _stands_for_several(value):
            spread[key] = _single(f"method.{key}", value)
    return spread


def _stands_for_several(value: Any) -> bool:
    return isinstance(value, Mapping) and any(key in value for key in _SINGULAR)


def _single(path: str, value: Any) -> list[Any]:
    """Return the references that a value stands for; those of a mapping are a product, in order."""
    if not _stands_for_several(value):
        return [value]
    axes = {key: value[key] for key in _SINGULAR if key in value}
    for key, numbers in axes.items():
        _refuse_numbers(f"{path}.{key}", numbers)
        if (single := _SINGULAR[key]) in value:
            raise ConfigCompositionException(
                f"`{path}` must have one of `{single}` and `{key}`, but has both; remove one"
            )
    shared = {key: part for key, part in value.items() if key not in axes}
    names = [_SINGULAR[key] for key in axes]
    return [
        {**copy.deepcopy(shared), **dict(zip(names, numbers, strict=True))}
        for numbers in itertools.product(*axes.values())
    ]


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
    for key, owner in (("epoch", "method.snapshot"), ("seed", "method.seed")):
        if named.get(key) is not None:
            overrides.insert(0, f"{owner}={named[key]}")
    axes = {axis: named.get(axis) for axis in AXES}
    for axis, name in axes.items():
        # The run's own model, and whole nodes, need no composition.
        fixed = isinstance(name, Mapping) or (axis == "model" and name is None)
        if fixed and any(_axis(override) == axis for override in overrides):
            raise ConfigCompositionException(
                f"`{path}.seed`, `.epoch` and `.overrides` must leave the {axis} alone unless "
                f"`{path}.{axis}` is a name, but change it by {overrides}; name it"
            )
    options = [f"{axis}={name}" for axis, name in axes.items() if isinstance(name, str)]
    try:
        other = expanded(compose_plain([*options, *overrides]))
    except HydraException as error:
        raise ConfigCompositionException(f"`{path}`: {sentence(error)}") from error
    nodes = {axis: axes[axis] if isinstance(axes[axis], Mapping) else other[axis] for axis in axes}
    nodes = dict(pickle.loads(pickle.dumps(nodes)))  # a copy: the composer keeps the others
    if axes["model"] is None:
        nodes["model"] = copy.deepcopy(config["model"])
    return nodes


def _refuse_numbers(path: str, numbers: Any) -> None:
    """Raise an error unless a value is a list of one integer or more."""
    remedy = ""
    if not isinstance(numbers, list):
        shown, remedy = repr(numbers), f"; write [{numbers}]" * (type(numbers) is int)
    elif wrong := [number for number in numbers if type(number) is not int]:
        shown = f"{numbers}, of which {wrong[0]!r} is none"
    elif not numbers:
        shown = "empty"
    else:
        return
    raise ConfigCompositionException(
        f"`{path}` must be a list of one integer or more, but is {shown}{remedy}"
    )


def _refuse_keys(path: str, value: Any) -> None:
    """Raise an error for keys that a reference does not have."""
    several = REFERENCES[path.removeprefix("method.").partition("[")[0]].several
    known = _KNOWN | (_SINGULAR.keys() if several else set())
    unknown = [] if not isinstance(value, Mapping) else sorted(map(str, value.keys() - known))
    if unknown:
        key = unknown[0]
        elsewhere = f"; keys of its method belong into overrides:[method.{key}=…]"
        if key in _SINGULAR:  # of a single encoder
            elsewhere = f", not `{_SINGULAR[key]}`{elsewhere}"
        else:
            elsewhere = did_you_mean(key, known) or elsewhere
        raise ConfigCompositionException(
            f"`{path}` must have no keys but {', '.join(sorted(known))}, but has `{key}`{elsewhere}"
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
