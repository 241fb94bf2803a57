"""Merges the files of a composition, each node of the configuration once for the same files."""

import itertools
import json
import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository, IConfigRepository
from hydra.core.default_element import ResultDefault
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import AnyNode, DictConfig, ListConfig, Node, OmegaConf, flag_override

# An interpolation that contains `hydra`, within one JSON string.
_INTO_HYDRA = re.compile(r'\$\{([^"\\]|\\.)*hydra')

# Nothing but an interpolation, and not of an environment variable, which is a text.
_MAY_BE_A_NODE = re.compile(r"\$\{(?!oc\.env:[^${}]*\}$).*\}", re.DOTALL)

_SINGLE = (str, int, float, bool, type(None))

_Path = tuple[str, ...]


def looks_into_hydra(values: Any) -> bool:
    """Return whether values refer to Hydra's own node, which is filled after the overrides."""
    return _INTO_HYDRA.search(json.dumps(values, default=str)) is not None


class MergedNode(NamedTuple):
    """A node at the root of a configuration.

    Args:
        pickled: the node as OmegaConf has it, without its parent.
        plain: the node as plain dictionaries, lists and values, interpolations unresolved; it must
            not be changed.
        is_free: whether any value may be set anywhere in the node, because it has no types.
        looks_into_hydra: whether it refers to Hydra's own node.
    """

    pickled: bytes
    plain: Any
    is_free: bool
    looks_into_hydra: bool


class _File(NamedTuple):
    """The plain nodes at the root of a file in its package, and whether all have textual names."""

    nodes: dict[str, Any]
    textual: bool


class NodeMerger:
    """Merges configuration files as Hydra does.

    Hydra merges all files of a composition, which takes half of its time. A node at the root, such
    as ``model``, depends only on those files that have this node, and few of them differ between
    the compositions of a sweep.

    Args:
        loader: Hydra's configuration loader.
        files: the configuration files.
    """

    def __init__(self, loader: ConfigLoaderImpl, files: IConfigRepository) -> None:
        self._loader, self._files = loader, files
        self._read: dict[tuple[str | None, ...], _File] = {}
        self._merged: dict[tuple[Any, ...], MergedNode | None] = {}

    def merge(self, defaults: Sequence[ResultDefault]) -> dict[str, MergedNode] | None:
        """Return the nodes at the root of the configuration that these files give.

        Args:
            defaults: the files in the order of merging.

        Returns:
            None if a node cannot be merged by itself. The node ``hydra`` is left out.

        Raises:
            hydra.errors.HydraException: if the files contradict each other.
        """
        files = [(default, self._file(default)) for default in defaults]
        if not all(file.textual for _, file in files):
            return None
        names = dict.fromkeys(itertools.chain.from_iterable(file.nodes for _, file in files))
        nodes = {}
        for name in names:
            if name == "hydra":
                continue
            node = self._node(name, [(d, file) for d, file in files if name in file.nodes])
            if node is None:
                return None
            nodes[name] = node
        return nodes

    def into_hydra(self, defaults: Sequence[ResultDefault]) -> tuple[Any, ...]:
        """Return what identifies the options that change Hydra's node."""
        options = (default for default in defaults if not default.primary)
        return tuple(_key(one) for one in options if "hydra" in self._file(one).nodes)

    def _file(self, default: ResultDefault) -> _File:
        key = _key(default)
        if key not in self._read:
            repository = CachingConfigRepository(self._files)
            config = self._loader._load_single_config(default, repository).config
            content = OmegaConf.to_container(config, resolve=False)
            assert isinstance(content, dict)
            nodes = {str(name): node for name, node in content.items()}
            self._read[key] = _File(nodes, all(isinstance(name, str) for name in content))
        return self._read[key]

    def _node(self, name: str, files: Sequence[tuple[ResultDefault, _File]]) -> MergedNode | None:
        """Return one node; None if its merging needs the other nodes."""
        key = (name, *(_key(default) for default, _ in files))
        if key not in self._merged:
            alone = not _replaces_interpolation([file.nodes[name] for _, file in files])
            self._merged[key] = self._merge(name, [d for d, _ in files]) if alone else None
        return self._merged[key]

    def _merge(self, name: str, defaults: list[ResultDefault]) -> MergedNode | None:
        repository = CachingConfigRepository(self._files)
        config = self._loader._compose_config_from_defaults_list(defaults, repository)
        return as_nodes(config).get(name)


