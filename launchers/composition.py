"""Cache of compositions: the configuration of a run by its overrides.

A composition depends only on the overrides, the files under ``conf/`` and the versions of the
packages. The cache is one append-only file with a line for each composition: key, signature, JSON.
A node such as ``model``, which many compositions share, has a line of its own, and its hash stands
in their lines. Incomplete lines and lines of other users are ignored, so the file needs no lock,
and other users cannot change the meaning of a command line.
"""

import contextlib
import functools
import hashlib
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from launchers import signature
from ssl_transfer import config as configuration
from ssl_transfer.config import CONF
from ssl_transfer.config.composer import Composer

Composition = dict[str, Any]

_HASH = "sha256"
"""Key of a node's hash in the line of a composition."""

CODE = Path(configuration.__file__).parent
"""The folder of the code that decides what overrides mean."""


def _surroundings(extra: Sequence[str]) -> str:
    """Return a hash of everything that a composition depends on, except the overrides."""
    hasher = hashlib.sha256()
    for folder in (CONF, *map(Path, extra)):
        for path in sorted(folder.rglob("*.yaml")):
            hasher.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes() + b"\0")
    for path in sorted(CODE.glob("*.py")):  # the schema and the expansion of references
        hasher.update(path.read_bytes())
    versions = [version("hydra-core"), version("omegaconf"), sys.version.split()[0]]
    hasher.update("\0".join(versions).encode())
    return hasher.hexdigest()


class CompositionCache:
    """Compositions by their overrides.

    Args:
        path: the cache file; created on the first miss.
        search_path: folders with configuration files in addition to ``conf/``.
        context: other values that compositions depend on, e.g. the primary config's name.
    """

    def __init__(self, path: Path, *, search_path: Sequence[str] = (), context: str = "") -> None:
        self.path = path
        self.surroundings = _surroundings(search_path) + context
        self.sign = signature.signer()  # None: nothing is cached
        self.lines = dict(self._read())
        self.nodes: dict[str, Any] = {}

    def _read(self) -> list[tuple[str, str]]:
        if not self.path.exists():
            return []
        lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        return [(key, rest) for key, tab, rest in (line.partition("\t") for line in lines) if tab]

    def key(self, overrides: Sequence[str]) -> str:
        """Return the key of a composition; the order of overrides is part of it."""
        return hashlib.sha256("\0".join([self.surroundings, *overrides]).encode()).hexdigest()

    def get(self, overrides: Sequence[str], compose: Callable[[], Composition]) -> Composition:
        """Return the plain composition of these overrides, from the cache if it has it.

        Its nodes are shared with other compositions and must not be changed.
        """
        key = self.key(overrides)
        signed, _, text = self.lines.get(key, "").partition("\t")
        # A complete line of this user:
        if self.sign is not None and signed == self.sign(f"{key}\t{text}".encode()):
            composition = self._read_nodes(json.loads(text))
            if composition is not None:
                return composition
        return self._store(key, compose())

    def _read_nodes(self, line: Mapping[str, Any]) -> Composition | None:
        """Return a composition with its nodes for their hashes; None if a node has no line."""
        composition = {}
        for name, value in line.items():
            if isinstance(value, dict):
                digest = value[_HASH]
                if digest not in self.nodes:
                    text = self.lines.get(digest, "").removeprefix("\t")
                    if _hash(text) != digest:
                        return None
                    self.nodes[digest] = json.loads(text)
                value = self.nodes[digest]
            composition[name] = value
        return composition

    def _store(self, key: str, composed: Composition) -> Composition:
        """Write a composition, and return it with shared nodes.

        All values go through JSON, like those of a cached composition, so that tuples are lists.
        """
        lines, shared, hashed = [], {}, {}
        for name, value in composed.items():
            text = json.dumps(value, separators=(",", ":"))
            if not isinstance(value, dict | list | tuple):
                shared[name] = hashed[name] = json.loads(text)
                continue
            digest = _hash(text)
            if digest not in self.nodes:
                self.nodes[digest] = json.loads(text)
                lines.append(f"{digest}\t\t{text}")
            shared[name], hashed[name] = self.nodes[digest], {_HASH: digest}
        if self.sign is not None:
            text = json.dumps(hashed, separators=(",", ":"))
            signed = self.sign(f"{key}\t{text}".encode())
            self.lines[key] = f"{signed}\t{text}"
            self._append([*lines, f"{key}\t{signed}\t{text}"])
        return shared

    def _append(self, lines: Sequence[str]) -> None:
        # If the file cannot be written, only the speed suffers; other code reports the cause.
        with contextlib.suppress(OSError):
            if not self.path.parent.exists():
                self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                # The leading newline ends an incomplete line of a killed process.
                file.write("".join(f"\n{line}\n" for line in lines))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def sweep_composer(loader: ConfigLoader, master: DictConfig) -> Composer:
    """Return a composer of a sweep's runs that works like Hydra's ``load_sweep_config``.

    Args:
        loader: Hydra's configuration loader.
        master: the configuration of the whole sweep.
    """
    return Composer(
        loader,
        lambda overrides: loader.load_sweep_config(master, list(overrides)),
        config_name=master.hydra.job.config_name,
        hydra_overrides=list(master.hydra.overrides.hydra),
    )


def task_overrides(overrides: Sequence[str]) -> list[str]:
    """Return the overrides of a run's configuration, without those of Hydra itself."""
    return [line for override in overrides if (line := _of_the_run(override)) is not None]


_NUMBER = re.compile(r"(?!hydra)[A-Za-z_][\w.]*=[0-9]+")
"""An override that needs no parsing."""


@functools.lru_cache(maxsize=1 << 16)
def _of_the_run(override: str) -> str | None:
    """Return an override as Hydra reads it; None if it is one of Hydra itself.

    Parsing takes ten times as long as all other work for a finished run. The cache helps because
    the runs of a sweep share most of their overrides; ``_NUMBER`` covers seeds.
    """
    if _NUMBER.fullmatch(override):
        return override
    (parsed,) = OverridesParser.create().parse_overrides([override])
    return None if parsed.key_or_group.startswith("hydra") else parsed.input_line or ""
