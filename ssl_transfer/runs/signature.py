"""Checks of a configuration's keys, types and ranges, before any data are read."""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from omegaconf.errors import OmegaConfBaseException

from ssl_transfer.config import AXES, locate, options, places, resolve
from ssl_transfer.config.arguments import argument
from ssl_transfer.config.hydra_errors import did_you_mean
from ssl_transfer.config.ranges import faults, shown
from ssl_transfer.config.resolution import missing_keys
from ssl_transfer.config.schema import (
    NEEDED,
    UNTRAINED,
    LoggerOptions,
    PathOptions,
    RootOptions,
    TrainerOptions,
)
from ssl_transfer.runs import config_parts
from ssl_transfer.training.batch_rules import group_problem, share_problem


def problems(config: Mapping[str, Any], *, processes: int = 1) -> list[str]:
    """Return one sentence for each problem of a composed configuration.

    Only the code that the configuration names is imported; ``preflight.check`` checks the data and
    the weights.

    Args:
        config: the whole configuration, plain, interpolations unresolved.
        processes: number of processes that will share a batch.
    """
    try:
        if missing := missing_keys(config):
            return [f"`{key}` must be given; add `{key}=…` to the command line." for key in missing]
        resolved = resolve(config)
    except OmegaConfBaseException as error:
        return [f"every interpolation must resolve, but {str(error).splitlines()[0]}."]
    sentences = shared_problems(resolved)
    sentences += places.problems(resolved)
    for axis in AXES:
        if (
            axis == "dataset"
            and resolved[axis] is None
            and _name(resolved["protocol"]) == "pretrain"
        ):
            continue  # the method has the pre-training set
        sentences += _node_problems(axis, resolved[axis])
    if not sentences:
        sentences += _pretraining_problems(resolved)
        sentences += _batch_problems(resolved, processes)
        sentences += _start_problems(resolved)
    return sentences


def shared_problems(config: Mapping[str, Any], *, with_monitor: bool = True) -> list[str]:
    """Return the problems outside of the axes; fast enough to check finished runs, too.

    Args:
        config: the whole configuration.
        with_monitor: whether to check ``trainer.monitor``, too, which imports torch.
    """
    if missing := list(_missing(config)):
        return [f"`{key}` must be given, but is removed; leave out `~{key}`." for key in missing]
    own = {key: value for key, value in config.items() if key not in (*AXES, "hydra")}
    seed = own.get("seed")
    # The runs of a sweep differ in their seeds; a plain valid seed needs no check.
    plain_seed = type(seed) is int and 0 <= seed < 1 << 31
    distinguishing = {key: value for key, value in own.items() if key != "seed" or not plain_seed}
    seen: tuple[str, str] | None = ("" if with_monitor else "light", repr(distinguishing))
    if seen in _FINE:
        return []
    try:
        resolved = resolve(own)
    except OmegaConfBaseException:  # a value may refer to one in an axis
        seen = None
        resolved = {key: resolve(config)[key] for key in own}
    sentences = signature_problems("", RootOptions, resolved, supplied=frozenset(AXES))
    groups = {"trainer": TrainerOptions, "paths": PathOptions, "logger": LoggerOptions}
    for group, options_of in groups.items():
        node = resolved.get(group, {"name": "none"} if group == "logger" else {})
        if not isinstance(node, Mapping):
            sentences.append(f"`{group}` must be an option of its group, but is {shown(node)}.")
            continue
        sentences += signature_problems(group, options_of, node, supplied=frozenset())
        if with_monitor and (monitor := node.get("monitor")) is not None:
            sentences += _node_problems("trainer.monitor", monitor)
    if not sentences and seen is not None:
        _FINE.add(seen)
    return sentences