def as_config(nodes: Mapping[str, MergedNode]) -> DictConfig:
    """Return a configuration with its own copies of nodes, to which no key can be added."""
    config = OmegaConf.create({})
    with flag_override(config, "no_deepcopy_set_nodes", True):
        for name, node in nodes.items():
            config[name] = pickle.loads(node.pickled)  # seven times faster than a deep copy
    OmegaConf.set_struct(config, True)
    return config


def as_nodes(config: DictConfig) -> dict[str, MergedNode]:
    """Return the nodes of a configuration, which loses them."""
    content = OmegaConf.to_container(config, resolve=False, enum_to_str=True)
    assert isinstance(content, dict)
    nodes = {}
    for name, plain in content.items():
        node = config._get_node(name)
        assert isinstance(node, Node)
        node._set_parent(None)
        nodes[str(name)] = MergedNode(
            pickle.dumps(node), plain, _is_free(node), looks_into_hydra(plain)
        )
    return nodes


def with_values(
    nodes: Mapping[str, MergedNode], values: Sequence[Override]
) -> dict[str, Any] | None:
    """Return plain nodes with values that overrides set; None if that is not simple.

    It is simple to replace a single value without a type by another single value.
    """
    config = {name: node.plain for name, node in nodes.items()}
    own: set[_Path] = set()
    for override in values:
        path = tuple(override.key_or_group.split("."))
        value = override.value()
        if (
            override.type != OverrideType.CHANGE
            or override.package is not None
            or not (path[0] in nodes and nodes[path[0]].is_free)
            or not (_is_single(value) and _has(config, path))
        ):
            return None
        node = config
        for length, key in enumerate(path[:-1], 1):
            if path[:length] not in own:  # the others belong to all configurations
                node[key] = dict(node[key])
                own.add(path[:length])
            node = node[key]
        if type(node[path[-1]]) not in _SINGLE:
            return None
        node[path[-1]] = value
    return config


def _is_single(value: Any) -> bool:
    """Return whether a value is neither a list, a mapping nor an interpolation."""
    if type(value) is str:
        return "$" not in value and value != "???"
    return type(value) in _SINGLE


def _key(default: ResultDefault) -> tuple[str | None, ...]:
    return default.config_path, default.package, str(default.primary)


def _replaces_interpolation(contents: Sequence[Any]) -> bool:
    """Return whether a file sets a key at which an earlier one has nothing but an interpolation.

    OmegaConf then merges into the mapping that the interpolation may refer to, in another node.
    """
    earlier: set[_Path] = set()
    for content in contents:
        if any(_has(content, path) for path in earlier):
            return True
        earlier.update(_interpolations(content, ()))
    return False


def _interpolations(content: Any, path: _Path) -> Iterator[_Path]:
    """Yield the paths of values that may refer to a mapping, except those in lists."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield from _interpolations(value, (*path, key))
    elif isinstance(content, str) and _MAY_BE_A_NODE.fullmatch(content):
        yield path


def _has(content: Any, path: _Path) -> bool:
    for key in path:
        if not isinstance(content, dict) or key not in content:
            return False
        content = content[key]
    return True


def _is_free(node: Node) -> bool:
    """Return whether a node and all nodes in it are without types and flags."""
    if isinstance(node, DictConfig | ListConfig):
        meta = node._metadata
        if node._is_none() or node._is_missing() or node._is_interpolation():
            return False
        typed = meta.ref_type not in (Any, dict, list) or meta.object_type not in (dict, list, None)
        if typed or meta.flags or getattr(meta, "element_type", Any) is not Any:
            return False
        children = node._content.values() if isinstance(node._content, dict) else node._content
        return all(isinstance(child, Node) and _is_free(child) for child in children or ())
    return type(node) is AnyNode and not node._metadata.flags
