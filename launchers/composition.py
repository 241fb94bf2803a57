"""From a run's overrides to its configuration, remembered between invocations.

A composition depends on nothing but the overrides, the files under ``conf/`` and
the versions involved, so it is kept in one append-only file, a line each: key, signature, JSON.
Torn lines, and those of other users, are passed over: no lock is needed, and nobody decides what
somebody else's command line means.
"""

import contextlib
import functools
import hashlib
import inspect
import json
import re
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from launchers import signature
from ssl_transfer import config as configuration
from ssl_transfer.config import CONF, plain, references
from ssl_transfer.config.composer import Composer

Composition = dict[str, Any]


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


def sweep_composer(loader: ConfigLoader, master: DictConfig) -> Composer:
    """Return what composes the runs of a sweep as Hydra's ``load_sweep_config`` does.

    Args:
        loader: Hydra's.
        master: the configuration of the sweep as a whole.
    """
    return Composer(
        loader,
        lambda overrides: loader.load_sweep_config(master, list(overrides)),
        config_name=master.hydra.job.config_name,
        hydra_overrides=list(master.hydra.overrides.hydra),
    )


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