def _missing(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the keys that a run needs and a configuration lacks."""
    yield from (key for key in NEEDED if key not in config)
    for axis in AXES:
        node = config.get(axis)
        needed = ("name", "seed") if axis == "method" else ("name",)
        if isinstance(node, dict):
            yield from (f"{axis}.{key}" for key in needed if key not in node)


def _name(node: Any) -> Any:
    return node.get("name") if isinstance(node, Mapping) else None


# Correct nodes as (path, text), which the runs of a sweep share. Wrong nodes are checked again,
# because the code that they name may have been corrected in the meantime.
_FINE: set[tuple[str, str]] = set()


def _node_problems(path: str, node: Any) -> list[str]:
    """Return the problems of one axis's node."""
    seen = (path, repr(node))
    if seen in _FINE:
        return []
    # A key that two callables receive is told once.
    sentences = list(dict.fromkeys(_bind(path, node)))
    if not sentences:
        _FINE.add(seen)
    return sentences


def _bind(path: str, node: Any) -> list[str]:
    """Return the problems of binding a node's keys to its target, its options and its optimizer."""
    if not isinstance(node, Mapping):
        return [f"`{path}` must be an option of its group, but is {node!r}."]
    sentences: list[str] = []
    checkable: list[Callable[[], list[str]]] = []
    for part in config_parts.parts(path, node):
        if not isinstance(part.keys, Mapping):
            sentences.append(f"`{part.path}` must be a mapping of keys, but is {part.keys!r}.")
            continue
        if not (isinstance(part.target, str) or callable(part.target)):
            sentences.append(
                f"`{part.path}._target_` must name a function or class, but is {part.target!r}."
            )
            continue
        try:
            target = locate(part.target) if isinstance(part.target, str) else part.target
        except ValueError as error:
            sentences.append(f"`{part.path}`: {error}")
            continue
        sentences += signature_problems(part.path, target, part.keys, supplied=part.supplied)
        if part.built:
            checkable.append(functools.partial(_value_problems, part.path, target, part.keys))
    return sentences or [problem for check in checkable for problem in check()]


def _value_problems(path: str, target: Callable[..., Any], keys: Mapping[str, Any]) -> list[str]:
    """Call a target that checks its own values; return its complaint."""
    try:
        target(**keys)
    except ValueError as error:
        return [f"`{path}`: {error}"]
    return []


def signature_problems(
    path: str, target: Callable[..., Any], keys: Mapping[str, Any], *, supplied: frozenset[str]
) -> list[str]:
    """Return the problems of the call ``target(**keys)``, without making it.

    Args:
        path: path of the keys in the configuration.
        target: function or class.
        keys: the keyword arguments.
        supplied: parameters that the caller adds.
    """
    parameters = inspect.signature(target).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    named = [
        name
        for name, p in parameters.items()
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and name not in supplied
    ]
    place, whole = (f"{path}.", f"`{path}`") if path else ("", "the configuration")
    sentences = []
    for key in keys:
        if key not in named and not open_ended:
            hint = did_you_mean(str(key), named) or f"; known keys: {', '.join(named)}."
            sentences.append(f"`{place}{key}` is not a key of {whole}{hint}")
    for name in named:
        if parameters[name].default is inspect.Parameter.empty and name not in keys:
            sentences.append(f"`{place}{name}` must be given.")
    for key, fault in faults(target, keys).items():
        remedy = ""
        if fault.must == "be str" and type(keys[key]) in (int, float):
            typed = argument(f"{place}{key}", str(keys[key]))
            remedy = f"; quote a text that looks like a number, as in {typed}"
        sentences.append(fault.sentence(f"{place}{key}", remedy))
    return sentences


def _pretraining_problems(config: Mapping[str, Any]) -> Iterator[str]:
    method = config["method"]
    if config["protocol"]["name"] == "pretrain" and method.get("_target_") is None:
        known = ", ".join(name for name in options("method") if name not in UNTRAINED)
        yield (
            f"`method` must pre-train for `protocol=pretrain`, but is {method['name']!r}, "
            f"which takes weights as they are; known methods: {known}."
        )


def _start_problems(config: Mapping[str, Any]) -> Iterator[str]:
    start, model = config["method"].get("start_from"), config["model"]
    path = (model.get("weights") or {}).get("path")
    if start is not None and path is not None and start["model"] != model:
        yield (
            "`model.weights.path` must be null where `method.start_from` names another model's "
            f"weights, but is {path!r}; remove either."
        )


def _batch_problems(config: Mapping[str, Any], processes: int) -> Iterator[str]:
    accumulate = config["trainer"]["accumulate"]
    for owner in ("method", "protocol"):
        node = config[owner]
        size = node.get("batch_size")
        if size is None or (owner == "protocol" and config["protocol"]["name"] == "pretrain"):
            continue
        where, groups = f"{owner}.", node.get("bn_groups", 1)
        rules = (
            share_problem(size, processes, accumulate, owner=where),
            group_problem(groups, processes, batch_size=size, owner=where),
        )
        yield from filter(None, rules)
