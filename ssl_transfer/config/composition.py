"""Composition of a configuration from overrides."""

import functools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict

from ssl_transfer.config import roles
from ssl_transfer.config.composer import Composer
from ssl_transfer.config.schema import AXES, CONF


def compose(overrides: Sequence[str] = ()) -> DictConfig:
    """Return the configuration that these command-line overrides produce.

    Raises:
        hydra.errors.HydraException: for an unknown option or key; the message lists the known ones.
    """
    return _current_composer().compose(roles.gathered(overrides))


def compose_plain(overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return the same as plain dictionaries, which must not be changed; see ``Composer``.

    Raises:
        hydra.errors.HydraException: as ``compose`` does.
    """
    return _current_composer().compose_plain(roles.gathered(overrides))


def _current_composer() -> Composer:
    from hydra.core.global_hydra import GlobalHydra

    hydra = GlobalHydra.instance()
    loader = hydra.config_loader() if hydra.is_initialized() else _loader()
    return _composer(loader, _edits(searched_folders(loader)))


def searched_folders(loader: ConfigLoader) -> list[str]:
    """Return the folders in which Hydra looks for configuration files, sorted."""
    entries = (entry.path or "" for entry in loader.get_search_path().get_path())
    paths = {entry.removeprefix("file://") for entry in entries}
    return sorted(path for path in paths if path and "://" not in path)


def _edits(folders: Sequence[str]) -> tuple[int, int]:
    """Return the number of configuration files in folders and their latest modification time."""
    times = [time for folder in folders if Path(folder).is_dir() for time in _modified(folder)]
    return len(times), max(times, default=0)


def _modified(folder: str) -> Iterator[int]:
    """Yield the modification time of each configuration file in a folder and below."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _modified(entry.path)
            elif entry.name.endswith(".yaml"):
                yield entry.stat().st_mtime_ns


@functools.cache
def _loader() -> ConfigLoader:
    """Return Hydra's loader of ``conf/``."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    with initialize_config_dir(str(CONF), version_base="1.3"):
        return GlobalHydra.instance().config_loader()


@functools.lru_cache(maxsize=4)
def _composer(loader: ConfigLoader, edits: tuple[int, int]) -> Composer:
    """Return the composer of a loader; ``edits`` is the cache key for the files' version."""

    def whole(overrides: Sequence[str]) -> DictConfig:
        """Compose with Hydra alone."""
        config = loader.load_configuration(
            "config", list(overrides), run_mode=RunMode.RUN, from_shell=False
        )
        with open_dict(config):
            del config["hydra"]
        return config

    return Composer(loader, whole)


def options(group: str, conf: Path = CONF) -> list[str]:
    """Return the names of a configuration group's options, those in its folders as ``folder/name``.

    Names with a leading underscore are left out. So are the files in a folder with the same name as
    an option, which are parts of that option.
    """
    root = conf / group
    paths = []
    for folder, folders, files in os.walk(root):
        options = {name.removesuffix(".yaml") for name in files if name.endswith(".yaml")}
        folders[:] = [name for name in folders if name not in options and name[0] != "_"]
        paths += [Path(folder, name).relative_to(root) for name in options if name[0] != "_"]
    return sorted(path.as_posix() for path in paths)


def groups() -> list[str]:
    """Return the names of all configuration groups, axes first; Hydra's are ``hydra/name``."""
    names = [
        f"{prefix}{path.name}" for prefix in ("", "hydra/") for path in (CONF / prefix).iterdir()
    ]
    others = {name for name in names if options(name)} - {*AXES, "hydra"}
    return [*AXES, *sorted(others, key=lambda name: ("/" in name, name))]
