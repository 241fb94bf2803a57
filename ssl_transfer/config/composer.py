"""Composes configurations as Hydra does, but merges each choice of options only once."""

from collections.abc import Callable, Sequence
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository
from hydra._internal.defaults_list import Overrides, _create_defaults_list
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import ConfigCompositionException, HydraException
from omegaconf import DictConfig, Node, OmegaConf, flag_override
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from ssl_transfer.config import inserted_choices
from ssl_transfer.config.merging import (
    MergedNode,
    NodeMerger,
    as_config,
    as_nodes,
    looks_into_hydra,
    with_values,
)
from ssl_transfer.config.repository import ParsedOnce

inserted_choices.accelerate()


class Composer:
    """Composes configurations; calls Hydra once per choice of options.

    Hydra takes 0.1 s for a composition: it first merges the files that group overrides choose, then
    applies the other overrides one after another. This class merges them without Hydra's own files,
    and each node only once for the same files. It caches what they give, so the next configuration
    with the same options takes 3 ms, or 0.1 ms as plain dictionaries.

    Args:
        loader: Hydra's configuration loader.
        whole: composes with Hydra alone; its result may have the node ``hydra``.
        config_name: the name of the primary configuration.
        hydra_overrides: overrides of Hydra itself that apply to all configurations.
    """

    def __init__(
        self,
        loader: ConfigLoader,
        whole: Callable[[Sequence[str]], DictConfig],
        *,
        config_name: str = "config",
        hydra_overrides: Sequence[str] = (),
    ) -> None:
        assert isinstance(loader, ConfigLoaderImpl)  # Hydra has no other
        if not isinstance(loader.repository, ParsedOnce):
            loader.repository = ParsedOnce(loader.repository.get_sources())
        self.loader, self.whole, self._primary = loader, whole, config_name
        _, self._files = loader._parse_overrides_and_create_caching_repo(
            config_name, list(hydra_overrides)
        )
        self._parsed: dict[str, Override] = {}
        self._is_group: dict[str, bool] = {}
        self._lacks: dict[tuple[tuple[str, ...], str], bool] = {}
        self._chosen: dict[tuple[str, ...], dict[str, MergedNode] | None] = {}
        self._lists = CachingConfigRepository(self._files.delegate)
        self._into_hydra: set[tuple[Any, ...]] = set()
        self._merger = NodeMerger(loader, self._files.delegate)

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """Return the configuration of these overrides; it may lack the node ``hydra``.

        Raises:
            hydra.errors.HydraException: as ``whole`` does.
        """
        parsed = self._parse(overrides)
        if (chosen := self._chosen_by(parsed)) is None:
            return self.whole(overrides)
        config = as_config(chosen)
        values = [override for override in parsed if self._sets_a_value(override)]
        self.loader._apply_overrides_to_config(values, config)
        return config

    def compose_plain(self, overrides: Sequence[str]) -> dict[str, Any]:
        """Return the same as plain nodes without the node ``hydra``, interpolations unresolved.

        The nodes are shared with other configurations and must not be changed.

        Raises:
            hydra.errors.HydraException: as ``whole`` does.
        """
        parsed = self._parse(overrides)
        if (chosen := self._chosen_by(parsed)) is not None:
            values = [override for override in parsed if self._sets_a_value(override)]
            if (config := with_values(chosen, values)) is not None:
                return config
        container = OmegaConf.to_container(self.compose(overrides), resolve=False, enum_to_str=True)
        assert isinstance(container, dict)
        return {str(key): node for key, node in container.items() if key != "hydra"}

    def _chosen_by(self, parsed: Sequence[Override]) -> dict[str, MergedNode] | None:
        """Return the nodes of the chosen options; None if Hydra must compose the overrides."""
        if any(_is_for_hydra(override) for override in parsed):
            return None
        return self._choose(self._options(parsed))

    def lacking(self, overrides: Sequence[str]) -> list[str]:
        """Return the overrides whose key the chosen options lack, without ``+key`` and ``~key``.

        Raises:
            hydra.errors.HydraException: if the overrides cannot be parsed or an option is unknown.
        """
        parsed = self._parse(overrides)
        changed = [o for o in parsed if o.type == OverrideType.CHANGE and not _is_for_hydra(o)]
        # `dataset@method.pretrain_on=…` chooses an option for a key that another option may lack.
        placed = [o for o in changed if o.package is not None and not self._sets_a_value(o)]
        misplaced = self._misplaced(self._options(parsed), tuple(o.input_line for o in placed))
        options = tuple(line for line in self._options(parsed) if line not in misplaced)
        return [
            line
            for line, override in zip(overrides, parsed, strict=True)
            if override.input_line in misplaced
            or (
                override in changed
                and self._sets_a_value(override)
                and self._is_lacking(options, override.key_or_group)
            )
        ]

    def _misplaced(
        self, options: tuple[str, ...], placed: tuple[str | None, ...]
    ) -> tuple[str | None, ...]:
        """Return the choices for keys that the other options lack; () if all have their place."""
        key = (options, "@")
        if key not in self._lacks:
            try:
                self._choose(options)
                self._lacks[key] = False
            except ConfigCompositionException:
                self._choose(tuple(line for line in options if line not in placed))  # or raises
                self._lacks[key] = True
        return placed if self._lacks[key] else ()

    def known_to_lack(self, overrides: Sequence[str]) -> bool:
        """Return whether ``lacking`` has already found that the options lack one of the keys."""
        if not self._lacks:
            return False
        parsed = self._parse(overrides)
        options = self._options(parsed)
        return self._lacks.get((options, "@"), False) or any(
            self._lacks.get((options, override.key_or_group), False)
            for override in parsed
            if override.type == OverrideType.CHANGE
        )

    def _is_lacking(self, options: tuple[str, ...], key: str) -> bool:
        place = (options, key)
        if place not in self._lacks:
            chosen = self._choose(options)
            self._lacks[place] = chosen is not None and not _has(as_config(chosen), key)
        return self._lacks[place]

    def key(self, override: str) -> str:
        """Return the key of an override, or its group and package, without ``+`` or ``~``."""
        (parsed,) = self._parse([override])
        package = "" if parsed.package is None else f"@{parsed.package}"
        return f"{parsed.key_or_group}{package}"

    def _parse(self, overrides: Sequence[str]) -> list[Override]:
        for line in overrides:
            if line not in self._parsed:
                (self._parsed[line],) = OverridesParser.create().parse_overrides([line])
        return [self._parsed[line] for line in overrides]

    def _options(self, parsed: Sequence[Override]) -> tuple[str, ...]:
        """Return the overrides that choose options."""
        return tuple(o.input_line or "" for o in parsed if not self._sets_a_value(o))

    def _sets_a_value(self, override: Override) -> bool:
        """Return whether an override sets a value; the rule is that of Hydra's ``Overrides``."""
        key = override.key_or_group
        if key not in self._is_group:
            self._is_group[key] = self._files.group_exists(key)
        return not self._is_group[key] or isinstance(override.value(), dict)

    def _choose(self, options: tuple[str, ...]) -> dict[str, MergedNode] | None:
        """Return the nodes that these options give; None if they refer to Hydra's own node."""
        if options not in self._chosen:
            nodes = self._merged(options)
            if nodes is None:
                nodes = self._wholly(options)
            hydras = any(node.looks_into_hydra for node in nodes.values())
            self._chosen[options] = None if hydras else nodes
        return self._chosen[options]

    def _wholly(self, options: tuple[str, ...]) -> dict[str, MergedNode]:
        """Return the nodes that Hydra alone makes of these options."""
        config = self.whole(options)
        with flag_override(config, ["struct", "readonly"], False):
            config.pop("hydra", None)
        return as_nodes(config)

    def _merged(self, options: tuple[str, ...]) -> dict[str, MergedNode] | None:
        """Return the nodes that the files of these options give, without Hydra's own files.

        Returns:
            None if a node cannot be merged by itself, or if Hydra must say what is wrong.
        """
        files = self._lists
        try:
            overrides = Overrides(files, self._parse(options))
            defaults, _ = _create_defaults_list(
                files, self._primary, overrides, prepend_hydra=False, skip_missing=False
            )
            for name, choice in list(overrides.override_metadata.items()):
                if name.startswith("hydra/") and choice.containing_config_path == self._primary:
                    del overrides.override_metadata[name]  # its list is not here
            overrides.ensure_overrides_used()
            overrides.ensure_deletions_used()
            into_hydra = self._merger.into_hydra(defaults)
            if into_hydra and into_hydra not in self._into_hydra:
                nodes = self._wholly(options)  # raises what is wrong with Hydra's node
                self._into_hydra.add(into_hydra)
                return nodes
            return self._merger.merge(defaults)
        except (HydraException, OmegaConfBaseException):  # Hydra must say what is wrong
            return None


def _has(config: DictConfig, key: str) -> bool:
    """Return whether a value may be set at a key, as Hydra decides it; changes ``config``."""
    try:
        OmegaConf.update(config, key, None, merge=True)
    except (ConfigAttributeError, ConfigKeyError):
        parts = key.split(".")
        parents = (".".join(parts[:length]) for length in range(1, len(parts)))
        # Below a key that is null, Hydra refuses any key; leaving it out would hide that.
        return any(_is_null(config, parent) for parent in parents)
    except OmegaConfBaseException:  # the key exists and refuses null
        return True
    return True


def _is_null(config: DictConfig, key: str) -> bool:
    node: Any = config
    for part in key.split("."):
        node = node._get_node(part) if isinstance(node, DictConfig) and part in node else None
    return isinstance(node, Node) and node._is_none()


def _is_for_hydra(override: Override) -> bool:
    return (
        override.key_or_group.startswith("hydra")
        or override.is_sweep_override()
        or looks_into_hydra(override.input_line)
    )
