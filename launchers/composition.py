"""From a run's overrides to its configuration, remembered between invocations.

Hydra takes about 0.1 s to compose a run. ``Composer`` lets it do so once for all runs that choose
the same options. A composition depends on nothing but the overrides, the files under ``conf/`` and
the versions involved, so it is kept in one append-only file, a line each: key, signature, JSON.
Torn lines, and those of other users, are passed over: no lock is needed, and nobody decides what
somebody else's command line means.
"""

import contextlib
import functools
import hashlib
import inspect
import json
import pickle
import re
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, flag_override

from launchers import signature
from ssl_transfer import config as configuration
from ssl_transfer import references
from ssl_transfer.config import CONF, plain

Composition = dict[str, Any]

# An interpolation with `hydra`, within one string of JSON.
_INTO_HYDRA = re.compile(r'\$\{([^"\\]|\\.)*hydra')


def _surroundings(extra: Sequence[str]) -> str:
    """Return a hash of everything besides the overrides that a composition depends on."""
    hasher = hashlib.sha256()
    for folder in (CONF, *map(Path, extra)):
        for path in sorted(folder.rglob("*.yaml")):
            hasher.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes() + b"\0")
    for module in (configuration, references):  # the schema, and what references expand to
        hasher.update(inspect.getsource(module).encode())
    versions = [version("hydra-core"), version("omegaconf"), sys.version.split()[0]]
    hasher.update("\0".join(versions).encode())
    return hasher.hexdigest()


class CompositionCache:
    """Compositions by their overrides.

    Args:
        path: the file that remembers them; created on the first miss.
        search_path: folders with configuration besides ``conf/``.
        context: anything else that compositions depend on, e.g. the primary config's name.
    """

    def __init__(self, path: Path, *, search_path: Sequence[str] = (), context: str = "") -> None:
        self.path = path
        self.surroundings = _surroundings(search_path) + context
        self.sign = signature.signer()  # without one nothing is remembered
        self.lines = dict(self._read())

    def _read(self) -> list[tuple[str, str]]:
        if not self.path.exists():
            return []
        lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        return [(key, rest) for key, tab, rest in (line.partition("\t") for line in lines) if tab]

    def key(self, overrides: Sequence[str]) -> str:
        """Return the key of a composition; the order of overrides is part of it."""
        return hashlib.sha256("\0".join([self.surroundings, *overrides]).encode()).hexdigest()

    def get(self, overrides: Sequence[str], compose: Callable[[], DictConfig]) -> Composition:
        """Return the plain composition of these overrides, from the file if it is there."""
        key = self.key(overrides)
        signed, _, text = self.lines.pop(key, "").partition("\t")
        if self.sign is not None and signed == self.sign(f"{key}\t{text}".encode()):
            self.lines[key] = f"{signed}\t{text}"  # no torn line, and not somebody else's
            return dict(json.loads(text))
        composed = plain(compose())
        text = json.dumps(composed, separators=(",", ":"))
        if self.sign is None:
            return dict(json.loads(text))
        signed = self.sign(f"{key}\t{text}".encode())
        self.lines[key] = f"{signed}\t{text}"
        # Where nothing can be written, composing takes longer; whatever else fails there says why.
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                # The leading line end closes a line that a killed process left open.
                file.write(f"\n{key}\t{signed}\t{text}\n")
        # What JSON cannot tell apart (1 and True, tuples) must not differ between first and later.
        return dict(json.loads(text))


class Composer:
    """Composes runs as Hydra's ``load_sweep_config`` does, once per choice of options.

    Hydra first merges the files that the overrides of groups choose, then applies the others to the
    result, one after another. That result is kept here: the next run with it takes 3 ms.

    Args:
        loader: Hydra's.
        master: the configuration of the sweep as a whole.
    """

    def __init__(self, loader: ConfigLoader, master: DictConfig) -> None:
        assert isinstance(loader, ConfigLoaderImpl)  # Hydra has no other
        self.loader, self.master = loader, master
        _, self._files = loader._parse_overrides_and_create_caching_repo(
            master.hydra.job.config_name, list(master.hydra.overrides.hydra)
        )
        self._is_group: dict[str, bool] = {}
        self._chosen: dict[tuple[str, ...], bytes | None] = {}

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """Return the configuration of a run, sometimes without the node ``hydra``.

        Raises:
            hydra.errors.HydraException: as ``load_sweep_config`` does.
        """
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        if any(_is_for_hydra(override) for override in parsed):
            return self._compose_whole(overrides)
        values = [override for override in parsed if self._sets_a_value(override)]
        options = [o.input_line or "" for o in parsed if not self._sets_a_value(o)]
        if (chosen := self._choose(tuple(options))) is None:
            return self._compose_whole(overrides)
        config = pickle.loads(chosen)  # seven times faster than a deep copy
        assert isinstance(config, DictConfig)
        self.loader._apply_overrides_to_config(values, config)
        return config

    def _compose_whole(self, overrides: Sequence[str]) -> DictConfig:
        return self.loader.load_sweep_config(self.master, list(overrides))

    def _sets_a_value(self, override: Override) -> bool:
        """Tell values from options as ``hydra._internal.defaults_list.Overrides`` does."""
        key = override.key_or_group
        if key not in self._is_group:
            self._is_group[key] = self._files.group_exists(key)
        return not self._is_group[key] or isinstance(override.value(), dict)

    def _choose(self, options: tuple[str, ...]) -> bytes | None:
        """Return what these options merge to, pickled; None if values need more than that."""
        if options not in self._chosen:
            config = self._compose_whole(options)
            with flag_override(config, ["struct", "readonly"], False):
                del config["hydra"]
            self._chosen[options] = (
                None if _looks_into_hydra(plain(config)) else pickle.dumps(config)
            )
        return self._chosen[options]


def _is_for_hydra(override: Override) -> bool:
    return (
        override.key_or_group.startswith("hydra")
        or override.is_sweep_override()
        or _looks_into_hydra(override.input_line)
    )


def _looks_into_hydra(values: Any) -> bool:
    """Return whether Hydra's own node may matter: it is filled after the overrides are applied."""
    return _INTO_HYDRA.search(json.dumps(values, default=str)) is not None


def task_overrides(overrides: Sequence[str]) -> list[str]:
    """Return the overrides that shape a run, without those of Hydra itself."""
    return [line for override in overrides if (line := _of_the_run(override)) is not None]


_NUMBER = re.compile(r"(?!hydra)[A-Za-z_][\w.]*=[0-9]+")
"""An override that needs no parsing."""


@functools.lru_cache(maxsize=1 << 16)
def _of_the_run(override: str) -> str | None:
    """Return an override as Hydra reads it, None if it is Hydra's own.

    Parsing takes ten times as long as everything else that a finished run costs; the runs of a
    sweep share most of their overrides, and the others are mostly seeds.
    """
    if _NUMBER.fullmatch(override):
        return override
    (parsed,) = OverridesParser.create().parse_overrides([override])
    return None if parsed.key_or_group.startswith("hydra") else parsed.input_line or ""
