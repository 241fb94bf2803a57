"""Which code a configuration read from disk may call without the user's word.

What a user types is trusted. A record, a frozen configuration or an ``encoder.yaml`` is data: it
may come from anybody. Of the targets in such a file, only what makes an encoder, a method, a data
set or a protocol in this project, torchvision or timm is called. It does not suffice that a name
begins with one of these packages: they re-export others (``os``, ``torch.hub``) and have functions
that write, download or unpickle.
"""

import functools
import inspect
import re
import typing
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf.errors import OmegaConfBaseException

from ssl_transfer.config import locate, resolve

FLAG = "--trust-targets"
"""What a user adds to a command that may call whatever a file names."""

_PLACES = re.compile(
    r"(ssl_transfer\.(models|methods|datasets|protocols)|torchvision\.models|timm(\.models)?)"
    r"(\.[^\W\d]\w*)+"
)
_DEFINED_IN = ("ssl_transfer.", "torchvision.", "timm.")
# What a node of an axis becomes; by name, since this module comes before those that define it.
_MADE = {("torch.nn.modules.module", "Module"), ("ssl_transfer.datasets.base", "Dataset")}


def targets(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (path, value) of every ``_target_`` in a plain configuration that is not null."""
    if isinstance(config, Mapping):
        for key, value in config.items():
            here = f"{path}.{key}" if path else str(key)
            if key == "_target_" and value is not None:
                yield here, value
            else:
                yield from targets(value, here)
    elif isinstance(config, list | tuple):
        for place, value in enumerate(config):
            yield from targets(value, f"{path}[{place}]")


@functools.cache
def is_known(target: str) -> bool:
    """Return whether a ``_target_`` may be called without the user's word.

    Nothing outside of the packages named above is imported to find out. What cannot be located is
    not known.
    """
    if not _PLACES.fullmatch(target):
        return False
    try:
        made = locate(target)
    except ValueError:
        return False
    if not (inspect.isclass(made) or inspect.isfunction(made)):
        return False
    if not str(made.__module__).startswith(_DEFINED_IN):
        return False
    if inspect.isclass(made):
        return _is_made(made) or made.__module__.startswith("ssl_transfer.protocols.")
    return _is_made(_returned(made)) or _is_timm_model(made)


def _is_made(kind: Any) -> bool:
    return inspect.isclass(kind) and any(
        (base.__module__, base.__name__) in _MADE for base in kind.__mro__
    )


def _returned(function: Any) -> Any:
    try:
        return typing.get_type_hints(function).get("return")
    except (NameError, TypeError, AttributeError):  # names that only a type checker knows
        return None


def _is_timm_model(function: Any) -> bool:
    """Return whether a function is one of timm's models, not all of which say what they return."""
    if not function.__module__.startswith("timm.models."):
        return False
    import timm

    return function.__name__ in timm.list_models(module=function.__module__.rpartition(".")[2])


def foreign_targets(config: Mapping[str, Any], source: str) -> list[str]:
    """Return one sentence for each ``_target_`` that needs the user's word.

    Args:
        config: a whole configuration, plain, as it was read. It is looked at with interpolations
            resolved, too: one of these may stand for a mapping with a target.
        source: the file, for the sentences.

    Raises:
        ValueError: in one sentence, if an interpolation cannot be resolved.
    """
    wrong = _foreign(config)
    if not wrong:
        try:
            wrong = _foreign(resolve(config))
        except OmegaConfBaseException as error:
            raise ValueError(
                f"every interpolation must resolve, but in `{source}` {str(error).splitlines()[0]}."
            ) from error
    return [
        "a `_target_` that is read from a file must make an encoder, method, data set or protocol "
        f"of this project, torchvision or timm, but `{path}` in `{source}` is {target}; add {FLAG} "
        "if you trust whoever wrote that file."
        for target, path in wrong.items()
    ]


def _foreign(config: Any) -> dict[str, str]:
    """Return target -> the first path at which it stands, of targets that are not known."""
    wrong: dict[str, str] = {}
    for path, target in targets(config):
        if not (isinstance(target, str) and is_known(target)):
            wrong.setdefault(repr(target)[:80], path)
    return wrong


def without_downloads(node: Any) -> Any:
    """Return a plain configuration in which nothing may be downloaded; ids stay as they are."""
    if isinstance(node, Mapping):
        return {
            key: False if key == "download" else without_downloads(value)
            for key, value in node.items()
        }
    return [without_downloads(item) for item in node] if isinstance(node, list) else node


def strangers(node: Any, allowed: Collection[Path], path: str = "") -> Iterator[tuple[str, Path]]:
    """Yield (key, place) of what a resolved configuration would download to outside of folders.

    Args:
        node: resolved.
        allowed: the folders, resolved.
        path: of the node.
    """
    if isinstance(node, list | tuple):
        for place, value in enumerate(node):
            yield from strangers(value, allowed, f"{path}[{place}]")
    if not isinstance(node, Mapping):
        return
    for key, value in node.items():
        here = f"{path}.{key}" if path else str(key)
        if key in ("path", "root") and node.get("download") and isinstance(value, str):
            if not is_inside(Path(value), allowed):
                yield here, Path(value)
        else:
            yield from strangers(value, allowed, here)


def is_inside(path: Path, folders: Collection[Path]) -> bool:
    """Return whether a path lies in one of some resolved folders, links followed."""
    return any(path.expanduser().resolve().is_relative_to(folder) for folder in folders)
