"""From a run's overrides to its configuration, remembered between invocations.

Hydra takes about 0.15 s to compose a run. A composition depends on nothing but the overrides, the
files under ``conf/`` and the versions involved, so it is kept in one append-only file, a line
each: key, tab, JSON. Torn or foreign lines are passed over, so no lock is needed.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from ssl_transfer import config as configuration
from ssl_transfer.config import CONF, plain

Composition = dict[str, Any]


def _surroundings(extra: Sequence[str]) -> str:
    """Return a hash of everything besides the overrides that a composition depends on."""
    hasher = hashlib.sha256()
    for folder in (CONF, *map(Path, extra)):
        for path in sorted(folder.rglob("*.yaml")):
            hasher.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes() + b"\0")
    hasher.update(Path(configuration.__file__).read_bytes())  # the schema
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
        self.lines = dict(self._read())

    def _read(self) -> list[tuple[str, str]]:
        if not self.path.exists():
            return []
        lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        return [(key, text) for key, tab, text in (line.partition("\t") for line in lines) if tab]

    def key(self, overrides: Sequence[str]) -> str:
        """Return the key of a composition; the order of overrides is part of it."""
        return hashlib.sha256("\0".join([self.surroundings, *overrides]).encode()).hexdigest()

    def get(self, overrides: Sequence[str], compose: Callable[[], DictConfig]) -> Composition:
        """Return the plain composition of these overrides, from the file if it is there."""
        key = self.key(overrides)
        if key in self.lines:
            try:
                return dict(json.loads(self.lines[key]))
            except ValueError:
                del self.lines[key]  # a torn line
        composed = plain(compose())
        text = json.dumps(composed, separators=(",", ":"))
        self.lines[key] = text
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            # The leading line end closes a line that a killed process left open.
            file.write(f"\n{key}\t{text}\n")
        # What JSON cannot tell apart (1 and True, tuples) must not differ between first and later.
        return dict(json.loads(text))


def task_overrides(overrides: Sequence[str]) -> list[str]:
    """Return the overrides that shape a run, without those of Hydra itself."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return [o.input_line or "" for o in parsed if not o.key_or_group.startswith("hydra")]
