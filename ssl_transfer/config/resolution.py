"""Resolution of a configuration's interpolations, each node once for the same content.

The runs of a sweep share most of their nodes. A node is known again by its content, which Python's
``marshal`` writes ten times as fast as JSON or ``repr``.
"""

import functools
import marshal
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ssl_transfer.config import places

_VARIABLE = re.compile(r"oc\.env:([^,}]*)")
_VERSION = 2
"""Of ``marshal``'s format: the last one in which equal values have equal bytes."""


class _Facts(NamedTuple):
    """What the resolution of a node depends on.

    Args:
        loose: the texts of the node with an interpolation or a missing value.
        variables: the environment variables that it mentions, ``HOME`` for ``~`` included.
    """

    loose: tuple[str, ...]
    variables: tuple[str, ...]


def resolve(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a plain configuration with interpolations and ``~`` resolved on this computer."""
    contents = _contents(config)
    if contents is None:
        return _resolve(config)
    try:
        return {key: _resolved_node(key, contents) for key in contents}
    except (OmegaConfBaseException, RecursionError):
        return _resolve(config)  # of several mistakes, the first one in the configuration is told


def missing_keys(config: Mapping[str, Any]) -> list[str]:
    """Return the dotted keys without a value (``???``), sorted.

    Raises:
        OmegaConfBaseException: if the configuration has an invalid interpolation.
    """
    contents = _contents(config)
    if contents is not None and not any(facts.loose for facts in map(_facts, contents.values())):
        return []
    return sorted(OmegaConf.missing_keys(OmegaConf.create(unsettled(config))))


def _contents(config: Mapping[str, Any]) -> dict[str, bytes] | None:
    """Return the content of each node as bytes; None if OmegaConf must see all nodes together."""
    try:
        contents = {key: marshal.dumps(node, _VERSION) for key, node in config.items()}
    except ValueError:  # a value of another type, or an endless one
        return None
    separable = all(type(key) is str for key in config)
    return contents if separable and all(map(_is_separable, contents.values())) else None


@functools.lru_cache(maxsize=4096)
def _is_separable(content: bytes) -> bool:
    """Return whether a node has simple values, and names the other nodes that it refers to."""
    leaves = list(_leaves(marshal.loads(content)))
    return all(type(leaf) in _SIMPLE for leaf in leaves) and not any(
        "${" in _SPELT_OUT.sub("", leaf) for leaf in leaves if isinstance(leaf, str)
    )


@functools.lru_cache(maxsize=4096)
def _facts(content: bytes) -> _Facts:
    texts = [leaf for leaf in _leaves(marshal.loads(content)) if isinstance(leaf, str)]
    loose = tuple(text for text in texts if "${" in text or "???" in text)
    variables = {name.strip() for text in loose for name in _VARIABLE.findall(text)}
    if variables or any("~" in text for text in texts):
        variables.add("HOME")  # the value of a variable may begin with ~, too
    return _Facts(loose, tuple(sorted(variables)))


def _resolved_node(key: str, contents: Mapping[str, bytes]) -> Any:
    """Return a node that is resolved together with the nodes that it mentions."""
    together = {key}
    left = [key]
    while left:
        mentions = " ".join(_facts(contents[left.pop()]).loose)
        if mentions:
            further = {name for name in contents if name in mentions} - together
            together |= further
            left += further
    nodes = tuple((name, content) for name, content in contents.items() if name in together)
    variables = {name for _, content in nodes for name in _facts(content).variables}
    environment = tuple((name, os.environ.get(name)) for name in sorted(variables))
    return marshal.loads(_resolved(key, nodes, environment))


@functools.lru_cache(maxsize=4096)
def _resolved(
    key: str, nodes: tuple[tuple[str, bytes], ...], environment: tuple[tuple[str, str | None], ...]
) -> bytes:
    """Return the content of a resolved node; ``environment`` is a part of the cache's key."""
    config = {name: marshal.loads(content) for name, content in nodes}
    return marshal.dumps(_resolve(config)[key], _VERSION)


def _resolve(config: Mapping[str, Any]) -> dict[str, Any]:
    """Resolve all nodes together."""
    resolved = OmegaConf.to_container(OmegaConf.create(unsettled(config)), resolve=True)
    assert isinstance(resolved, dict)
    return {key: _copied(resolved[key] if key in resolved else config[key]) for key in config}


# An interpolation with a literal key, without a nested one and without a user's resolver.
_SPELT_OUT = re.compile(r"\$\{(oc\.(env|select):)?[^${}:\\'\"]*\}")
_SIMPLE = frozenset({str, int, float, bool, type(None)})


def unsettled(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the nodes with interpolations or missing values, and the nodes they may refer to.

    OmegaConf takes 20 ms to resolve a whole configuration, but only few nodes need it.
    """
    unsettled: dict[str, str] = {}
    for key, node in config.items():
        texts = []
        for leaf in _leaves(node):
            if type(leaf) not in _SIMPLE:
                return dict(config)
            if isinstance(leaf, str) and ("${" in leaf or "???" in leaf):
                texts.append(leaf)
        if any("${" in _SPELT_OUT.sub("", text) for text in texts):
            return dict(config)
        if texts:
            unsettled[key] = " ".join(texts)
    mentions = " ".join(unsettled.values())
    return {k: node for k, node in config.items() if k in unsettled or k in mentions}


def _leaves(node: Any) -> Iterator[Any]:
    """Yield the leaves of a node: all values but lists and dictionaries with textual keys."""
    if type(node) is dict and all(type(key) is str for key in node):
        for value in node.values():
            yield from _leaves(value)
    elif type(node) in (list, tuple):
        for value in node:
            yield from _leaves(value)
    else:
        yield node


def _copied(node: Any) -> Any:
    """Return a copy with lists for tuples, as OmegaConf does, and the home folder for ``~``."""
    if isinstance(node, dict):
        return {key: _copied(value) for key, value in node.items()}
    if isinstance(node, str):
        return places.at_home(node) if node.startswith("~") else node
    return [_copied(item) for item in node] if isinstance(node, list | tuple) else node
